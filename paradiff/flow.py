"""Words in a row: joined to a text, and placed on the lines of a page.

Words of a word tokenizer get a space between them, save before punctuation;
pieces of a byte-level one bring their own. A masked word is None; of a long
run of them only the number is told.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

from paradiff import drawing

_GLUED = frozenset(".,:;!?")
_MASK, _TIMES = "░░░", "\N{MULTIPLICATION SIGN}"
_FEW = 6  # masked words in a row that get a bar each


def joined(words: Sequence[str | None], *, has_own_spaces: bool = False) -> str:
  """Write a text as it is, with a block for each masked word.

  For example `("add", None, ".")` gives `add ░░░.` and, where words bring
  their own spaces, `("add", None, " it")` too gives `add ░░░ it`. Of a longer
  run the number is told: `add ░░░ ×37`.
  """
  text, is_counted = "", False
  inked = [word for word in words if word != ""]
  for is_masked, group in itertools.groupby(inked, lambda w: w is None):
    run = [word or "" for word in group]
    if is_masked:
      is_counted = len(run) > drawing.MAX_BARS
      number = f"{_MASK} {_TIMES}{len(run)}"
      run = [number] if is_counted else [_MASK] * len(run)
    for word in run:
      is_glued = word in _GLUED
      if has_own_spaces:
        is_blank = word[:1].isspace() or text[-1:].isspace()
        is_glued = is_blank or not (is_masked or is_counted)
      text += word if not text or is_glued else f" {word}"
      is_counted = is_counted and is_masked
  return text


def text_line(
  words: Sequence[str | None], *, has_own_spaces: bool = False
) -> str:
  """Write a text in one line of printable characters; see `joined`."""
  text = joined(words, has_own_spaces=has_own_spaces)
  return " ".join(drawing.printable(text).split())


@dataclasses.dataclass(frozen=True)
class Spot:
  """Where a word stands, or a long run of words that are never seen.

  Attributes:
    start: number of the first word.
    stop: number behind the last.
    left: pixels from the left.
    line: lines from the top.
    width: in pixels.
  """

  start: int
  stop: int
  left: int
  line: int
  width: int


@dataclasses.dataclass(frozen=True)
class _Piece:
  """A word or long run of words before it has a place; widths in pixels."""

  start: int
  stop: int
  width: float
  space: float  # before it
  breaks: int  # line breaks before it
  is_glued: bool  # to what is before it


def spots(
  words: Sequence[str | None],
  *,
  size: int,
  width: int,
  has_own_spaces: bool = False,
) -> tuple[Spot, ...]:
  """Give every word a place on lines of a width.

  Pieces of one word, and a word with its punctuation, stay on one line if
  that is long enough. Blank words get no place.

  Args:
    words: None for a word that is never seen; it gets a bar of usual width.
    size: of the font.
    width: of a line in pixels.
    has_own_spaces: whether words bring the spaces between them.
  """
  pieces = _pieces(words, size=size, has_own_spaces=has_own_spaces)
  placed: list[Spot] = []
  left, line = 0.0, 0
  for i, piece in enumerate(pieces):
    if piece.breaks and placed:
      left, line = piece.space, line + piece.breaks
    elif not piece.is_glued:
      glued = itertools.takewhile(lambda p: p.is_glued, pieces[i + 1 :])
      needed = piece.width + sum(p.space + p.width for p in glued)
      left += piece.space if left else 0.0
      if left and left + needed > width:
        left, line = 0.0, line + 1
    else:
      left += piece.space
      if left and left + piece.width > width:  # a word longer than a line
        left, line = 0.0, line + 1
    placed.append(
      Spot(
        start=piece.start,
        stop=piece.stop,
        left=round(left),
        line=line,
        width=math.ceil(piece.width),
      )
    )
    left += piece.width
  return tuple(placed)


def _pieces(
  words: Sequence[str | None], *, size: int, has_own_spaces: bool
) -> list[_Piece]:
  """Measure words and find what is between them."""
  measure = drawing.font(size).getlength
  pieces: list[_Piece] = []
  between = ""  # white space since the last ink
  start = 0
  for is_masked, group in itertools.groupby(words, lambda w: w is None):
    run = list(group)
    if is_masked and len(run) > _FEW:
      label = measure(f"+{len(run)}")
      room = drawing.MAX_BARS * (drawing.BAR_WIDTH + drawing.SPACE) + label
      piece = _Piece(
        start, start + len(run), room, drawing.SPACE, 0, is_glued=False
      )
      pieces.append(piece)
      run, start, between = [], piece.stop, " "
    for i, word in enumerate(run, start=start):
      ink = "" if word is None else drawing.drawable(word).strip()
      if word is None or not has_own_spaces:
        is_glued = ink in _GLUED and bool(pieces)
        space, breaks = 1.0 if is_glued else float(drawing.SPACE), 0
        between = " "
      else:
        between += word[: len(word) - len(word.lstrip())]
        *lines, last = between.split("\n")
        space, breaks = measure(drawing.printable(last)), min(2, len(lines))
        is_glued = not between and bool(pieces)
        between = word[len(word.rstrip()) :] if ink else between
      if ink or word is None:
        room = drawing.BAR_WIDTH if word is None else measure(ink)
        pieces.append(_Piece(i, i + 1, room, space, breaks, is_glued))
    start += len(run)
  return pieces
