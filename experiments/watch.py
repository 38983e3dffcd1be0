"""Scores and samples while a model trains."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

from experiments import options
from paradiff import metrics
from paradiff import outputs as outputs_lib
from paradiff import pipeline as pipeline_lib
from paradiff.evaluate import scenes as evaluate_lib
from paradiff.scenes import benchmark
from paradiff.scenes import render
from paradiff.scenes import rules
from paradiff.scenes import world

T = TypeVar("T")


def spread(items: Sequence[T], count: int) -> tuple[T, ...]:
  """Return `count` items at even distances, so every category has its share."""
  picked = np.linspace(0, len(items) - 1, min(count, len(items)))
  return tuple(items[round(i)] for i in picked)


def tasks_of(config: options.EvaluateConfig) -> tuple[rules.Example, ...]:
  """Return the tasks that a run is scored on."""
  return spread(benchmark.build(seed=config.seed), config.num_tasks)


def evaluate(
  config: options.EvaluateConfig,
  pipeline: pipeline_lib.ParallelPipeline,
  tasks: Sequence[rules.Example],
  *,
  step: int,
  writer: metrics.Writer,
) -> dict[str, float]:
  """Score a model, write scores and samples, and return the scores.

  Args:
    config: the settings.
    pipeline: the model.
    tasks: what to score it on, from `tasks_of`.
    step: updates done.
    writer: gets scores, pictures and texts; files go into its workdir.

  Returns:
    Means by name, `eval/output_alignment` for instance; tasks that leave a
    choice apart from the others, under names that end in `_free`.
  """
  outputs = evaluate_lib.answer(pipeline, tasks)
  scores = evaluate_lib.score_outputs(tasks, outputs)
  means = {}
  for is_free in (False, True):
    rows = [
      row
      for row, task in zip(scores, tasks, strict=True)
      if task.is_free == is_free
    ]
    suffix = "_free" if is_free else ""
    for name in rows[0] if rows else ():
      # Not a number: the metric does not apply to the task.
      values = [row[name] for row in rows if np.isfinite(row[name])]
      if values:
        means[f"eval/{name}{suffix}"] = float(np.mean(values))
  writer.write_scalars(step, means)
  pairs = list(zip(tasks, outputs, strict=True))
  _show(spread(pairs, config.num_samples), step=step, writer=writer)
  return means


def _show(
  pairs: Sequence[tuple[rules.Example, outputs_lib.Output]],
  *,
  step: int,
  writer: metrics.Writer,
) -> None:
  """Write source, output and target below each other, a task a column."""
  blank = np.full((world.PICTURE_SIZE, world.PICTURE_SIZE, 3), 255, np.uint8)
  columns = []
  for task, output in pairs:
    source = blank if task.source is None else render.render(task.source)
    target = render.render(task.target)
    columns.append(np.concatenate([source, output.picture, target]))
  grid = np.concatenate(columns, axis=1)
  texts = "\n\n".join(
    f"    {task.prompt}\n    output: {output.text}"
    f"\n    target: {task.reasoning}"
    for task, output in pairs
  )
  writer.write_images(step, {"samples/source_output_target": grid})
  writer.write_texts(step, {"samples/prompt_output_target": texts})
  folder = writer.workdir / "samples"
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / f"{step:07d}.png").open("wb") as file:
    Image.fromarray(grid).save(file, "PNG")
  (folder / f"{step:07d}.txt").write_text(texts + "\n")
