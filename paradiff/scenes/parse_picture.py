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
_CHUNK_LEN = 4  # pictures read at once, so that their distances stay in cache
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


def _colours() -> np.ndarray:
  """Return float32[6, 3]: how far every colour is from the canvas."""
  canvas = np.asarray(render.CANVAS_RGB, np.float32)
  return np.asarray(list(render.COLOUR_RGB.values()), np.float32) - canvas


@functools.cache
def _outlines() -> tuple[np.ndarray, np.ndarray]:
  """Return how far each pixel is covered, for every blur, shift and kind.

  Returns:
    float32[K, 256], in the order blur, shift, size, shape, so that the sharp
    ones in place come first; float32[6, K], their energy in every colour.
  """
  rows = []
  for sigma in _BLURS:
    blur = _blur_matrix(sigma)
    for shift in _SHIFTS:
      for size in world.SIZES:
        for shape in world.SHAPES:
          alpha = blur @ render.coverage(shape, size) @ blur.T
          rows.append(np.roll(alpha, shift, axis=(0, 1)).ravel())
  outlines = np.stack(rows).astype(np.float32)
  energies = np.outer(np.square(_colours()).sum(1), np.square(outlines).sum(1))
  return outlines, energies


@functools.cache
def _objects() -> tuple[tuple[world.Thing, ...], np.ndarray]:
  """Return every object, as of cell 0, and how it looks sharp and in place.

  Returns:
    48 objects in the order colour, size, shape; float32[48, 256, 3], their
    pixels less the canvas.
  """
  things = tuple(
    world.Thing(0, size, colour, shape)
    for colour in world.COLOURS
    for size in world.SIZES
    for shape in world.SHAPES
  )
  sharp = _outlines()[0][: len(world.SIZES) * len(world.SHAPES)]
  pixels = sharp[None, :, :, None] * _colours()[:, None, None, :]
  return things, pixels.reshape(len(things), -1, 3)


def cells_of(pictures: np.ndarray) -> np.ndarray:
  """Cut pictures into cells.

  Args:
    pictures: uint8[M, 64, 64, 3].

  Returns:
    uint8[16 M, 16, 16, 3]: picture and cell, row, column, channel.

  Raises:
    ValueError: if the pictures have another shape or dtype.
  """
  side = world.PICTURE_SIZE
  if pictures.shape[1:] != (side, side, 3) or pictures.dtype != np.uint8:
    raise ValueError(
      f"a picture must be uint8[{side}, {side}, 3], got "
      f"{pictures.dtype}{list(pictures.shape[1:])}"
    )
  n, pixels = world.GRID_SIZE, world.CELL_PIXELS
  split = pictures.reshape(-1, n, pixels, n, pixels, 3)
  return split.transpose(0, 1, 3, 2, 4, 5).reshape(-1, pixels, pixels, 3)


def _recognise(cells: np.ndarray) -> np.ndarray:
  """Return which of `_objects` each cell shows, int64[C], -1 for none.

  Args:
    cells: float32[C, 256, 3], pixels less the canvas.
  """
  outlines, energies = _outlines()
  energy = np.einsum("cpk,cpk->c", cells, cells)
  found = np.full(len(cells), -1)
  rows = np.flatnonzero(energy > _MIN_ENERGY)  # most cells are canvas
  if not rows.size:
    return found
  energy = energy[rows]
  pixels = cells[rows].transpose(0, 2, 1).reshape(-1, outlines.shape[1])
  overlap = (pixels @ outlines.T).reshape(len(rows), 3, -1)
  residuals = _colours() @ overlap  # [cell, colour, outline]
  residuals *= -2.0
  residuals += energies[None]
  residuals = residuals.reshape(len(rows), -1)
  best = residuals.argmin(1)
  least = residuals[np.arange(len(rows)), best] + energy
  is_object = least <= MAX_UNEXPLAINED * energy
  colour, outline = np.divmod(best, len(outlines))
  num_kinds = len(world.SIZES) * len(world.SHAPES)
  index = colour * num_kinds + outline % num_kinds
  found[rows] = np.where(is_object, index, -1)
  return found


def _parse_chunk(pictures: np.ndarray) -> list[ParsedPicture]:
  """Read some pictures uint8[M, 64, 64, 3] whose cells fit into the cache."""
  canvas = np.asarray(render.CANVAS_RGB, np.float32)
  cells = cells_of(pictures).reshape(-1, world.CELL_PIXELS**2, 3) - canvas
  objects, looks = _objects()
  found = _recognise(cells)
  is_object = found >= 0
  cells[is_object] -= looks[found[is_object]]
  within = np.abs(cells) <= MAX_ERROR
  near = (within[..., 0] & within[..., 1] & within[..., 2]).mean(1)
  busy = (is_object | (near < 1.0)).reshape(-1, world.NUM_CELLS)
  found, near = found.reshape(busy.shape), near.reshape(busy.shape)
  parsed = []
  for row in range(len(pictures)):
    things = tuple(
      dataclasses.replace(objects[index], cell=cell)
      for cell, index in enumerate(found[row].tolist())
      if index >= 0
    )
    shares = near[row, busy[row]]
    quality = float(shares.mean()) if shares.size else 1.0
    parsed.append(ParsedPicture(world.Scene(things), quality))
  return parsed


def parse_all(pictures: np.ndarray) -> list[ParsedPicture]:
  """Read the facts that every one of some pictures shows.

  Args:
    pictures: uint8[M, 64, 64, 3].

  Returns:
    The scene and the quality of each.

  Raises:
    ValueError: if the pictures have another shape or dtype.
  """
  return [
    parsed
    for start in range(0, max(len(pictures), 1), _CHUNK_LEN)
    for parsed in _parse_chunk(pictures[start : start + _CHUNK_LEN])
  ]


def parse(picture: np.ndarray) -> ParsedPicture:
  """Read the facts that a picture shows.

  Args:
    picture: uint8[64, 64, 3].

  Returns:
    The scene and the quality.

  Raises:
    ValueError: if the picture has another shape or dtype.
  """
  return parse_all(picture[None])[0]
