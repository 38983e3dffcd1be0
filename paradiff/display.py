"""Pictures and lines that show people a canvas while it is denoised.

`draw_frames` lays one page out for a whole run: instruction above, input and
emerging output side by side, the text below with a bar for each word that is
still masked; what a model does not read or write has no place. The font is the
one inside Pillow, which draws a box for characters that it lacks.
"""

import dataclasses
import math
import typing
from collections.abc import Iterator, Sequence

import numpy as np
import PIL.Image
from etils import epath

from paradiff import drawing
from paradiff import flow
from paradiff import gif
from paradiff.data import images

if typing.TYPE_CHECKING:
  from paradiff import outputs as outputs_lib

_MARGIN = 40
_PANEL = 320  # longer side of a picture
_GAP = 80  # between two pictures, with the arrow
_WIDTH = 2 * _MARGIN + 2 * _PANEL + _GAP
_CORNER = 10
_PROMPT_SIZE, _LABEL_SIZE = 25, 14
_PROMPT_LINE, _LABEL_LINE = 35, 19
_TEXT_SIZES = ((20, 33), (16, 26))  # of font and line; a long text is smaller
_LARGE_LINES = 6  # the most of a text that is not long
_MAX_LINES = 20  # of which the last tells that there is more


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
  """Draw input and output with an arrow, under the instruction.

  Args:
    source: uint8[H, W, 3].
    output: uint8[H', W', 3].
    prompt: the instruction.
  """
  panels = [drawing.scaled(picture, _PANEL) for picture in (source, output)]
  sheet, places, bottom = _top(prompt, [panel.size for panel in panels])
  for panel, place in zip(panels, places, strict=True):
    drawing.paste(sheet, panel, place, radius=_CORNER)
  return sheet.crop((0, 0, _WIDTH, bottom + _MARGIN))


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
  picture = None
  if page.output_box is not None:
    left, top, right, bottom = page.output_box
    blank = PIL.Image.new("RGB", (right - left, bottom - top), drawing.PAPER)
    picture = drawing.veil(blank, np.ones_like(first.masked))
  start = (0, last.num_steps)
  frames = [_draw(page, before, fresh=(), picture=picture, progress=start)]
  for canvas in canvases:
    fresh = [i for i, word in enumerate(canvas.words) if before[i] != word]
    if page.output_box is not None:
      panel = drawing.scaled(canvas.picture, _PANEL)
      picture = drawing.veil(panel, canvas.masked)
    frames.append(
      _draw(
        page,
        canvas.words,
        fresh=() if canvas is last else fresh,
        picture=picture,
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
    background: paper, instruction and input picture.
    output_box: where the output goes; None without one.
    text_top: where the text begins.
    text_size: of its font.
    text_line: pixels from line to line.
    spots: places of its words.
  """

  background: drawing.Picture
  output_box: drawing.Box | None
  text_top: int
  text_size: int
  text_line: int
  spots: tuple[flow.Spot, ...]


def _top(
  prompt: str, sizes: Sequence[tuple[int, int]]
) -> tuple[drawing.Picture, list[drawing.Box], int]:
  """Write the instruction on a tall sheet; place at most two panels below.

  Args:
    prompt: the instruction.
    sizes: widths and heights of the panels.

  Returns:
    The sheet, with an arrow between two panels; their boxes side by side in
    the middle of the page and of each other's height; the lower edge of all.
  """
  lines = drawing.wrap(
    drawing.drawable(prompt),
    size=_PROMPT_SIZE,
    width=_WIDTH - 2 * _MARGIN,
    max_lines=3,
  )
  top = _MARGIN + len(lines) * _PROMPT_LINE
  top += 20 if lines and sizes else 0
  tallest = max((height for _, height in sizes), default=0)
  whole = sum(width for width, _ in sizes) + _GAP * (len(sizes) - 1)
  left, boxes = (_WIDTH - whole) // 2, []
  for width, height in sizes:
    upper = top + (tallest - height) // 2
    boxes.append((left, upper, left + width, upper + height))
    left += width + _GAP
  bottom = top + tallest
  room = _MAX_LINES * max(line for _, line in _TEXT_SIZES) + 3 * _MARGIN
  sheet = PIL.Image.new("RGB", (_WIDTH, bottom + room), drawing.PAPER)
  drawing.write(
    sheet,
    lines,
    place=(_MARGIN, _MARGIN),
    size=_PROMPT_SIZE,
    line_height=_PROMPT_LINE,
  )
  if len(boxes) == 2:
    between = (boxes[0][2], top, boxes[1][0], bottom)
    drawing.arrow(sheet, between, drawing.MUTED)
  return sheet, boxes, bottom


def _page(
  prompt: str,
  source: np.ndarray | None,
  canvases: "Sequence[outputs_lib.Canvas]",
) -> _Page:
  """Lay out a page."""
  last = canvases[-1]
  panels = [
    drawing.scaled(picture, _PANEL)
    for picture in (source, last.picture)
    if picture is not None
  ]
  sheet, boxes, bottom = _top(prompt, [panel.size for panel in panels])
  if source is not None:
    drawing.paste(sheet, panels[0], boxes[0], radius=_CORNER)
  spots, (size, line_height) = _spots(canvases)
  num_lines = max((spot.line + 1 for spot in spots), default=0)
  text_top = bottom + (32 if num_lines else 0)
  if num_lines > _MAX_LINES:
    num_lines = _MAX_LINES
    spots = tuple(spot for spot in spots if spot.line < num_lines - 1)
    drawing.write(
      sheet,
      ["..."],
      place=(_MARGIN, text_top + (num_lines - 1) * line_height),
      size=size,
      colour=drawing.MUTED,
    )
  height = text_top + num_lines * line_height + 62
  return _Page(
    background=sheet.crop((0, 0, _WIDTH, height)),
    output_box=None if last.picture is None else boxes[-1],
    text_top=text_top,
    text_size=size,
    text_line=line_height,
    spots=spots,
  )


def _spots(
  canvases: "Sequence[outputs_lib.Canvas]",
) -> tuple[tuple[flow.Spot, ...], tuple[int, int]]:
  """Place the words of a run; return also the sizes of font and line."""
  last = canvases[-1]
  num_words = max(len(canvas.words) for canvas in canvases)
  padding = (None,) * (num_words - len(last.words))
  for sizes in _TEXT_SIZES:
    spots = flow.spots(
      (*last.words, *padding),
      size=sizes[0],
      width=_WIDTH - 2 * _MARGIN,
      has_own_spaces=last.has_own_spaces,
    )
    if not spots or spots[-1].line < _LARGE_LINES:
      break
  return spots, sizes


def _draw(
  page: _Page,
  words: Sequence[str | None],
  *,
  fresh: Sequence[int],
  picture: drawing.Picture | None,
  progress: tuple[int, int],
) -> drawing.Picture:
  """Draw one frame on a page; `fresh` are positions committed just now."""
  sheet = page.background.copy()
  if picture is not None and page.output_box is not None:
    drawing.paste(sheet, picture, page.output_box, radius=_CORNER)
  for spot in page.spots:
    found = words[spot.start : spot.stop]
    place = (_MARGIN + spot.left, page.text_top + spot.line * page.text_line)
    num_masked = found.count(None)
    if spot.stop - spot.start > 1:
      drawing.bars(sheet, num_masked, place=place, size=page.text_size)
    elif num_masked:
      drawing.bar(sheet, place=place, width=spot.width, size=page.text_size)
    else:
      drawing.write(
        sheet,
        [drawing.drawable(word or "").strip() for word in found],
        place=place,
        size=page.text_size,
        colour=drawing.ACCENT if spot.start in fresh else drawing.INK,
      )
  drawing.progress(sheet, *progress, margin=_MARGIN, size=_LABEL_SIZE)
  return sheet
