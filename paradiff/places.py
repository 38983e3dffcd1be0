"""Where each token of a small model's sequence stands, for learned embeddings.

A code stands at its point of the picture, input and output alike, a word at
its number in its text; a second embedding tells the part. The published models
have no such table.
"""

import functools

import numpy as np

from paradiff import layout as layout_lib


def grids(layout: layout_lib.Layout) -> tuple[tuple[int, ...], ...]:
  """Grids of places: codes, prompt, text, and the four parts."""
  if layout.grid is None:
    raise ValueError(f"a layout with places must have a picture, got {layout}")
  return (layout.grid, (layout.prompt_len,), (layout.text_len,), (4,))


@functools.cache
def points(layout: layout_lib.Layout) -> np.ndarray | None:
  """Return int32[P + A, 2]: the points of `grids` at which each token stands.

  The first column is the code or word, the second the part: input picture,
  prompt, output picture, text. Marks stand at their part alone. None for the
  sequences of the published models, which have other parts.
  """
  order = (layout.prefix, layout.answer)
  if order != (layout_lib.PREFIX, layout_lib.ANSWER) or layout.row_ends:
    return None
  if layout.sources != (layout.grid,):
    return None
  codes = np.arange(layout.image_len)
  prompt = layout.image_len + np.arange(layout.prompt_len)
  text = prompt[-1] + 1 + np.arange(layout.text_len)
  source, asked, output, told = text[-1] + 1 + np.arange(4)
  parts = (
    ([asked], [asked]),
    ([source, *codes, source], [source] * (layout.image_len + 2)),
    ([asked, *prompt], [asked] * (layout.prompt_len + 1)),
    ([output, *codes, output], [output] * (layout.image_len + 2)),
    ([told, *text], [told] * (layout.text_len + 1)),
  )
  columns = np.concatenate([np.stack(part, axis=1) for part in parts])
  return columns.astype(np.int32)


def counterparts(
  layout: layout_lib.Layout, other: layout_lib.Layout
) -> np.ndarray:
  """Map each point of the grids to the one of `other`'s that it means.

  A code maps to the code of the other grid that shows the same part of the
  picture, the n-th word of a text to the n-th word or the last. From a 2x2
  grid to a 1x1 grid all four codes map to the one.

  Args:
    layout: sizes of the sequence.
    other: sizes of the other sequence.

  Returns:
    int32[points of all grids of `layout`], in the points of `other`'s.
  """
  here, there = grids(layout)[0], grids(other)[0]
  rows, columns = (
    np.arange(own) * theirs // own
    for own, theirs in zip(here, there, strict=True)
  )
  codes = rows[:, None] * there[1] + columns[None, :]
  prompt = np.minimum(np.arange(layout.prompt_len), other.prompt_len - 1)
  text = np.minimum(np.arange(layout.text_len), other.text_len - 1)
  first = other.image_len + other.prompt_len
  return np.concatenate(
    [
      codes.reshape(-1),
      other.image_len + prompt,
      first + text,
      first + other.text_len + np.arange(4),
    ]
  ).astype(np.int32)
