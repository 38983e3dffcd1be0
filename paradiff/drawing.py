"""Smooth shapes, text lines and picture panels on a page."""

import functools
import math
import typing
import unicodedata
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

Picture = PIL.Image.Image
Font = PIL.ImageFont.FreeTypeFont
Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]  # left, top, right, bottom

PAPER = (252, 251, 249)
INK = (34, 38, 46)
MUTED = (138, 144, 154)
ACCENT = (41, 98, 214)
BAR = (222, 225, 231)
EDGE = (226, 226, 222)
VEIL = (226, 229, 235)

BAR_WIDTH = 46  # of a word that is never seen
MAX_BARS = 3  # of a long run of masked words, before their number
SPACE = 7  # between two words

# What is like a character of which Unicode does not say so.
_LIKE = {
  "\N{EN DASH}": "-",
  "\N{EM DASH}": "-",
  "\N{MULTIPLICATION SIGN}": "x",
  "\N{RIGHTWARDS ARROW}": "->",
  "\N{BULLET}": "*",
  "\N{LATIN SMALL LETTER SHARP S}": "ss",
}
_VEIL_RATE = 0.8
_TRACK_HEIGHT = 6
_LARGE_CELL = 24  # pixels
_SMOOTH = 4  # shapes are drawn this much larger and then shrunk


@functools.cache
def font(size: int) -> Font:
  """Return the font inside Pillow: the same on every machine."""
  return typing.cast(Font, PIL.ImageFont.load_default(size=size))


def write(
  sheet: Picture,
  lines: Sequence[str],
  *,
  place: tuple[int, int],
  size: int,
  line_height: int = 0,
  colour: Colour = INK,
) -> None:
  """Write lines below each other; `place` is left and top of the first."""
  draw = PIL.ImageDraw.Draw(sheet)
  for i, line in enumerate(lines):
    spot = (place[0], place[1] + i * line_height)
    draw.text(spot, line, fill=colour, font=font(size))


def wrap(text: str, *, size: int, width: int, max_lines: int) -> list[str]:
  """Break a text into lines; what does not fit ends in an ellipsis."""
  measure = font(size).getlength
  lines: list[str] = []
  for word in text.split():
    longer = f"{lines[-1]} {word}" if lines else word
    if lines and measure(longer) <= width:
      lines[-1] = longer
    else:
      lines.append(word)
  is_cut = len(lines) > max_lines
  lines = lines[:max_lines]
  for i, line in enumerate(lines):
    end = "..." if is_cut and i == max_lines - 1 else ""
    while len(line) > 1 and measure(line + end) > width:
      line, end = line[:-1].rstrip(), "..."
    lines[i] = line + end
  return lines


def printable(text: str) -> str:
  """Return a text with a space for each character that is no ink."""
  return "".join(c if c.isprintable() else " " for c in text)


def drawable(text: str) -> str:
  """Return a printable text in characters that the font has, where it can be.

  The font is one for English: letters lose their accents, dashes are hyphens.
  What has no likeness stays and is drawn as a box.
  """
  return "".join(map(_drawable, printable(text)))


@functools.cache
def _drawable(character: str) -> str:
  """Return the character, or what is like it."""
  plain = "".join(
    c
    for c in unicodedata.normalize("NFKD", character)
    if not unicodedata.combining(c)
  )
  for like in (character, _LIKE.get(character, plain)):
    if like and all(map(_has_glyph, like)):
      return like
  return character


def _has_glyph(character: str) -> bool:
  """Return whether the font has a character, by its not being a box."""
  box, found = (font(20).getmask(c) for c in ("\uffff", character))
  return bytes(found) != bytes(box)


def scaled(picture: np.ndarray, side: int) -> Picture:
  """Return uint8[H, W, 3] with longer side `side`; small pixels stay hard."""
  image = PIL.Image.fromarray(picture)
  scale = side / max(image.size)
  size = (
    max(1, round(image.width * scale)),
    max(1, round(image.height * scale)),
  )
  kind = PIL.Image.Resampling.LANCZOS
  if scale >= 2:
    kind = PIL.Image.Resampling.NEAREST
  return image.resize(size, kind)


def fit(picture: np.ndarray, side: int) -> Picture:
  """Return uint8[H, W, 3] in the middle of a square of paper."""
  image = scaled(picture, side)
  square = PIL.Image.new("RGB", (side, side), PAPER)
  place = ((side - image.width) // 2, (side - image.height) // 2)
  square.paste(image, place)
  return square


def veil(picture: Picture, masked: np.ndarray) -> Picture:
  """Cover the masked cells bool[h, w] of a picture with translucent tiles."""
  height, width = masked.shape
  cover = PIL.Image.new("L", picture.size, 0)
  for row, column in np.argwhere(masked):
    left = int(column) * picture.width // width
    top = int(row) * picture.height // height
    right = (int(column) + 1) * picture.width // width
    bottom = (int(row) + 1) * picture.height // height
    cell = (right - left, bottom - top)
    # Between small tiles the gaps would show more than the tiles.
    tile = _rounded(cell, 0, inset=0)
    if min(cell) >= _LARGE_CELL:
      tile = _rounded(cell, min(10, min(cell) // 5), inset=1)
    cover.paste(tile, (left, top))
  cover = cover.point(lambda value: round(value * _VEIL_RATE))
  tiles = PIL.Image.new("RGB", picture.size, VEIL)
  return PIL.Image.composite(tiles, picture, cover)


def paste(sheet: Picture, picture: Picture, box: Box, *, radius: int) -> None:
  """Put a picture into a box with round corners and a fine edge."""
  left, top, right, bottom = box
  edge = (left - 1, top - 1, right + 1, bottom + 1)
  fill_round(sheet, edge, EDGE, radius=radius + 1)
  mask = _rounded(picture.size, radius)
  sheet.paste(picture, (left, top), mask)


def fill_round(
  sheet: Picture, box: Box, colour: Colour, *, radius: int
) -> None:
  """Fill a box with round corners."""
  left, top, right, bottom = box
  mask = _rounded((right - left, bottom - top), radius)
  sheet.paste(colour, box, mask)


def meter(sheet: Picture, box: Box, rate: float) -> None:
  """Draw a bar with round ends, filled from the left by `rate` in [0, 1]."""
  left, top, right, bottom = box
  radius = (bottom - top) // 2
  fill_round(sheet, box, BAR, radius=radius)
  done = round((right - left) * rate)
  if done > 2 * radius:
    part = (left, top, left + done, bottom)
    fill_round(sheet, part, ACCENT, radius=radius)


def bar(
  sheet: Picture, *, place: tuple[int, int], width: int, size: int
) -> None:
  """Draw the bar of a masked word in place of text of a size."""
  left, top = place
  width = max(1, width - 2)  # pieces of a word do not touch
  thick = round(0.6 * size)
  height = min(width, thick)
  bottom = top + (size + thick) // 2 + 3
  meter(sheet, (left, bottom - height, left + width, bottom), 0.0)


def bars(
  sheet: Picture, num_masked: int, *, place: tuple[int, int], size: int
) -> None:
  """Draw some bars for a run of masked words, and how many more there are."""
  left, top = place
  for _ in range(min(num_masked, MAX_BARS)):
    bar(sheet, place=(left, top), width=BAR_WIDTH, size=size)
    left += BAR_WIDTH + SPACE
  if num_masked > MAX_BARS:
    label = f"+{num_masked - MAX_BARS}"
    write(sheet, [label], place=(left, top), size=size, colour=MUTED)


def progress(
  sheet: Picture, step: int, num_steps: int, *, margin: int, size: int
) -> None:
  """Draw a bar at the foot of a page, and the step in words of a size."""
  widest = font(size).getlength(f"step {num_steps} of {num_steps}")
  right = sheet.width - margin - math.ceil(widest)
  top = sheet.height - margin
  write(
    sheet,
    [f"step {step} of {num_steps}"],
    place=(right, top - 6),
    size=size,
    colour=MUTED,
  )
  track = (margin, top, right - 16, top + _TRACK_HEIGHT)
  meter(sheet, track, step / max(1, num_steps))


def arrow(sheet: Picture, box: Box, colour: Colour) -> None:
  """Draw an arrow to the right in the middle of a box."""
  left, top, right, bottom = box
  size = (_SMOOTH * (right - left), _SMOOTH * (bottom - top))
  large = PIL.Image.new("L", size, 0)
  draw = PIL.ImageDraw.Draw(large)
  y, tip, tail = size[1] // 2, size[0] * 2 // 3, size[0] // 3
  wing, width = 7 * _SMOOTH, 2 * _SMOOTH
  draw.line([(tail, y), (tip, y)], fill=255, width=width)
  points = [(tip - wing, y - wing), (tip, y), (tip - wing, y + wing)]
  draw.line(points, fill=255, width=width, joint="curve")
  mask = large.reduce(_SMOOTH)
  sheet.paste(colour, box, mask)


@functools.cache
def _rounded(size: tuple[int, int], radius: int, *, inset: int = 0) -> Picture:
  """Return the coverage, mode L, of a box with round corners."""
  large = PIL.Image.new("L", (_SMOOTH * size[0], _SMOOTH * size[1]), 0)
  low, (high_x, high_y) = _SMOOTH * inset, large.size
  PIL.ImageDraw.Draw(large).rounded_rectangle(
    (low, low, high_x - low - 1, high_y - low - 1),
    radius=_SMOOTH * radius,
    fill=255,
  )
  return large.reduce(_SMOOTH)
