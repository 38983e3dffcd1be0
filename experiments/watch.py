"""Scores and samples while a model trains."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from experiments import options
from experiments import processes
from paradiff import metrics
from paradiff import pipeline as pipeline_lib
from paradiff.data import images
from paradiff.evaluate import scenes as evaluate_lib
from paradiff.scenes import benchmark
from paradiff.scenes import render
from paradiff.scenes import rules

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
  *,
  tasks: Sequence[rules.Example],
  step: int,
  writer: metrics.Writer | metrics.Silent,
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
  shown = spread(list(zip(tasks, outputs, strict=True)), config.num_samples)
  show(
    [
      (
        None if task.source is None else render.render(task.source),
        output.picture,
        render.render(task.target),
      )
      for task, output in shown
    ],
    [(task.prompt, output.text, task.reasoning) for task, output in shown],
    step=step,
    writer=writer,
  )
  return means


def _on_white(picture: np.ndarray, height: int, width: int) -> np.ndarray:
  """Return a picture uint8[H, W, 3] in the middle of a larger one."""
  sheet = np.full((height, width, 3), 255, np.uint8)
  top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
  sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
  return sheet


def show(
  pictures: Sequence[tuple[np.ndarray | None, np.ndarray, np.ndarray]],
  texts: Sequence[tuple[str, str, str]],
  *,
  step: int,
  writer: metrics.Writer | metrics.Silent,
) -> None:
  """Write samples as one picture and one text, and as files of the workdir.

  Args:
    pictures: source (or None), output and target uint8[H, W, 3] of each; they
      stand below each other, a sample a column, on white where they differ in
      size.
    texts: prompt, output and target of each.
    step: updates done.
    writer: gets them.
  """
  if not processes.is_first():
    return
  sides = [picture.shape[:2] for _, *others in pictures for picture in others]
  height, width = map(max, zip(*sides, strict=True))
  columns = []
  for source, output, target in pictures:
    if source is None:
      source = np.full_like(target, 255)
    framed = [_on_white(p, height, width) for p in (source, output, target)]
    columns.append(np.concatenate(framed))
  grid = np.concatenate(columns, axis=1)
  told = "\n\n".join(
    f"    {prompt}\n    output: {output}\n    target: {target}"
    for prompt, output, target in texts
  )
  writer.write_images(step, {"samples/source_output_target": grid})
  writer.write_texts(step, {"samples/prompt_output_target": told})
  folder = writer.workdir / "samples"
  images.save_picture(grid, folder / f"{step:07d}.png")
  images.write_atomically(folder / f"{step:07d}.txt", f"{told}\n".encode())
