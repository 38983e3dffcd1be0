"""From what somebody asks to arrays: prompts and pictures as one batch.

All rows of a batch share one layout. Where prompts have buckets and pictures
have sizes, the layout follows from the request: the shortest bucket that holds
every prompt, the legal size nearest to the picture.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paradiff import layout as layout_lib
from paradiff import sequence
from paradiff import tasks
from paradiff import variants
from paradiff.data import crops
from paradiff.data import images
from paradiff.data import painting
from paradiff.data import text as text_lib
from paradiff.diffusion import settings

PROMPT_BUCKETS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
Encode = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
  """A batch ready for the sampler.

  Attributes:
    layout: where things stand.
    condition: prefix int32[B, P].
    answer: int32[B, A], `mask_id` where a token is wanted.
    config: sampler settings.
    sources: the input pictures uint8[H, W, 3] of each row as the model sees
      them, cropped or squashed; none where it sees a blank one.
  """

  layout: layout_lib.Layout
  condition: sequence.Condition
  answer: jax.Array
  config: settings.SamplerConfig
  sources: tuple[tuple[np.ndarray, ...], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Maker:
  """What requests are made with.

  Attributes:
    variant: the model as data.
    text_tokenizer: words to ids.
    encode: pictures uint8[B, H, W, 3] to codes int32[B, codes].
  """

  variant: variants.Variant
  text_tokenizer: text_lib.TextTokenizer
  encode: Encode

  def make(
    self,
    prompts: Sequence[str],
    pictures: Sequence[Any | None],
    *,
    task: str | tasks.Task | None = None,
    size: tuple[int, int] | None = None,
    text_len: int | None = None,
    mask: Any | None = None,
    config: settings.SamplerConfig | None = None,
  ) -> Request:
    """Make a batch of any model; see `ParallelPipeline.request`."""
    for name, given in (("prompts", prompts), ("pictures", pictures)):
      if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(
          f"{name} must be a list, got {type(given).__name__}; edit() and "
          "generate() take one"
        )
    if len(prompts) != len(pictures) or not prompts:
      raise ValueError(
        "there must be as many pictures as prompts and at least one, got "
        f"{len(pictures)} and {len(prompts)}"
      )
    if not self.variant.tasks:
      asked = {"size": size, "text_len": text_len, "mask": mask}
      named = [name for name, value in asked.items() if value is not None]
      if named or task not in (None, "edit", "generate"):
        raise ValueError(
          f"{self.variant.name} edits or generates in one size, got "
          f"{task=} and {named}"
        )
      return self.plain(prompts, pictures, config)
    return self.shaped(
      self.variant.task_for(task, has_picture=pictures[0] is not None),
      prompts,
      pictures,
      size=size,
      text_len=text_len,
      mask=mask,
      config=config,
    )

  def plain(
    self,
    prompts: Sequence[str],
    pictures: Sequence[Any | None],
    config: settings.SamplerConfig | None,
  ) -> Request:
    """Make a batch of a model with one layout, as the small ones have."""
    layout, vocab = self.variant.layout, self.variant.vocab
    ids = [
      self.text_tokenizer.encode(prompt, max_len=layout.prompt_len - 1)
      for prompt in prompts
    ]
    size = self.variant.pictures.picture_size
    loaded = [
      None if p is None else images.load_picture(p, size=size) for p in pictures
    ]
    blank = np.zeros((size, size, 3), np.uint8)
    codes = self.encode(np.stack([blank if p is None else p for p in loaded]))
    rows = [
      sequence.encode_prefix(
        layout,
        vocab,
        prompt_ids=prompt_ids,
        source_codes=None if picture is None else row,
      )
      for prompt_ids, picture, row in zip(ids, loaded, codes, strict=True)
    ]
    return Request(
      layout=layout,
      condition=_stack(rows),
      answer=_tile(sequence.encode_answer(layout, vocab), len(prompts)),
      config=config or self.variant.sampler,
      sources=tuple(() if p is None else (p,) for p in loaded),
    )

  def shaped(
    self,
    task: tasks.Task,
    prompts: Sequence[str],
    pictures: Sequence[Any | None],
    *,
    size: tuple[int, int] | None = None,
    text_len: int | None = None,
    mask: Any | None = None,
    config: settings.SamplerConfig | None = None,
  ) -> Request:
    """Make a batch of a published model.

    Args:
      task: what is asked for.
      prompts: B instructions or questions.
      pictures: B pictures as `data.images.open_picture` takes them, or tuples
        of several; None for a task without an input picture.
      size: height and width of the output in pixels; default: the input's.
      text_len: tokens of the answer's text; default: the model's.
      mask: bool[rows, columns] of the output's codes, or a picture with white
        where it is to be painted; the rest keeps the input's codes.
      config: sampler settings; default: the task's or the model's.

    Raises:
      ValueError: if a prompt is too long, a picture or size is not legal, or
        pictures of one batch come to different sizes.
    """
    variant, vocab = self.variant, self.variant.vocab
    _check_parts(task, text_len=text_len, size=size, mask=mask)
    text_len = variant.layout.text_len if text_len is None else text_len
    config = config or task.sampler or variant.sampler
    sources = self._sources(task, pictures)
    grid = None
    if task.has_picture:
      grid = self._output_grid(task, sources, size)
    ids = [
      self.text_tokenizer.encode_between(
        task.prompt, prompt, max_len=PROMPT_BUCKETS[-1] - 1
      )
      for prompt in prompts
    ]
    layout = self._layout(task, config, ids, sources, grid, text_len)
    # Each input picture of all rows at once; then by row again.
    by_place = [self.encode(np.stack(p)) for p in zip(*sources, strict=True)]
    codes = [[place[i] for place in by_place] for i in range(len(prompts))]
    rows = [
      sequence.encode_prefix(
        layout, vocab, prompt_ids=prompt, source_codes=row or None
      )
      for prompt, row in zip(ids, codes, strict=True)
    ]
    answer = _tile(sequence.encode_answer(layout, vocab), len(prompts))
    if mask is not None:
      answer = self._painted(layout, mask, pictures, codes, task)
    return Request(
      layout=layout,
      condition=_stack(rows),
      answer=answer,
      config=config,
      sources=tuple(() if task.blank_source else tuple(p) for p in sources),
    )

  def _sources(
    self, task: tasks.Task, pictures: Sequence[Any | None]
  ) -> list[list[np.ndarray]]:
    """Return the prepared input pictures uint8[H, W, 3] of each row."""
    rows: list[list[np.ndarray]] = []
    for picture in pictures:
      given: list[Any] = []
      if picture is not None:
        given = list(picture) if isinstance(picture, tuple) else [picture]
      wants_one = task.has_source and not task.blank_source
      if bool(given) != wants_one:
        raise ValueError(
          f"{task.name} must have {'a' if wants_one else 'no'} picture, got "
          f"{len(given)}"
        )
      if task.blank_source:
        side = self.variant.pictures.picture_size
        given = [np.zeros((side, side, 3), np.uint8)]
      rows.append([self._fitted(p, task) for p in given])
    shapes = {tuple(p.shape[:2] for p in row) for row in rows}
    if len(shapes) != 1:
      raise ValueError(
        "pictures of one batch must come to one size, got (height, width) "
        f"{sorted(shapes)}; ask for them one by one"
      )
    return rows

  def _fitted(self, picture: Any, task: tasks.Task) -> np.ndarray:
    sizes = task.sizes(self.variant.pictures.picture_size)
    return crops.load(picture, sizes, mode=task.mode)

  def _grid(self, height: int, width: int) -> layout_lib.Grid:
    factor = self.variant.pictures.factor
    return (height // factor, width // factor)

  def _output_grid(
    self,
    task: tasks.Task,
    sources: list[list[np.ndarray]],
    size: tuple[int, int] | None,
  ) -> layout_lib.Grid:
    config = self.variant.pictures
    if size is not None:
      if not isinstance(size, tuple) or len(size) != 2:
        raise TypeError(f"size must be (height, width), got {size!r}")
      height, width = size
      crops.check_size(height=height, width=width, multiple=config.factor)
      return self._grid(height, width)
    if sources[0] and not task.blank_source:
      return self._grid(*sources[0][0].shape[:2])
    return self._grid(config.picture_size, config.picture_size)

  def _layout(
    self,
    task: tasks.Task,
    config: settings.SamplerConfig,
    prompts: Sequence[Sequence[int]],
    sources: list[list[np.ndarray]],
    grid: layout_lib.Grid | None,
    text_len: int,
  ) -> layout_lib.Layout:
    base, quirks = self.variant.layout, config.quirks
    lengths = {len(ids) + task.prompt_ends for ids in prompts}
    bucket = min(b for b in PROMPT_BUCKETS if b >= max(lengths))
    if quirks.overwrite_prefix or quirks.attended_padding:
      # The published programs know no padding but that of null prompts.
      if len(lengths) > 1:
        raise ValueError(
          "prompts of one batch must have one length under these settings, "
          f"got {sorted(lengths)} tokens"
        )
      bucket = max(lengths)
    null: list[int] = []
    if task.null_prompt:
      null = self.text_tokenizer.encode_marked(task.null_prompt)
    layout = task.layout(
      base,
      prompt_len=bucket,
      text_len=text_len,
      grid=grid,
      source_grids=tuple(self._grid(*p.shape[:2]) for p in sources[0]),
      null_prompt=tuple(null),
    )
    if quirks.attended_padding:
      layout = dataclasses.replace(layout, padding="attended")
    return layout

  def _painted(
    self,
    layout: layout_lib.Layout,
    mask: Any,
    pictures: Sequence[Any],
    codes: list[list[np.ndarray]],
    task: tasks.Task,
  ) -> jax.Array:
    """Return answers whose picture is the input's outside the mask."""
    grid = layout.grid
    if not task.has_source or grid != layout.sources[0]:
      raise ValueError(
        "a mask needs an input picture of the output's size, got codes "
        f"{layout.sources} and {grid}"
      )
    if not (isinstance(mask, np.ndarray) and mask.dtype == bool):
      factor = self.variant.pictures.factor
      mask = painting.from_picture(mask, grid, factor, mode=task.mode)
    if mask.shape != grid:
      raise ValueError(f"a mask must be bool{list(grid)}, got {mask.shape}")
    hidden, rows = mask.reshape(-1), []
    for row in codes:
      answer = sequence.encode_answer(layout, self.variant.vocab, codes=row[0])
      answer[layout.image_index[hidden]] = self.variant.vocab.mask_id
      rows.append(answer)
    return jnp.asarray(np.stack(rows))


def _check_parts(task: tasks.Task, **asked: Any) -> None:
  """Refuse what is asked of a part that the task's answer does not have."""
  for name, value in asked.items():
    has_part = task.has_text if name == "text_len" else task.has_picture
    if value is not None and not has_part:
      raise ValueError(
        f"{name} must be None for {task.name}, whose answer has no such part, "
        f"got {value!r}"
      )
  text_len = asked["text_len"]
  if text_len is not None and (type(text_len) is not int or text_len < 1):
    raise ValueError(f"text_len must be an int >= 1, got {text_len!r}")


def _stack(
  rows: Sequence[tuple[np.ndarray, np.ndarray]],
) -> sequence.Condition:
  prefix, valid = zip(*rows, strict=True)
  return sequence.Condition(
    prefix=jnp.asarray(np.stack(prefix)), valid=jnp.asarray(np.stack(valid))
  )


def _tile(answer: np.ndarray, batch_size: int) -> jax.Array:
  return jnp.asarray(np.tile(answer, (batch_size, 1)))
