"""Where prompt, input picture, output picture and text stand in a sequence.

A sequence is a prefix that is given and an answer that is denoised. A layout
names their parts in order; left to itself it has the order of
MMaDA-Parallel-M:

  prefix  [task] [soi] source codes [eoi] [bos] prompt [eos] padding
  answer  [soi] codes [eoi] [bos] text

Spans are constants of the layout and never searched for. What is absent (an
input picture that is not there, or dropped for guidance) does not take part at
all: its columns are False in `prefix_valid`, or are cut away where all rows
lack it.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from paradiff import vocab as vocab_lib

Grid = tuple[int, int]
SLOTS = ("task", "source", "prompt", "image", "text")
PREFIX = ("task", "source", "bos", "prompt")
ANSWER = ("image", "bos", "text")
PADDINGS = ("attended", "left_out")
NULL_SOURCES = ("absent", "zeros")


def _tuples(value: Any) -> Any:
  """Return lists at any depth as tuples."""
  return (
    tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
  )


@dataclasses.dataclass(frozen=True)
class Layout:
  """Static sizes of a sequence and the order of its parts.

  A part is a slot of SLOTS or a mark of the vocabulary by the name of its
  field, `bos` for `bos_id`. Pictures stand between `soi` and `eoi`.

  Attributes:
    grid: rows and columns of the output's codes; None for text alone.
    prompt_len: tokens of the prompt with its `eos` and padding.
    text_len: tokens of the answer's text with its end and padding; 0 for a
      picture alone.
    prefix: parts before the answer. The slot `task` holds `edit` where there
      is an input picture and `generate` where there is none.
    answer: parts of the answer.
    source_grids: rows and columns of each input picture; None for one picture
      of the output's grid.
    row_ends: whether each row of codes ends with `newline`.
    prompt_ends: whether a prompt ends with `eos`.
    padding: "attended" or "left_out", what becomes of the padding of prompts.
      Attended padding is part of what a model was trained on; padding that is
      left out gives a prompt the values that it has alone.
    null_prompt: ids of the prompt where it is dropped.
    null_source: "absent" or "zeros" (id 0 in place of every code), what a
      dropped input picture leaves.

  Raises:
    ValueError: if sizes are not positive or parts contradict each other.
  """

  grid: Grid | None
  prompt_len: int
  text_len: int
  prefix: tuple[str, ...] = PREFIX
  answer: tuple[str, ...] = ANSWER
  source_grids: tuple[Grid, ...] | None = None
  row_ends: bool = False
  prompt_ends: bool = True
  padding: str = "attended"
  null_prompt: tuple[int, ...] = ()
  null_source: str = "absent"

  def __post_init__(self) -> None:
    for name in ("grid", "prefix", "answer", "source_grids", "null_prompt"):
      # Lists come from json.
      object.__setattr__(self, name, _tuples(getattr(self, name)))
    grids = [*self.sources, *([] if self.grid is None else [self.grid])]
    sizes = [side for grid in grids for side in grid]
    if min(*sizes, self.prompt_len, 1) < 1 or self.text_len < 0:
      raise ValueError(f"layout sizes must be positive, got {self}")
    for name, allowed in (
      ("padding", PADDINGS),
      ("null_source", NULL_SOURCES),
    ):
      if getattr(self, name) not in allowed:
        raise ValueError(
          f"{name} must be one of {allowed}, got {getattr(self, name)!r}"
        )
    for slot, wanted, parts, others in (
      ("image", self.grid is not None, self.answer, self.prefix),
      ("text", self.text_len > 0, self.answer, self.prefix),
      ("source", bool(self.sources), self.prefix, self.answer),
      ("prompt", True, self.prefix, self.answer),
    ):
      if parts.count(slot) != wanted or slot in others:
        raise ValueError(
          f"the slot {slot!r} must occur {int(wanted)} times, got {self}"
        )
    if self.grid is None and self.text_len == 0:
      raise ValueError(f"an answer must have a picture or a text, got {self}")

  @property
  def sources(self) -> tuple[Grid, ...]:
    """Grid of each input picture."""
    if self.source_grids is not None:
      return self.source_grids
    has_one = "source" in self.prefix and self.grid is not None
    return (self.grid,) if has_one and self.grid is not None else ()

  @property
  def image_len(self) -> int:
    """Codes of the output picture, N."""
    return 0 if self.grid is None else self.grid[0] * self.grid[1]

  def _picture_len(self, grid: Grid) -> int:
    """Return the tokens of a picture with its marks."""
    return grid[0] * (grid[1] + self.row_ends) + 2

  def part_len(self, part: str) -> int:
    """Return the tokens of a part."""
    match part:
      case "source":
        return sum(self._picture_len(grid) for grid in self.sources)
      case "prompt":
        return self.prompt_len
      case "image":
        return 0 if self.grid is None else self._picture_len(self.grid)
      case "text":
        return self.text_len
      case _:
        return 1

  def _span(self, slot: str) -> slice:
    """Return the columns of a slot, within prefix or answer."""
    start = 0
    for part in self.prefix if slot in self.prefix else self.answer:
      if part == slot:
        return slice(start, start + self.part_len(part))
      start += self.part_len(part)
    return slice(0, 0)  # the answer has no such part

  @functools.cached_property
  def prefix_len(self) -> int:
    """Tokens before the answer, P."""
    return sum(map(self.part_len, self.prefix))

  @functools.cached_property
  def answer_len(self) -> int:
    """Tokens of the answer, A."""
    return sum(map(self.part_len, self.answer))

  @functools.cached_property
  def source_span(self) -> slice:
    """Prefix columns of the input pictures with their marks."""
    return self._span("source")

  @functools.cached_property
  def prompt_span(self) -> slice:
    """Prefix columns of the prompt with `eos` and padding."""
    return self._span("prompt")

  @functools.cached_property
  def columns_without_source(self) -> np.ndarray:
    """int32[n]: prefix columns of a sequence without input picture."""
    span = self.source_span
    kept = np.r_[0 : span.start, span.stop : self.prefix_len]
    return kept.astype(np.int32)

  def _code_index(self, grid: Grid, start: int) -> np.ndarray:
    """Return int32[codes]: columns of a picture's codes in raster order."""
    rows = start + 1 + np.arange(grid[0]) * (grid[1] + self.row_ends)
    columns = rows[:, None] + np.arange(grid[1])[None, :]
    return columns.reshape(-1).astype(np.int32)

  @functools.cached_property
  def source_index(self) -> np.ndarray:
    """int32[codes]: prefix columns of all input pictures' codes."""
    start, pieces = self.source_span.start, [np.zeros(0, np.int32)]
    for grid in self.sources:
      pieces.append(self._code_index(grid, start))
      start += self._picture_len(grid)
    return np.concatenate(pieces)

  @functools.cached_property
  def image_index(self) -> np.ndarray:
    """int32[N]: answer columns of the picture, raster order."""
    if self.grid is None:
      return np.zeros(0, np.int32)
    return self._code_index(self.grid, self._span("image").start)

  @functools.cached_property
  def text_index(self) -> np.ndarray:
    """int32[T]: answer columns of the text."""
    span = self._span("text")
    return np.arange(span.start, span.stop, dtype=np.int32)

  @functools.cached_property
  def null_prompt_len(self) -> int:
    """Columns of a dropped prompt: those of its tokens, or all of them."""
    if self.padding == "attended":
      return self.prompt_len
    return len(self.null_prompt) + self.prompt_ends

  def null_prefix_len(self, *, text: bool, image: bool) -> int:
    """Tokens of the prefix that `sequence.drop` returns."""
    length = self.prefix_len
    if text:
      length += self.null_prompt_len - self.prompt_len
    if image and self.null_source == "absent":
      length -= self.source_span.stop - self.source_span.start
    return length


def picture_tokens(
  layout: Layout, vocab: vocab_lib.Vocab, grid: Grid, tokens: np.ndarray
) -> np.ndarray:
  """Frame the tokens int[rows * columns] of a picture with its marks."""
  rows = np.asarray(tokens).reshape(grid)
  if layout.row_ends:
    ends = np.full((grid[0], 1), vocab.id_of("newline"))
    rows = np.concatenate([rows, ends], axis=1)
  marks = [vocab.id_of("soi")], [vocab.id_of("eoi")]
  return np.concatenate([marks[0], rows.reshape(-1), marks[1]])
