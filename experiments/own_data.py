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
from paradiff.data import buckets as buckets_lib
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
    prompt_lens: lengths below the model's own to which prompts are padded, the
      shortest that has room; as `buckets.Lengths`. Published models only.
    text_lens: likewise those of texts.

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
  prompt_lens: tuple[int, ...] = ()
  text_lens: tuple[int, ...] = ()

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

  @property
  def lengths(self) -> buckets_lib.Lengths:
    """Lengths of the buckets."""
    return buckets_lib.Lengths(self.prompt_lens, self.text_lens)


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
    if config.prompt_lens or config.text_lens:
      raise ValueError(
        f"data.prompt_lens and text_lens must be empty for {variant.name}, "
        f"which has one layout, got {config.prompt_lens=} and "
        f"{config.text_lens=}"
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


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
  """Token rows of one layout.

  Attributes:
    layout: of the rows.
    sources: the rows, with the share of each source.
  """

  layout: layout_lib.Layout
  sources: list[tuple[data_lib.Source, float]]


def load(
  config: DataConfig,
  pipeline: pipeline_lib.ParallelPipeline,
  sources: Sequence[coded_lib.CodedSource],
  *,
  layout: layout_lib.Layout,
  batch_size: int,
  folder: epath.Path,
  stream: TextIO,
) -> tuple[list[Rows], list[token_rows.TokenRows]]:
  """Return token rows by layout, and those held out, a source a layout.

  Args:
    config: what to learn from.
    pipeline: with the tokenizers.
    sources: from `open_folders`.
    layout: from `layout_of`.
    batch_size: examples that a layout of its own is worth.
    folder: where token rows, or what is known of them, are kept.
    stream: where progress is shown, and what is left out.

  Raises:
    ValueError: if a folder has no example that fits the model.
  """
  if config.size:
    scenes = scene_data.DataConfig(size=config.size, seed=config.seed)
    rows = scene_data.load_rows(scenes, pipeline, folder=folder, stream=stream)
    return [Rows(layout, [(rows, 1.0)])], []
  found = [
    bucketed(
      config,
      pipeline,
      source,
      layout=layout,
      least=batch_size,
      folder=folder,
      stream=stream,
    )
    for source in sources
  ]
  apart = [] if config.held_out is None else found.pop()
  by_layout: dict[layout_lib.Layout, Rows] = {}
  totals = [sum(map(len, parts)) for parts in found]
  shares = config.shares or totals
  for parts, share, total in zip(found, shares, totals, strict=True):
    for part in parts:
      own = by_layout.setdefault(part.layout, Rows(part.layout, []))
      own.sources.append((part, share * len(part) / total))
  return list(by_layout.values()), apart


def _measured(
  pipeline: pipeline_lib.ParallelPipeline,
  source: coded_lib.CodedSource,
  *,
  words: str,
  folder: epath.Path,
  stream: TextIO,
) -> dict[str, np.ndarray]:
  """Return what `token_rows.measure` does, made once and kept."""

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
  return caching.cached(folder, f"lengths_{key}", measure)


def bucketed(
  config: DataConfig,
  pipeline: pipeline_lib.ParallelPipeline,
  source: coded_lib.CodedSource,
  *,
  layout: layout_lib.Layout,
  least: int,
  folder: epath.Path,
  stream: TextIO,
) -> list[token_rows.TokenRows]:
  """Return the rows of those examples that the model has room for, by layout.

  Raises:
    ValueError: if there are none, or a length is wrong.
  """
  variant, task = pipeline.variant, task_of(config, pipeline.variant)
  words = token_rows.PLAIN if task is None else task.prompt
  measures = _measured(
    pipeline, source, words=words, folder=folder, stream=stream
  )
  kept, left_out = token_rows.fitting(
    measures,
    layout,
    grids=grids_of(variant, task),
    is_edit=task is not None and task.has_source,
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
  found = buckets_lib.split(
    measures, kept, layout, lengths=config.lengths, least=least
  )
  stream.write(f"{source.folder}:\n{buckets_lib.table(found)}")
  return [
    token_rows.TokenRows(
      source=source,
      kept=bucket.kept,
      layout=bucket.layout,
      vocab=variant.vocab,
      text_tokenizer=pipeline.text_tokenizer,
      words=words,
    )
    for bucket in found
  ]


def grids_of(
  variant: variants.Variant, task: tasks_lib.Task | None
) -> list[layout_lib.Grid] | None:
  """Return the grids of all pictures that a task reads; None for one grid."""
  if task is None:
    return None
  pictures = variant.pictures
  return [
    (height // pictures.factor, width // pictures.factor)
    for width, height in task.sizes(pictures.picture_size)
  ]
