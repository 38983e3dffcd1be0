"""Many questions to a model, in batches of one shape."""

from collections.abc import Callable, Sequence

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
  """Ask for every prompt; the last batch is filled up, so one program serves.

  Args:
    pipeline: the model.
    prompts: what to ask for.
    pictures: the input of each, or None to draw from words.
    seed: of the sampler; batch i uses seed + i.
    config: sampler settings; default: the variant's.
    batch_size: prompts a batch.
    on_progress: called with (prompts done, all prompts) after each batch.
  """
  outputs: list[outputs_lib.Output] = []
  batch_size = min(batch_size, len(prompts))
  for number, first in enumerate(range(0, len(prompts), batch_size)):
    rows = list(range(first, min(first + batch_size, len(prompts))))
    num_rows = len(rows)
    rows += rows[:1] * (batch_size - num_rows)
    made = pipeline(
      [prompts[row] for row in rows],
      [pictures[row] for row in rows],
      seed=seed + number,
      config=config,
    )
    outputs += made[:num_rows]
    if on_progress is not None:
      on_progress(len(outputs), len(prompts))
  return outputs
