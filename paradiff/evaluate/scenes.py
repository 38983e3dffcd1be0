"""A model on the scenes benchmark, beside copy-the-input and no training."""

import dataclasses
from collections.abc import Callable, Sequence

import jax

from paradiff import outputs as outputs_lib
from paradiff import pipeline as pipeline_lib
from paradiff import variants
from paradiff.diffusion import settings
from paradiff.evaluate import asking
from paradiff.scenes import render
from paradiff.scenes import rules
from paradiff.scenes import score

Scores = list[dict[str, float]]


def answer(
  pipeline: pipeline_lib.ParallelPipeline,
  examples: Sequence[rules.Example],
  *,
  seed: int = 0,
  config: settings.SamplerConfig | None = None,
  batch_size: int = 25,
  on_progress: Callable[[int, int], None] | None = None,
) -> list[outputs_lib.Output]:
  """Answer every example.

  Args:
    pipeline: the model.
    examples: what to ask.
    seed: of the sampler; batch i uses seed + i.
    config: sampler settings; default: the variant's.
    batch_size: examples a batch.
    on_progress: called with (examples done, all examples) after each batch.
  """
  return asking.ask(
    pipeline,
    [example.prompt for example in examples],
    [
      None if example.source is None else render.render(example.source)
      for example in examples
    ],
    seed=seed,
    config=config,
    batch_size=batch_size,
    on_progress=on_progress,
  )


def score_outputs(
  examples: Sequence[rules.Example], outputs: Sequence[outputs_lib.Output]
) -> Scores:
  """Score each answer on the exact metrics."""
  return [
    score.score(example, output.text, output.picture)
    for example, output in zip(examples, outputs, strict=True)
  ]


def untrained(
  pipeline: pipeline_lib.ParallelPipeline, *, seed: int = 0
) -> pipeline_lib.ParallelPipeline:
  """Return the same model with a transformer that has learned nothing."""
  init = jax.jit(variants.init, static_argnums=0)
  drawn = init(pipeline.variant, jax.random.key(seed))
  return dataclasses.replace(pipeline, params=drawn["transformer"])
