"""Random scenes that image tokenizers are trained and tested on."""

import dataclasses
from typing import Any

import numpy as np

from paradiff.scenes import render
from paradiff.scenes import world

LOOKS = tuple(
  (size, colour, shape)
  for size in world.SIZES
  for colour in world.COLOURS
  for shape in world.SHAPES
)


@dataclasses.dataclass(frozen=True)
class ScenesData:
  """Crowded random scenes, drawn anew at every step.

  Attributes:
    seed: of the run.
    batch_size: pictures a step.
    thin_rate: as `train_pictures`.
    finish_thin_rate: the same from step `finish_step` on.
    finish_step: steps done when the decoder begins to train alone.
  """

  seed: int
  batch_size: int
  thin_rate: float
  finish_thin_rate: float
  finish_step: int

  @property
  def identity(self) -> dict[str, Any]:
    """What else than the config defines the pictures: nothing."""
    return {}

  def batch(self, done: int) -> np.ndarray:
    """Return uint8[B, 64, 64, 3] of the step after `done` steps."""
    is_finish = done >= self.finish_step
    return train_pictures(
      np.random.default_rng([self.seed, 0, done]),
      num_pictures=self.batch_size,
      thin_rate=self.finish_thin_rate if is_finish else self.thin_rate,
    )


def random_scene(
  rng: np.random.Generator, *, max_things: int = 7
) -> world.Scene:
  """Draw 0 to `max_things` random objects in distinct random cells."""
  num_things = int(rng.integers(0, max_things + 1))
  cells = rng.choice(world.NUM_CELLS, num_things, replace=False)
  looks = rng.integers(0, len(LOOKS), num_things)
  return world.Scene(
    tuple(
      world.Thing(int(cell), *LOOKS[look])
      for cell, look in zip(cells, looks, strict=True)
    )
  )


def train_pictures(
  rng: np.random.Generator, *, num_pictures: int, thin_rate: float
) -> np.ndarray:
  """Draw crowded pictures in which every look is about equally frequent.

  Args:
    rng: host randomness.
    num_pictures: B.
    thin_rate: in [0, 1], how often a picture keeps only a random share of
      its objects.

  Returns:
    uint8[B, 64, 64, 3].
  """
  num_cells = num_pictures * world.NUM_CELLS
  num_kinds = len(LOOKS) + 1  # 0 is the empty cell
  rounds = [
    rng.permutation(num_kinds) for _ in range(-(-num_cells // num_kinds))
  ]
  kinds = np.concatenate(rounds)[:num_cells].reshape(num_pictures, -1)
  share = np.where(
    rng.random((num_pictures, 1)) < thin_rate,
    rng.random((num_pictures, 1)),
    1.0,
  )
  kinds = np.where(rng.random(kinds.shape) < share, kinds, 0)
  return np.stack([_render(row) for row in kinds])


def _render(kinds: np.ndarray) -> np.ndarray:
  things = [
    world.Thing(cell, *LOOKS[kind - 1])
    for cell, kind in enumerate(kinds.tolist())
    if kind
  ]
  return render.render(world.Scene(tuple(things)))
