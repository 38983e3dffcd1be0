"""Examples of like size together: little padding, and pictures of many sizes.

A bucket is a layout and the examples that have it. Batches are of one bucket
each, so a step is compiled once a bucket and not once a size.

A prompt in a shorter bucket has less padding behind it. Where a layout leaves
padding out nothing else changes: a row has the loss that it has in the longest
bucket. A text in a shorter bucket has fewer ends behind it to learn, as in the
batches of LLaDA (arXiv 2502.09992, appendix B.1).
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from paradiff import layout as layout_lib


@dataclasses.dataclass(frozen=True)
class Lengths:
  """How long prompts and texts may be beside the model's own lengths.

  Attributes:
    prompt: tokens of prompts with their ends, any order.
    text: tokens of answers' texts with an end.
  """

  prompt: tuple[int, ...] = ()
  text: tuple[int, ...] = ()

  def of(
    self, layout: layout_lib.Layout
  ) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return all lengths of both, rising, the layout's own last.

    Raises:
      ValueError: if one is longer than the model's, or has no room for the
        end or the words that stand in for a dropped prompt.
    """
    found = []
    null_len = len(layout.null_prompt) + layout.prompt_ends
    for name, given, least, own in (
      ("prompt_lens", self.prompt, max(1, null_len), layout.prompt_len),
      ("text_lens", self.text, 1, layout.text_len),
    ):
      if given and not least <= min(given) <= max(given) <= own:
        raise ValueError(
          f"{name} must lie in [{least}, {own}], from what a dropped one takes "
          f"to the model's own, got {given}"
        )
      found.append(tuple(sorted({*given, own})))
    return found[0], found[1]


@dataclasses.dataclass(frozen=True, eq=False)
class Bucket:
  """Examples of one layout.

  Attributes:
    layout: the sizes of their rows.
    kept: int64[n], their numbers, in order.
    num_padded: tokens of all rows that are padding of prompts and texts.
  """

  layout: layout_lib.Layout
  kept: np.ndarray
  num_padded: int

  @property
  def row_len(self) -> int:
    """Tokens of a row."""
    return self.layout.prefix_len + self.layout.answer_len


def split(
  measures: Mapping[str, np.ndarray],
  kept: np.ndarray,
  layout: layout_lib.Layout,
  *,
  lengths: Lengths = Lengths(),
  least: int = 1,
) -> list[Bucket]:
  """Put examples into the smallest buckets that hold them.

  Args:
    measures: as `token_rows.measure` gives them.
    kept: int64[n], at least one, the examples that the model has room for.
    layout: the model's, the largest.
    lengths: of prompts and texts.
    least: examples of a bucket worth having; those of a smaller one are moved
      to the next longer one of the same pictures. A batch of few examples
      would show each of them many times.

  Returns:
    The buckets, by grid and then by length.
  """
  prompt_lens, text_lens = lengths.of(layout)
  prompts = measures["instruction_len"] + layout.prompt_ends
  texts = measures["reasoning_len"] + 1
  grids = measures["target_grid"]
  places = list(itertools.product(prompt_lens, text_lens))
  found = []
  for grid in sorted({(int(rows), int(cols)) for rows, cols in grids[kept]}):
    left = kept[(grids[kept] == grid).all(axis=1)]
    for prompt_len, text_len in places:
      fits = (prompts[left] <= prompt_len) & (texts[left] <= text_len)
      is_last = (prompt_len, text_len) == places[-1]
      if not fits.any() or (fits.sum() < least and not is_last):
        continue
      rows, left = left[fits], left[~fits]
      padded = prompt_len - prompts[rows] + text_len - texts[rows]
      shape = _shaped(layout, grid, prompt_len=prompt_len, text_len=text_len)
      found.append(Bucket(shape, rows, int(padded.sum())))
  return found


def _shaped(
  layout: layout_lib.Layout,
  grid: layout_lib.Grid,
  *,
  prompt_len: int,
  text_len: int,
) -> layout_lib.Layout:
  """Return the layout of other sizes; input pictures have the output's."""
  sources = layout.source_grids
  return dataclasses.replace(
    layout,
    grid=grid,
    prompt_len=prompt_len,
    text_len=text_len,
    source_grids=None if sources is None else (grid,) * len(sources),
  )


def table(found: Sequence[Bucket]) -> str:
  """Return a line a bucket, and how much of all rows is padding."""
  num_tokens = sum(b.row_len * len(b.kept) for b in found)
  padded = sum(b.num_padded for b in found) / num_tokens
  lines = [
    f"{len(b.kept):8} examples: pictures of {b.layout.grid[0]}x"
    f"{b.layout.grid[1]}, prompts of {b.layout.prompt_len}, texts of "
    f"{b.layout.text_len}: {b.row_len} tokens"
    for b in found
    if b.layout.grid is not None
  ]
  return "\n".join([*lines, f"{padded:8.1%} of all tokens are padding"]) + "\n"
