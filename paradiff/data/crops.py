"""Pictures in the sizes that the published models read.

Variant A takes one of a list of sizes of about equal area: the one nearest in
aspect is chosen, the picture scaled to cover it and the rest cut off. Variant
M squashes every picture to one square. A size here is (width, height), as in
Pillow and in the published code; arrays are [height, width, 3].

Example: `load(photo, sizes(512))` of a 4032 x 3024 photograph chooses
576 x 448 (of 4:3 = 1.333 the nearest, 1.286), halves twice with BOX to
1008 x 756, scales to 597 x 448 with BICUBIC and cuts 10 columns on the left
and 11 on the right.

Source: Lumina-DiMOO `utils/image_utils.py`; MMaDA `training/utils.py`.
"""

import math
import numbers
import typing
from collections.abc import Sequence

import numpy as np
import PIL.Image

from paradiff.data import images

PATCH = 32  # sides of cropped pictures are multiples of it
Size = tuple[int, int]
BICUBIC, BOX = PIL.Image.Resampling.BICUBIC, PIL.Image.Resampling.BOX
MODES = ("crop", "squash")

# Above this a picture is not scaled as a whole before its window is cut.
_MAX_SCALED_PIXELS = images.MAX_PIXELS


def sizes(
  area_side: int, patch: int = PATCH, *, max_aspect: float = 4.0
) -> tuple[Size, ...]:
  """List the sizes of about the area of a square, widest first.

  In units of `patch` and with n = (area_side / patch)^2, the list follows the
  border of w h <= n from wide to tall: at width w the heights n // (w + 1) to
  n // w.

  Args:
    area_side: side in pixels of the square; editing has 512, understanding
      1024.
    patch: pixels of which every side is a multiple.
    max_aspect: bound of longer side / shorter side.

  Returns:
    (width, height) pairs; 49 for 512, 97 for 1024.

  Raises:
    ValueError: if `area_side` is no positive multiple of `patch`, or
      `max_aspect` is below 1 or not finite.

  Source: Lumina-DiMOO `utils/image_utils.py`, generate_crop_size_list.
  """
  if patch < 1 or area_side < 1 or area_side % patch:
    raise ValueError(
      "area_side must be a positive multiple of patch, got "
      f"{area_side=} {patch=}"
    )
  _check_aspect(max_aspect)
  area = (area_side // patch) ** 2
  # w <= max_aspect h and w h <= area bound the width.
  widest = min(area, math.isqrt(int(max_aspect * area)))
  return tuple(
    (w * patch, h * patch)
    for w in range(widest, 0, -1)
    for h in range(max(area // (w + 1), 1), area // w + 1)
    if max(w, h) / min(w, h) <= max_aspect
  )


def nearest(width: int, height: int, sizes: Sequence[Size]) -> Size:
  """Return the size that covers a picture with the least cut off.

  Args:
    width: of the picture.
    height: of the picture.
    sizes: (width, height) pairs to choose from.

  Returns:
    The size whose two scales, min over max, are the most equal; among equals
    the larger tuple.

  Raises:
    ValueError: if there are no sizes, or a side is not positive.

  Source: Lumina-DiMOO `utils/image_utils.py`, var_center_crop.
  """
  _check_size((width, height))
  if not sizes:
    raise ValueError(f"there must be a size to choose from, got {sizes=}")
  for size in sizes:
    _check_size(size)

  def rank(size: Size) -> tuple[float, Size]:
    across, down = size[0] / width, size[1] / height
    return min(across, down) / max(across, down), size

  return max(sizes, key=rank)


def check_size(
  *, height: int, width: int, multiple: int = 16, max_aspect: float = 4.0
) -> Size:
  """Return (width, height) if a model can read or paint that size.

  Args:
    height: pixels asked for.
    width: pixels asked for.
    multiple: pixels of which each side must be a multiple: 16 for a grid of
      picture tokens, 32 for a size like those of `sizes`.
    max_aspect: bound of longer side / shorter side.

  Raises:
    ValueError: if it cannot; names the legal size that is nearest in the
      ratios of its sides.
    TypeError: if a side is no integer.
  """
  for name, side in (("height", height), ("width", width)):
    if not isinstance(side, numbers.Integral):
      raise TypeError(f"{name} must be an integer, got {side!r}")
  _check_aspect(max_aspect)
  if multiple < 1:
    raise ValueError(f"multiple must be positive, got {multiple=}")
  short, long = sorted((height, width))
  if (
    short > 0
    and height % multiple == width % multiple == 0
    and long / short <= max_aspect
  ):
    return int(width), int(height)
  short, long = _nearest_legal(short, long, multiple, max_aspect)
  legal_h, legal_w = (short, long) if height <= width else (long, short)
  raise ValueError(
    f"height and width must be positive multiples of {multiple}, the longer "
    f"at most {max_aspect:g} times the shorter, got {height=} {width=}; the "
    f"nearest such size is height={legal_h} width={legal_w}"
  )


def fit(
  picture: PIL.Image.Image,
  size: Size,
  *,
  offset: tuple[float, float] | None = None,
) -> PIL.Image.Image:
  """Scale a picture to cover a size, keeping its aspect, and cut the rest.

  Args:
    picture: of mode RGB, of any size, as `images.open_picture` gives it.
    size: (width, height) of the result.
    offset: (across, down) in [0, 1], which of the possible windows to cut: 0
      the left or top one, 1 the right or bottom one. Uniform numbers make
      every window as likely as in the published code, and k / n is window k
      of 0 ... n. None cuts the central one.

  Returns:
    A picture of that size.

  Raises:
    ValueError: if the mode is not RGB, a side is not positive, or the offset
      is outside [0, 1].

  Source: Lumina-DiMOO `utils/image_utils.py`, center_crop.
  Differs from upstream: its window lies at a uniformly random offset, drawn
    from a global generator, although the function is called centre crop; here
    the centre is the default and an offset is the caller's. A picture so long
    that the scaled whole would have over `images.MAX_PIXELS` pixels is cut
    before it is scaled, which may move a level by one.
  """
  _check_rgb(picture)
  _check_size(size)
  crop_w, crop_h = size
  while picture.width >= 2 * crop_w and picture.height >= 2 * crop_h:
    picture = picture.resize((picture.width // 2, picture.height // 2), BOX)
  scale = max(crop_w / picture.width, crop_h / picture.height)
  width, height = round(picture.width * scale), round(picture.height * scale)
  across, down = (None, None) if offset is None else offset
  left = window_start(width - crop_w, across)
  top = window_start(height - crop_h, down)
  box = (left, top, left + crop_w, top + crop_h)
  if width * height > _MAX_SCALED_PIXELS:
    return _scale_window(picture, (width, height), box)
  return picture.resize((width, height), BICUBIC).crop(box)


def window_start(room: int, fraction: float | None) -> int:
  """Return the start in 0 ... `room` that a fraction in [0, 1] means.

  Every start owns an equal share of [0, 1]; None means the middle, rounded
  down.

  Raises:
    ValueError: if the fraction is outside [0, 1].
  """
  if fraction is None:
    return room // 2
  if not 0 <= fraction <= 1:
    raise ValueError(f"an offset must be in [0, 1], got {fraction}")
  return min(int(fraction * (room + 1)), room)


def squash(picture: PIL.Image.Image, size: Size) -> PIL.Image.Image:
  """Resize a picture to a size, whatever its aspect, without aliasing.

  Args:
    picture: of mode RGB, of any size.
    size: (width, height) of the result.

  Raises:
    ValueError: if the mode is not RGB or a side is not positive.

  Source: MMaDA `training/utils.py`, image_transform_squash.
  """
  _check_rgb(picture)
  _check_size(size)
  if size[0] * picture.height > _MAX_SCALED_PIXELS:
    # Pillow scales rows first, and there are too many of them.
    picture = picture.resize((picture.width, size[1]), BICUBIC)
  return picture.resize(size, BICUBIC)


def load(
  source: images.Source,
  sizes: Size | Sequence[Size],
  *,
  mode: str = "crop",
  offset: tuple[float, float] | None = None,
) -> np.ndarray:
  """Read a picture in the size, or the nearest of the sizes, of a model.

  Args:
    source: what `images.open_picture` takes.
    sizes: one (width, height) or several to choose from.
    mode: "crop" keeps the aspect (A); "squash" keeps every part (M).
    offset: which window to cut, as in `fit`; None the central one.

  Returns:
    uint8[height, width, 3].

  Raises:
    FileNotFoundError, ValueError, TypeError: as `images.open_picture`, and
      ValueError if the mode is unknown, a size or the offset is not legal, or
      an offset is given for "squash".
  """
  if mode not in MODES:
    raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
  if mode == "squash" and offset is not None:
    raise ValueError(f'offset must be None in mode "squash", got {offset}')
  single = bool(sizes) and isinstance(sizes[0], numbers.Integral)
  choices = typing.cast(Sequence[Size], [sizes] if single else sizes)
  picture = images.open_picture(source)
  size = nearest(*picture.size, choices)
  if mode == "squash":
    return np.array(squash(picture, size), np.uint8)
  return np.array(fit(picture, size, offset=offset), np.uint8)


def _scale_window(
  picture: PIL.Image.Image, scaled: Size, box: tuple[int, int, int, int]
) -> PIL.Image.Image:
  """Return the window `box` of the picture resized to `scaled`."""

  def around(
    side: int, scaled_side: int, start: int, stop: int
  ) -> tuple[int, int, float, float]:
    """Return the pixels [low, high) to keep and the stretch within them."""
    rate = side / scaled_side
    begin, end = start * rate, min(stop * rate, side)
    # The filter reaches two of the result's pixels, each of less than two.
    low = max(math.floor(begin) - 4, 0)
    high = min(math.ceil(end) + 4, side)
    return low, high, begin - low, end - low

  left, right, x0, x1 = around(picture.width, scaled[0], box[0], box[2])
  top, bottom, y0, y1 = around(picture.height, scaled[1], box[1], box[3])
  size = (box[2] - box[0], box[3] - box[1])
  part = picture.crop((left, top, right, bottom))
  return part.resize(size, BICUBIC, box=(x0, y0, x1, y1))


def _nearest_legal(
  short: int, long: int, multiple: int, max_aspect: float
) -> Size:
  """Return the legal (shorter, longer) that changes the sides the least.

  Change is measured by the squared logarithms of both ratios, so that a size
  of illegal aspect keeps about its area.
  """
  short, long = max(short, multiple), max(long, multiple)

  def change(size: Size) -> float:
    ratios = (size[0] / short, size[1] / long)
    return sum(math.log(ratio) ** 2 for ratio in ratios)

  # As asked for, and the nearest point of long = max_aspect * short.
  shorts = (short, math.sqrt(short * long / max_aspect))
  candidates = [
    (s * multiple, l * multiple)
    for s in {int(x / multiple) + i for x in shorts for i in (-1, 0, 1, 2)}
    for l in (long // multiple, long // multiple + 1, int(max_aspect * s))
    if 0 < s <= l <= max_aspect * s
  ]
  return min(candidates, key=change)


def _check_aspect(max_aspect: float) -> None:
  """Raise unless the bound is one that a square meets."""
  if not 1 <= max_aspect < math.inf:
    raise ValueError(f"max_aspect must be finite and >= 1, got {max_aspect=}")


def _check_rgb(picture: PIL.Image.Image) -> None:
  """Raise where Pillow would scale palette indices or leave transparency."""
  if picture.mode != "RGB":
    raise ValueError(f"a picture must be of mode RGB, got {picture.mode}")


def _check_size(size: Size) -> None:
  """Raise unless a size is two positive integers."""
  if np.shape(size) != (2,) or not all(
    isinstance(side, numbers.Integral) and side > 0 for side in size
  ):
    raise ValueError(
      f"a size must be (width, height), two positive integers, got {size}"
    )
