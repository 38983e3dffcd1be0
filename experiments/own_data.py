"""What a supervised run learns from: scenes, or folders of own examples."""

import dataclasses
from collections.abc import Sequence
from typing import TextIO

import jax
import numpy as np
from etils import epath

from experiments import scene_data
from paradiff import layout as layout_lib
from paradiff import metrics
from paradiff import pipeline as pipeline_lib
from paradiff import tasks as tasks_lib
from paradiff import variants
from paradiff.data import caching
from paradiff.data import coded as coded_lib
from paradiff.data import pipeline as data_lib
from paradiff.data import token_rows


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """What to learn from: `size` scenes, or `folders`.

  Attributes:
    size: examples drawn from the scenes world; each epoch shows all of them in
      another order.
    seed: of those; the order follows from the run's own seed.
    folders: of `python -m paradiff.data.pretokenize`.
    shares: of the batches that each folder gets, relative to each other;
      default: as many as it has examples.
    held_out: a folder whose examples are never learned from, for the scores
      of runs on own data.
    num_workers: processes that make token rows; 0 to make them in the loop's
      own. The batches are the same.
    task: what a published model is to learn, the name of one of its tasks with
      a text and a picture; default: "edit". Others have one task.

  Raises:
    ValueError: if there are both or neither, or a share is missing.
  """

  size: int = 0
  seed: int = 0
  folders: tuple[str, ...] = ()
  shares: tuple[float, ...] = ()
  held_out: str | None = None
  num_workers: int = 0
  task: str | None = None

  def __post_init__(self) -> None:
    if self.num_workers < 0:
      raise ValueError(
        f"num_workers must be at least 0, got {self.num_workers}"
      )
    if (self.size > 0) == bool(self.folders):
      raise ValueError(
        "data must have either a size, of scenes, or folders, got "
        f"{self.size=} and {self.folders=}"
      )
    if self.shares and (
      len(self.shares) != len(self.folders) or min(self.shares) <= 0
    ):
      raise ValueError(
        "shares must be positive, one a folder, got "
        f"{self.shares} for {self.folders}"
      )


def open_folders(
  config: DataConfig, pipeline: pipeline_lib.ParallelPipeline
) -> tuple[coded_lib.CodedSource, ...]:
  """Open all folders, the held-out one last.

  Raises:
    FileNotFoundError: if one is not complete.
    ValueError: if one has the codes of another image tokenizer.
  """
  names = [*config.folders, *filter(None, [config.held_out])]
  sources = tuple(map(coded_lib.CodedSource, names))
  if not sources:
    return ()
  own = caching.digest(jax.device_get(pipeline.image_params))
  for source in sources:
    if source.facts["image_tokenizer"] != own:
      raise ValueError(
        f"{source.folder} must have the codes of this run's image tokenizer, "
        f"{own}, got those of {source.facts['image_tokenizer']}"
      )
  return sources


def task_of(
  config: DataConfig, variant: variants.Variant
) -> tasks_lib.Task | None:
  """Return what the model is to learn; None for a model of one layout.

  Raises:
    ValueError: if the model has no such task, or learns no text and picture
      together by it.
  """
  if not variant.tasks:
    if config.task is not None:
      raise ValueError(
        f"data.task must be None for {variant.name}, which has one layout, got "
        f"{config.task!r}"
      )
    return None
  task = variant.task(config.task or "edit")
  if not (task.has_text and task.has_picture) or task.blank_source:
    raise ValueError(
      "data.task must be one whose answer has a text and a picture, and no "
      f"blank input, got {task.name!r}"
    )
  if config.size:
    raise ValueError(
      f"{variant.name} must learn from data.folders: it does not speak the "
      f"words of scenes, got {config.size=}"
    )
  return task


def layout_of(
  config: DataConfig, pipeline: pipeline_lib.ParallelPipeline
) -> layout_lib.Layout:
  """Return the layout of the rows that a model learns from.

  Raises:
    ValueError: as `task_of`.
  """
  variant = pipeline.variant
  task, base = task_of(config, variant), variant.layout
  if task is None:
    return base
  null = pipeline.text_tokenizer.encode_marked(task.null_prompt)
  return task_layout(task, base, null_prompt=tuple(null))


def task_layout(
  task: tasks_lib.Task,
  base: layout_lib.Layout,
  *,
  null_prompt: tuple[int, ...],
) -> layout_lib.Layout:
  """Return a task's layout with the sizes of the model's own.

  Args:
    task: what is learned.
    base: the model's layout.
    null_prompt: ids of the prompt's stand-in.
  """
  return task.layout(
    base,
    prompt_len=base.prompt_len,
    text_len=base.text_len,
    grid=base.grid,
    source_grids=(base.grid,) if task.has_source and base.grid else (),
    null_prompt=null_prompt,
  )


def load(
  config: DataConfig,
  pipeline: pipeline_lib.ParallelPipeline,
  sources: Sequence[coded_lib.CodedSource],
  *,
  layout: layout_lib.Layout,
  folder: epath.Path,
  stream: TextIO,
) -> tuple[list[tuple[data_lib.Source, float]], token_rows.TokenRows | None]:
  """Return token rows with the share of each source, and those held out.

  Args:
    config: what to learn from.
    pipeline: with the tokenizers.
    sources: from `open_folders`.
    layout: from `layout_of`.
    folder: where token rows, or what is known of them, are kept.
    stream: where progress is shown, and what is left out.

  Raises:
    ValueError: if a folder has no example that fits the model.
  """
  if config.size:
    scenes = scene_data.DataConfig(size=config.size, seed=config.seed)
    rows = scene_data.load_rows(scenes, pipeline, folder=folder, stream=stream)
    return [(rows, 1.0)], None
  task = task_of(config, pipeline.variant)
  found = [
    fitting(source, pipeline, task, layout=layout, folder=folder, stream=stream)
    for source in sources
  ]
  apart = None if config.held_out is None else found.pop()
  shares = config.shares or tuple(float(len(rows)) for rows in found)
  return list(zip(found, shares, strict=True)), apart


def fitting(
  source: coded_lib.CodedSource,
  pipeline: pipeline_lib.ParallelPipeline,
  task: tasks_lib.Task | None,
  *,
  layout: layout_lib.Layout,
  folder: epath.Path,
  stream: TextIO,
) -> token_rows.TokenRows:
  """Return the rows of those examples that the model has room for.

  Raises:
    ValueError: if there are none.
  """
  words = token_rows.PLAIN if task is None else task.prompt

  def measure() -> dict[str, np.ndarray]:
    progress = metrics.Progress(
      len(source), stream=stream, what="length of example"
    )
    measures = token_rows.measure(
      source,
      pipeline.text_tokenizer,
      words=words,
      on_progress=progress.update,
    )
    progress.close()
    return measures

  key = caching.digest(
    source.digest,
    pipeline.text_tokenizer.fast.backend_tokenizer.to_str(),
    words,
  )
  measures = caching.cached(folder, f"lengths_{key}", measure)
  kept, left_out = token_rows.fitting(
    measures, layout, is_edit=task is not None and task.has_source
  )
  reasons = "".join(f"\n{n:8} {reason}" for reason, n in left_out.items())
  if not len(kept):
    raise ValueError(
      f"{source.folder} must have an example that fits the model, got none "
      f"of {len(source)}:{reasons}"
    )
  if left_out:
    stream.write(
      f"{source.folder}: {len(kept)} of {len(source)} examples fit; left out:"
      f"{reasons}\n"
    )
  return token_rows.TokenRows(
    source=source,
    kept=kept,
    layout=layout,
    vocab=pipeline.variant.vocab,
    text_tokenizer=pipeline.text_tokenizer,
    words=words,
  )
