"""Scenes to pictures: anti-aliased shapes on a light canvas.

Coverage is estimated on an 8x8 grid of points a pixel; every object is a
sprite of one cell, drawn once per process, so rendering is a few copies.
"""

import functools

import numpy as np

from paradiff.scenes import world

CANVAS_RGB = (246, 244, 238)
COLOUR_RGB = {
  "red": (216, 38, 44),
  "orange": (255, 138, 10),
  "yellow": (247, 214, 34),
  "green": (42, 160, 70),
  "blue": (38, 92, 222),
  "purple": (148, 62, 188),
}
RADIUS_PIXELS = {"small": 4.5, "big": 7.2}
_SUBSAMPLES = 8


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Return bool[...]: is the point in the unit `shape`? y points down."""
  if shape == "circle":
    return x * x + y * y <= 1.0
  if shape == "square":
    return np.maximum(np.abs(x), np.abs(y)) <= 0.86
  if shape == "triangle":  # apex up, base at y = 0.8
    return (y <= 0.8) & (np.abs(x) <= 0.56 * (y + 0.95))
  if shape == "star":  # five points: the outline is linear between its radii
    angle = np.arctan2(x, -y) % (2 * np.pi / 5)
    angle = np.minimum(angle, 2 * np.pi / 5 - angle)
    outer, inner = 1.08, 0.46
    tip = np.array([outer, 0.0])
    dent = inner * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    radius = np.hypot(x, y)
    px, py = radius * np.cos(angle), radius * np.sin(angle)
    edge = dent - tip
    return edge[0] * (py - tip[1]) - edge[1] * (px - tip[0]) >= 0.0
  raise ValueError(f"shape must be one of {world.SHAPES}, got {shape!r}")


@functools.cache
def coverage(shape: str, size: str) -> np.ndarray:
  """Return float64[16, 16] in [0, 1]: the share of each pixel in the shape."""
  n = world.CELL_PIXELS * _SUBSAMPLES
  centre = world.CELL_PIXELS / 2
  points = ((np.arange(n) + 0.5) / _SUBSAMPLES - centre) / RADIUS_PIXELS[size]
  y, x = np.meshgrid(points, points, indexing="ij")
  inside = _inside(shape, x, y).astype(np.float64)
  split = (world.CELL_PIXELS, _SUBSAMPLES, world.CELL_PIXELS, _SUBSAMPLES)
  return inside.reshape(split).mean(axis=(1, 3))


@functools.cache
def sprite(shape: str, colour: str, size: str) -> np.ndarray:
  """Return uint8[16, 16, 3]: one cell with one object."""
  alpha = coverage(shape, size)[..., None]
  colour_rgb = np.asarray(COLOUR_RGB[colour], np.float64)
  canvas = np.asarray(CANVAS_RGB, np.float64)
  return np.rint(alpha * colour_rgb + (1 - alpha) * canvas).astype(np.uint8)


def render(scene: world.Scene) -> np.ndarray:
  """Return uint8[64, 64, 3]: the picture of `scene`."""
  side = world.PICTURE_SIZE
  picture = np.empty((side, side, 3), np.uint8)
  picture[:] = CANVAS_RGB
  for thing in scene.things:
    row, column = divmod(thing.cell, world.GRID_SIZE)
    top, left = row * world.CELL_PIXELS, column * world.CELL_PIXELS
    picture[top : top + world.CELL_PIXELS, left : left + world.CELL_PIXELS] = (
      sprite(thing.shape, thing.colour, thing.size)
    )
  return picture
