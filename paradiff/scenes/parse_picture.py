"""Pictures to facts: which object each cell shows, and how cleanly.

Every cell is compared with every sprite, sharp or blurred, in place or one
pixel off, by squared distance in RGB. It counts as an object when the best
sprite leaves at most `MAX_UNEXPLAINED` of the cell's energy (its squared
distance from the empty canvas) unexplained; else it counts as empty. So
noise, blur and small shifts of colour do not matter, and a cell of garbage is
no object. What is drawn half is mostly no object either, or else the nearest
one with a lower quality.
"""

import dataclasses
import functools

import numpy as np

from paradiff.scenes import render
from paradiff.scenes import world

MAX_UNEXPLAINED = 0.3
MAX_ERROR = 48  # of 255: a pixel within it of what it should be is near
_MIN_ENERGY = 768 * 8.0**2  # below it, a root mean square of 8, it is canvas
_BLURS = (0.0, 0.6, 1.0, 1.5, 2.0)  # standard deviations in pixels
_SHIFTS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))  # pixels down, right


@dataclasses.dataclass(frozen=True)
class ParsedPicture:
  """What a picture shows.

  Attributes:
    scene: the objects recognised.
    quality: in [0, 1]: of the cells that hold an object or any pixel off
      the canvas, the mean share of pixels near what they should be; 1.0 for
      an empty canvas.
  """

  scene: world.Scene
  quality: float


def _blur_matrix(sigma: float) -> np.ndarray:
  """Return float64[16, 16]: a Gaussian blur along one axis of a cell.

  Beyond the cell lies canvas, which the blur of a difference to the canvas
  sees as zeros.
  """
  offsets = np.arange(world.CELL_PIXELS)
  offsets = offsets[:, None] - offsets[None, :]
  if sigma == 0.0:
    return (offsets == 0).astype(np.float64)
  reach = np.arange(-12, 13)
  total = np.exp(-0.5 * (reach / sigma) ** 2).sum()
  return np.exp(-0.5 * (offsets / sigma) ** 2) / total


@functools.cache
def _outlines() -> tuple[np.ndarray, tuple[tuple[str, str], ...]]:
  """Return how far each pixel is covered, for every shape, blur and shift.

  Returns:
    float32[K, 256] and K pairs (size, shape); the first of a pair is sharp
    and in place.
  """
  rows, names = [], []
  for sigma in _BLURS:
    blur = _blur_matrix(sigma)
    for shift in _SHIFTS:
      for size in world.SIZES:
        for shape in world.SHAPES:
          alpha = blur @ render.coverage(shape, size) @ blur.T
          rows.append(np.roll(alpha, shift, axis=(0, 1)).ravel())
          names.append((size, shape))
  return np.stack(rows).astype(np.float32), tuple(names)


def cells_of(picture: np.ndarray) -> np.ndarray:
  """Cut a picture into cells.

  Args:
    picture: uint8[64, 64, 3].

  Returns:
    uint8[16, 16, 16, 3]: cell, row, column, channel.

  Raises:
    ValueError: if the picture has another shape or dtype.
  """
  side = world.PICTURE_SIZE
  if picture.shape != (side, side, 3) or picture.dtype != np.uint8:
    raise ValueError(
      f"picture must be uint8[{side}, {side}, 3], got "
      f"{picture.dtype}{list(picture.shape)}"
    )
  n, pixels = world.GRID_SIZE, world.CELL_PIXELS
  split = picture.reshape(n, pixels, n, pixels, 3)
  return split.transpose(0, 2, 1, 3, 4).reshape(n * n, pixels, pixels, 3)


def parse(picture: np.ndarray) -> ParsedPicture:
  """Read the facts that a picture shows.

  Args:
    picture: uint8[64, 64, 3].

  Returns:
    The scene and the quality.

  Raises:
    ValueError: if the picture has another shape or dtype.
  """
  outlines, names = _outlines()
  canvas = np.asarray(render.CANVAS_RGB, np.float32)
  colours = np.asarray(list(render.COLOUR_RGB.values()), np.float32) - canvas
  cells = (cells_of(picture) - canvas).reshape(world.NUM_CELLS, -1, 3)
  energy = np.square(cells).sum((1, 2))
  overlap = outlines @ cells  # [cell, outline, channel]
  residuals = (
    energy[:, None, None]
    - 2.0 * overlap @ colours.T
    + np.outer(np.square(outlines).sum(1), np.square(colours).sum(1))
  ).reshape(world.NUM_CELLS, -1)  # [cell, outline and colour]
  best = residuals.argmin(1)
  is_object = (energy > _MIN_ENERGY) & (
    residuals[np.arange(world.NUM_CELLS), best] <= MAX_UNEXPLAINED * energy
  )
  ideal = np.zeros_like(cells)
  things = []
  for cell in np.flatnonzero(is_object).tolist():
    outline, colour = divmod(int(best[cell]), len(colours))
    size, shape = names[outline]
    sharp = outlines[names.index((size, shape))]
    ideal[cell] = sharp[:, None] * colours[colour]
    things.append(world.Thing(cell, size, world.COLOURS[colour], shape))
  near = (np.abs(cells - ideal).max(2) <= MAX_ERROR).mean(1)
  busy = is_object | (near < 1.0)
  quality = float(near[busy].mean()) if busy.any() else 1.0
  return ParsedPicture(world.Scene(tuple(things)), quality)
