"""Which picture tokens to paint: masks for inpainting and outpainting.

A mask is bool[rows, columns] over the grid of picture tokens, True where the
model paints and False where the picture's own tokens stay. A mask of pixels
becomes one of tokens by area averaging: a token is painted if more than half
of its `factor` x `factor` pixels are, so an exact half stays.

Example: half of the height and width of a 6 x 6 grid of 16-pixel cells is the
square of pixels 24 to 71. Cells 2 and 3 lie within, cells 1 and 4 are half
covered along each axis: 2 x 2 cells are painted.

Source: Lumina-DiMOO `utils/image_utils.py`, encode_img_with_paint.
"""

import numpy as np

from paradiff.data import crops
from paradiff.data import images

MODES = ("inpaint", "outpaint")
GREY = 127


def centred(
  grid: tuple[int, int],
  *,
  mask_h_rate: float,
  mask_w_rate: float,
  mode: str = "inpaint",
  factor: int = 16,
  dilate: int = 0,
) -> np.ndarray:
  """Mask a centred rectangle, or everything around it.

  Args:
    grid: (rows, columns) of tokens.
    mask_h_rate: height of the rectangle over that of the picture, in [0, 1].
    mask_w_rate: width of the rectangle over that of the picture, in [0, 1].
    mode: "inpaint" paints the inside, "outpaint" the outside.
    factor: side of a token in pixels.
    dilate: tokens by which the painted part grows, diagonals included.

  Returns:
    bool[rows, columns].

  Raises:
    ValueError: if the mode is unknown or a number out of range.
  """
  _check_grid(grid, factor)
  if mode not in MODES:
    raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
  if not (0 <= mask_h_rate <= 1 and 0 <= mask_w_rate <= 1):
    raise ValueError(
      f"mask rates must be in [0, 1], got {mask_h_rate=} {mask_w_rate=}"
    )
  rows = _covered(grid[0], factor, mask_h_rate)
  columns = _covered(grid[1], factor, mask_w_rate)
  # Whole pixels of each cell, so that an exact half is told from a little more.
  painted = rows[:, None] * columns[None, :]
  if mode == "outpaint":
    painted = factor**2 - painted
  return dilated(2 * painted > factor**2, dilate)


def from_picture(
  source: images.Source,
  grid: tuple[int, int],
  factor: int = 16,
  *,
  threshold: float = 0.5,
  mode: str = "crop",
  offset: tuple[float, float] | None = None,
  dilate: int = 0,
) -> np.ndarray:
  """Read a mask that somebody drew: white or transparent is painted.

  The mask is brought to the grid as `crops.load` brings a picture there; so
  one drawn over the uncut picture is cut like it under the same `mode` and
  `offset`, and one drawn over the cut picture is only scaled.

  Args:
    source: what `images.open_picture` takes, or bool[H, W].
    grid: (rows, columns) of tokens.
    factor: side of a token in pixels.
    threshold: mean brightness in [0, 1) above which a token is painted.
    mode: "crop" or "squash", as the picture was brought to its size.
    offset: as for the picture.
    dilate: tokens by which the painted part grows, diagonals included.

  Returns:
    bool[rows, columns].

  Raises:
    FileNotFoundError, TypeError: as `crops.load`.
    ValueError: as `crops.load`, or if a number is out of range.
  """
  _check_grid(grid, factor)
  if not 0 <= threshold < 1:
    raise ValueError(f"threshold must be in [0, 1), got {threshold=}")
  if isinstance(source, np.ndarray) and source.dtype == np.bool_:
    source = np.where(source, 255, 0).astype(np.uint8)
  size = (grid[1] * factor, grid[0] * factor)
  pixels = crops.load(source, size, mode=mode, offset=offset)
  # Rec. 601 brightness in thousandths: exact sums, and white is 255,000.
  bright = pixels.astype(np.int64) @ np.array((299, 587, 114))
  cells = bright.reshape(grid[0], factor, grid[1], factor).sum((1, 3))
  return dilated(cells / (255_000 * factor**2) > threshold, dilate)


def dilated(mask: np.ndarray, num_cells: int) -> np.ndarray:
  """Grow a mask by a number of tokens along both axes and diagonals.

  Args:
    mask: bool[rows, columns].
    num_cells: 0 changes nothing.

  Returns:
    bool[rows, columns], True where a True is within `num_cells` rows and
    columns.

  Raises:
    ValueError: if the number is negative.
  """
  if num_cells < 0:
    raise ValueError(f"num_cells must not be negative, got {num_cells}")
  reach = 2 * num_cells + 1
  wide = np.pad(mask, num_cells)
  for axis in (0, 1):
    windows = np.lib.stride_tricks.sliding_window_view(wide, reach, axis)
    wide = np.asarray(windows.any(-1))
  return wide


def show(picture: np.ndarray, mask: np.ndarray, factor: int = 16) -> np.ndarray:
  """Return a copy of the picture, grey where the model paints.

  Args:
    picture: uint8[rows * factor, columns * factor, 3].
    mask: bool[rows, columns].
    factor: side of a token in pixels.

  Returns:
    uint8 of the picture's shape, `GREY` in painted tokens.

  Raises:
    ValueError: if the shapes or types do not fit.

  Differs from upstream: it greys the rectangle of pixels, which is not what
    is painted where the rectangle cuts through tokens.
  """
  cells = tuple(side * factor for side in mask.shape)
  if (
    mask.dtype != np.bool_
    or mask.ndim != 2
    or picture.dtype != np.uint8
    or picture.shape != (*cells, 3)
  ):
    raise ValueError(
      f"the mask must be bool, over cells of {factor} pixels of a picture "
      f"uint8[H, W, 3], got {mask.dtype}{list(mask.shape)} and "
      f"{picture.dtype}{list(picture.shape)}"
    )
  pixels = mask.repeat(factor, 0).repeat(factor, 1)
  return np.where(pixels[..., None], np.uint8(GREY), picture)


def place(
  picture: np.ndarray,
  size: crops.Size,
  factor: int = 16,
  *,
  offset: tuple[float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Put a picture on a larger canvas, whose empty part is to be painted.

  The picture begins at the border of a token, so that one whose sides are
  multiples of `factor` keeps every pixel; of another the tokens that it covers
  in part are painted. The canvas repeats the picture's border outwards: the
  image tokenizer sees beyond a token, and no edge shall appear there.

  Args:
    picture: uint8[h, w, 3].
    size: (width, height) of the canvas, multiples of `factor`.
    factor: side of a token in pixels.
    offset: (across, down) in [0, 1]: 0 the left or top end, 1 the right or
      bottom one; None the middle.

  Returns:
    canvas: uint8[height, width, 3].
    mask: bool[height / factor, width / factor].

  Raises:
    ValueError: if the picture is of another type or larger than the canvas,
      or a number is out of range.
  """
  width, height = size
  grid = (height // factor, width // factor) if factor > 0 else (0, 0)
  _check_grid(grid, factor)
  if picture.dtype != np.uint8 or picture.shape[2:] != (3,):
    raise ValueError(
      "the picture must be uint8[h, w, 3], got "
      f"{picture.dtype}{list(picture.shape)}"
    )
  h, w = picture.shape[:2]
  if (grid[0] * factor, grid[1] * factor) != (height, width):
    raise ValueError(f"size must be of multiples of {factor}, got {size}")
  if not (0 < h <= height and 0 < w <= width):
    raise ValueError(
      f"a picture must fit into {width} x {height}, got {w} x {h}"
    )
  across, down = (None, None) if offset is None else offset
  row = crops.window_start((height - h) // factor, down)
  column = crops.window_start((width - w) // factor, across)
  top, left = row * factor, column * factor
  around = ((top, height - h - top), (left, width - w - left), (0, 0))
  mask = np.ones(grid, np.bool_)
  mask[row : row + h // factor, column : column + w // factor] = False
  return np.pad(picture, around, mode="edge"), mask


def _covered(num_cells: int, factor: int, rate: float) -> np.ndarray:
  """Return int[num_cells], the pixels of a centred stretch in each cell."""
  side = num_cells * factor
  length = round(side * rate)
  start = (side - length) // 2
  edges = np.clip(np.arange(num_cells + 1) * factor - start, 0, length)
  return np.diff(edges)


def _check_grid(grid: tuple[int, int], factor: int) -> None:
  """Raise unless there are tokens."""
  if min(grid) < 1 or factor < 1:
    raise ValueError(f"grid and factor must be positive, got {grid=} {factor=}")
