"""How many tokens stay masked at each step: numpy tables made before jit.

One clock runs over S steps for both modalities. After step s the time left is
u = 1 - (s + 1) / S. Text keeps the share u of its masks (linear); the picture
is touched at J of the steps only and keeps the share sin(pi u / 2), which is
cos(pi r / 2) at r = 1 - u (cosine). Training corrupts with the same two
functions of one shared u, so it sees what sampling will show.

Source: arXiv 2511.09611 section 3; MaskGIT, arXiv 2202.04200 section 3.3.
"""

import dataclasses
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The active steps of a sampler run, S' <= S of them.

  Attributes:
    num_steps: S, the length of the clock.
    step: int32[S'], the clock of each active step, ascending.
    image_step: bool[S'], whether the picture is updated.
    image_mask_rate: float32[S'], share of the initial picture masks that stay
      masked; ends at 0.
  """

  num_steps: int
  step: np.ndarray
  image_step: np.ndarray
  image_mask_rate: np.ndarray


def image_mask_rate(u: np.ndarray) -> np.ndarray:
  """Share of picture tokens masked at time left u in [0, 1]: sin(pi u / 2)."""
  return np.sin(0.5 * np.pi * np.asarray(u, np.float64))


def text_remaining(num_masked: Any, *, step: Any, num_steps: int) -> Any:
  """Text tokens that stay masked after `step`: floor(num_masked * u), u >= 0.

  Exact in integers, for numpy and jax arrays alike: of 5 tokens in 4 steps
  3, 2, 1, 0 stay, and none from then on.

  Args:
    num_masked: int32[B] or int, masks at the start.
    step: int32[] or int32[S], the clock, in [0, S).
    num_steps: steps that the text takes, at most S.
  """
  ahead = num_steps - 1 - step
  return num_masked * (ahead * (ahead > 0)) // num_steps


def num_text_steps(*, num_steps: int, text_end_rate: float) -> int:
  """Return the steps that the text takes: ceil(text_end_rate * S).

  Raises:
    ValueError: if the rate is not in (0, 1].
  """
  if not 0 < text_end_rate <= 1:
    raise ValueError(f"text_end_rate must lie in (0, 1], got {text_end_rate}")
  return math.ceil(text_end_rate * num_steps)


def image_steps(
  *, num_steps: int, num_image_steps: int, start_rate: float
) -> np.ndarray:
  """Return the steps at which the picture is updated, ascending int64[J'].

  J evenly spaced points from `int(start_rate * S)` to S - 1, rounded;
  duplicates collapse, so J' <= J. The last step is always one of them.

  Raises:
    ValueError: if a count is not positive or a rate leaves [0, 1).
  """
  if num_steps < 1 or num_image_steps < 1 or not 0 <= start_rate < 1:
    raise ValueError(
      "num_steps and num_image_steps must be positive and start_rate in "
      f"[0, 1), got {num_steps=} {num_image_steps=} {start_rate=}"
    )
  points = np.linspace(
    int(start_rate * num_steps), num_steps - 1, num_image_steps
  )
  points[-1] = num_steps - 1  # also where one point is all there is
  return np.unique(np.rint(points).astype(np.int64))


def make_schedule(
  *,
  num_steps: int,
  num_image_steps: int,
  start_rate: float,
  text_len: int,
  text_end_rate: float = 1.0,
) -> Schedule:
  """Make the tables, leaving out steps on which nothing is committed.

  A step is idle when the picture is not due and not even a fully masked text
  would commit a token: more steps than text tokens cost no extra passes.

  Args:
    num_steps: S, the length of the shared clock.
    num_image_steps: steps at which the picture is updated.
    start_rate: share of the clock before the first picture update.
    text_len: T.
    text_end_rate: share of the clock by which the text is complete.

  Raises:
    ValueError: if a count is not positive or a rate leaves its range.
  """
  due = image_steps(
    num_steps=num_steps,
    num_image_steps=num_image_steps,
    start_rate=start_rate,
  )
  step = np.arange(num_steps)
  text_steps = num_text_steps(num_steps=num_steps, text_end_rate=text_end_rate)
  left = text_remaining(np.int64(text_len), step=step, num_steps=text_steps)
  text_count = -np.diff(left, prepend=text_len)
  is_image = np.isin(step, due)
  active = is_image | (text_count > 0)
  u = 1.0 - (step + 1.0) / num_steps
  return Schedule(
    num_steps=num_steps,
    step=step[active].astype(np.int32),
    image_step=is_image[active],
    image_mask_rate=image_mask_rate(u)[active].astype(np.float32),
  )


@flax.struct.dataclass
class Step:
  """One row of the schedule, or several when scanned over.

  Attributes:
    clock: int32[], the step s.
    is_image_step: bool[], whether the picture is updated.
    image_mask_rate: float32[], share of the picture's masks to leave.
  """

  clock: jax.Array
  is_image_step: jax.Array
  image_mask_rate: jax.Array


def rows(schedule: Schedule, which: slice) -> Step:
  """Return rows of the tables as the arrays that a scan runs over."""
  return Step(
    clock=jnp.asarray(schedule.step[which]),
    is_image_step=jnp.asarray(schedule.image_step[which]),
    image_mask_rate=jnp.asarray(schedule.image_mask_rate[which]),
  )
