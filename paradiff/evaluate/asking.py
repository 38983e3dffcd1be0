"""Many questions to a model, in batches of one shape."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from paradiff import outputs as outputs_lib
from paradiff import pipeline as pipeline_lib
from paradiff.data import images
from paradiff.diffusion import settings


def ask(
  pipeline: pipeline_lib.ParallelPipeline,
  prompts: Sequence[str],
  pictures: Sequence[images.Source | None],
  *,
  seed: int = 0,
  config: settings.SamplerConfig | None = None,
  batch_size: int = 25,
  on_progress: Callable[[int, int], None] | None = None,
) -> list[outputs_lib.Output]:
  """Ask for every prompt, in batches that few programs serve.

  A model of several picture sizes is asked by size; the last batch of a size is
  filled up.

  Args:
    pipeline: the model.
    prompts: what to ask for.
    pictures: the input of each, or None to draw from words.
    seed: of the sampler; batch i uses seed + i.
    config: sampler settings; default: the variant's.
    batch_size: prompts a batch.
    on_progress: called with (prompts done, all prompts) after each batch.
  """
  outputs: dict[int, outputs_lib.Output] = {}
  batches = _batches(
    pictures, batch_size=batch_size, by_shape=bool(pipeline.variant.tasks)
  )
  for number, (rows, num_fill) in enumerate(batches):
    made = pipeline(
      [prompts[row] for row in rows + rows[:1] * num_fill],
      [pictures[row] for row in rows + rows[:1] * num_fill],
      seed=seed + number,
      config=config,
    )
    outputs |= dict(zip(rows, made[: len(rows)], strict=True))
    if on_progress is not None:
      on_progress(len(outputs), len(prompts))
  return [outputs[row] for row in range(len(prompts))]


def _batches(
  pictures: Sequence[images.Source | None], *, batch_size: int, by_shape: bool
) -> Iterator[tuple[list[int], int]]:
  """Yield the rows of each batch, and how many are missing to fill it."""
  groups: dict[Any, list[int]] = {}
  for row, picture in enumerate(pictures):
    shape = getattr(picture, "shape", None) if by_shape else None
    groups.setdefault(shape, []).append(row)
  for group in groups.values():
    size = min(batch_size, len(group))
    for first in range(0, len(group), size):
      rows = group[first : first + size]
      yield rows, size - len(rows)
