"""Pictures and lines that show people a canvas while it is denoised.

`draw_frames` lays one page out for a whole run: instruction above, input and
emerging output side by side, the reasoning below with a bar for each word
that is still masked. The font is the one inside Pillow.
"""

import dataclasses
import math
import typing
from collections.abc import Iterator, Sequence

import numpy as np
import PIL.Image
from etils import epath

from paradiff import drawing
from paradiff import gif
from paradiff.data import images

if typing.TYPE_CHECKING:
  from paradiff import outputs as outputs_lib

_MARGIN = 40
_PANEL = 320  # side of a picture
_GAP = 80  # between two pictures, with the arrow
_WIDTH = 2 * _MARGIN + 2 * _PANEL + _GAP
_CORNER = 10
_PROMPT_SIZE, _TEXT_SIZE, _LABEL_SIZE = 25, 20, 14
_PROMPT_LINE, _TEXT_LINE, _LABEL_LINE = 35, 33, 19
_SPACE = 7
_BAR_HEIGHT = 12
_BAR_WIDTH = 46  # of a word that is never seen
_TRACK_HEIGHT = 6
_GLUED = frozenset(".,:;!?")


def text_line(words: Sequence[str | None]) -> str:
  """Write a text in one line, with a block for each masked word.

  For example `("add", None, ".")` gives `add ░░░.`
  """
  line = ""
  for word in words:
    glue = "" if not line or word in _GLUED else " "
    line += glue + ("░░░" if word is None else word)
  return line


def terminal_picture(picture: np.ndarray, *, columns: int = 32) -> list[str]:
  """Write a picture as lines of half blocks in 24-bit terminal colours.

  Args:
    picture: uint8[H, W, 3].
    columns: characters a line; a line is two rows of pixels high.
  """
  height, width = picture.shape[:2]
  rows = max(1, round(columns * height / width / 2))
  small = PIL.Image.fromarray(picture).resize(
    (columns, 2 * rows), PIL.Image.Resampling.BOX
  )
  pairs = np.asarray(small).reshape(rows, 2, columns, 3).swapaxes(1, 2)
  return ["".join(_half_blocks(line)) + "\x1b[0m" for line in pairs]


def _half_blocks(line: np.ndarray) -> Iterator[str]:
  """Write uint8[columns, 2, 3], naming colours only where they change."""
  before: list[list[int]] = []
  for upper, lower in line.tolist():
    if [upper, lower] != before:
      yield "\x1b[38;2;{};{};{}m".format(*upper)
      yield "\x1b[48;2;{};{};{}m".format(*lower)
      before = [upper, lower]
    yield "▀"


def side_by_side(
  source: np.ndarray, output: np.ndarray, *, prompt: str = ""
) -> drawing.Picture:
  """Draw input and output with an arrow, under the instruction."""
  page = _page(prompt, source, [])
  sheet = page.background.copy()
  panel = drawing.fit(output, _PANEL)
  drawing.paste(sheet, panel, page.output_box, radius=_CORNER)
  return sheet.crop((0, 0, _WIDTH, page.output_box[3] + _MARGIN))


def grid(
  pictures: Sequence[np.ndarray],
  captions: Sequence[str] = (),
  *,
  columns: int = 4,
  side: int = 160,
) -> drawing.Picture:
  """Draw a contact sheet.

  Args:
    pictures: uint8[H, W, 3] each, in reading order.
    captions: one a picture, or none at all; wrapped to two lines.
    columns: pictures a row.
    side: width and height of a picture on the sheet.
  """
  if captions and len(captions) != len(pictures):
    raise ValueError(
      "there must be a caption for every picture or none, got "
      f"{len(captions)} for {len(pictures)}"
    )
  columns = max(1, min(columns, len(pictures)))
  gap = 20
  row_height = side + gap + (2 * _LABEL_LINE + 8 if captions else 0)
  num_rows = math.ceil(len(pictures) / columns)
  size = (columns * (side + gap) + gap, num_rows * row_height + gap)
  sheet = PIL.Image.new("RGB", size, drawing.PAPER)
  for i, picture in enumerate(pictures):
    row, column = divmod(i, columns)
    left, top = gap + column * (side + gap), gap + row * row_height
    box = (left, top, left + side, top + side)
    drawing.paste(sheet, drawing.fit(picture, side), box, radius=_CORNER)
    caption = captions[i] if captions else ""
    drawing.write(
      sheet,
      drawing.wrap(caption, size=_LABEL_SIZE, width=side, max_lines=2),
      place=(left, top + side + 8),
      size=_LABEL_SIZE,
      line_height=_LABEL_LINE,
    )
  return sheet


def draw_frames(
  canvases: "Sequence[outputs_lib.Canvas]",
  *,
  prompt: str,
  source: np.ndarray | None = None,
) -> list[drawing.Picture]:
  """Draw a run, one frame a canvas after a first one where all is masked.

  Words stand where the last canvas has them, so nothing moves in between.

  Args:
    canvases: in the order of the run, at least one.
    prompt: the instruction.
    source: uint8[H, W, 3], the input picture, if there was one.

  Returns:
    len(canvases) + 1 pictures of one size.
  """
  if not canvases:
    raise ValueError("there must be at least one canvas, got none")
  page = _page(prompt, source, canvases)
  first, last = canvases[0], canvases[-1]
  num_words = max(len(canvas.words) for canvas in canvases)
  before: Sequence[str | None] = (None,) * num_words
  hidden = np.empty_like(first.picture)
  hidden[:] = drawing.PAPER
  picture = _veiled(hidden, np.ones_like(first.masked))
  start = (0, last.num_steps)
  frames = [_draw(page, before, fresh=(), picture=picture, progress=start)]
  for canvas in canvases:
    fresh = [i for i, word in enumerate(canvas.words) if before[i] != word]
    frames.append(
      _draw(
        page,
        canvas.words,
        fresh=() if canvas is last else fresh,
        picture=_veiled(canvas.picture, canvas.masked),
        progress=(canvas.step, canvas.num_steps),
      )
    )
    padding = (None,) * (num_words - len(canvas.words))
    before = (*canvas.words, *padding)
  return frames


def save_gif(
  frames: Sequence[drawing.Picture],
  path: epath.PathLike,
  *,
  frame_ms: int = 140,
  hold_ms: int = 3500,
) -> None:
  """Write frames as an endless GIF that rests on the last one.

  Args:
    frames: of one size.
    path: of the file, local or remote.
    frame_ms: how long a frame stays.
    hold_ms: how long the last one stays.
  """
  durations = [frame_ms] * (len(frames) - 1) + [hold_ms]
  images.write_atomically(path, gif.encode(frames, durations_ms=durations))


@dataclasses.dataclass(frozen=True)
class _Page:
  """What all frames of a run share.

  Attributes:
    background: paper, instruction, input picture and labels.
    output_box: where the output goes.
    text_top: where the reasoning begins.
    places: left, line and width of every word position.
  """

  background: drawing.Picture
  output_box: drawing.Box
  text_top: int
  places: tuple[tuple[int, int, int], ...]


def _page(
  prompt: str,
  source: np.ndarray | None,
  canvases: "Sequence[outputs_lib.Canvas]",
) -> _Page:
  """Lay out a page."""
  lines = drawing.wrap(
    prompt, size=_PROMPT_SIZE, width=_WIDTH - 2 * _MARGIN, max_lines=3
  )
  panel_top = _MARGIN + len(lines) * _PROMPT_LINE + (20 if lines else 0)
  left = _MARGIN if source is not None else (_WIDTH - _PANEL) // 2
  input_box = (left, panel_top, left + _PANEL, panel_top + _PANEL)
  shift = _PANEL + _GAP if source is not None else 0
  output_box = (left + shift, panel_top, input_box[2] + shift, input_box[3])
  text_top = panel_top + _PANEL + 32

  num_words = max((len(canvas.words) for canvas in canvases), default=0)
  final = canvases[-1].words if canvases else ()
  places = _flow(final, num_words)
  num_lines = max((line for _, line, _ in places), default=0) + 1
  height = text_top + num_lines * _TEXT_LINE + 62
  sheet = PIL.Image.new("RGB", (_WIDTH, height), drawing.PAPER)
  drawing.write(
    sheet,
    lines,
    place=(_MARGIN, _MARGIN),
    size=_PROMPT_SIZE,
    line_height=_PROMPT_LINE,
  )
  if source is not None:
    panel = drawing.fit(source, _PANEL)
    drawing.paste(sheet, panel, input_box, radius=_CORNER)
    between = (input_box[2], panel_top, output_box[0], input_box[3])
    drawing.arrow(sheet, between, drawing.MUTED)
  return _Page(sheet, output_box, text_top, places)


def _draw(
  page: _Page,
  words: Sequence[str | None],
  *,
  fresh: Sequence[int],
  picture: drawing.Picture,
  progress: tuple[int, int],
) -> drawing.Picture:
  """Draw one frame on a page; `fresh` are positions committed just now."""
  sheet = page.background.copy()
  drawing.paste(sheet, picture, page.output_box, radius=_CORNER)
  for i, word in enumerate(words):
    left, line, width = page.places[i]
    top = page.text_top + line * _TEXT_LINE
    if word is None:
      height = min(width, _BAR_HEIGHT)
      bottom = top + (_TEXT_SIZE + _BAR_HEIGHT) // 2 + 3
      bar = (left, bottom - height, left + width, bottom)
      drawing.meter(sheet, bar, 0.0)
      continue
    colour = drawing.ACCENT if i in fresh else drawing.INK
    drawing.write(
      sheet, [word], place=(left, top), size=_TEXT_SIZE, colour=colour
    )
  _progress(sheet, *progress)
  return sheet


def _veiled(picture: np.ndarray, masked: np.ndarray) -> drawing.Picture:
  """Return the output panel."""
  return drawing.veil(drawing.fit(picture, _PANEL), masked)


def _progress(sheet: drawing.Picture, step: int, num_steps: int) -> None:
  """Draw the bar at the foot of a page."""
  widest = drawing.font(_LABEL_SIZE).getlength(
    f"step {num_steps} of {num_steps}"
  )
  right, top = _WIDTH - _MARGIN - math.ceil(widest), sheet.height - _MARGIN
  drawing.write(
    sheet,
    [f"step {step} of {num_steps}"],
    place=(right, top - 6),
    size=_LABEL_SIZE,
    colour=drawing.MUTED,
  )
  track = (_MARGIN, top, right - 16, top + _TRACK_HEIGHT)
  drawing.meter(sheet, track, step / max(1, num_steps))


def _flow(
  words: Sequence[str | None], num_words: int
) -> tuple[tuple[int, int, int], ...]:
  """Return left, line and width of `num_words` positions, wrapped.

  Positions behind the last word get a bar of usual width.
  """
  measure = drawing.font(_TEXT_SIZE).getlength
  places: list[tuple[int, int, int]] = []
  left, line = _MARGIN, 0
  for i in range(num_words):
    word = words[i] if i < len(words) else None
    width = _BAR_WIDTH if word is None else math.ceil(measure(word))
    glued = i > 0 and word in _GLUED
    left += 0 if left == _MARGIN else (1 if glued else _SPACE)
    if left + width > _WIDTH - _MARGIN and not glued:
      left, line = _MARGIN, line + 1
    places.append((left, line, width))
    left += width
  return tuple(places)
