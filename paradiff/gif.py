"""Frames to the bytes of a GIF, with flat colours kept exactly.

A GIF has 256 colours; one of them means "as before", which keeps files small.
Colours that cover much are taken as they are, the others are clustered. What is
as rich as a photograph is dithered, with a pattern that stays where it is, so
that nothing shimmers from frame to frame.
"""

import io
from collections.abc import Sequence

import numpy as np
import PIL.Image

_MAX_EXACT = 96
_MIN_RATE = 1 / 4000  # of the pixels, that a colour kept exactly must cover
_UNCHANGED = 255  # index of "as before"
_RICH_RATE = (
  0.05  # of pixels of other colours, from which on there is dithering
)
_DITHER = 14.0  # levels from the lowest to the highest of the pattern
_BITS = 6  # of a channel, where a colour is not kept exactly


def encode(
  frames: Sequence[PIL.Image.Image], *, durations_ms: Sequence[int]
) -> bytes:
  """Encode an endless animation.

  Args:
    frames: RGB pictures of one size, at least one.
    durations_ms: how long each stays.
  """
  if not frames or len(frames) != len(durations_ms):
    raise ValueError(
      "a GIF must have at least one frame and a duration for each, got "
      f"{len(frames)} frames and {len(durations_ms)} durations"
    )
  chosen = [frames[0], frames[len(frames) // 2], frames[-1]]
  pixels = np.concatenate([np.asarray(frame) for frame in chosen])
  exact, num_pixels = _frequent(pixels)
  palette = _palette(pixels, exact)
  is_rich = num_pixels < (1.0 - _RICH_RATE) * pixels[..., 0].size
  pattern = _bayer() * (_DITHER if is_rich else 0.0)
  nearest, known = _nearest(palette), np.zeros(1 << 24, np.uint8)
  known[exact] = np.arange(1, len(exact) + 1)
  encoded, before = [], None
  for frame in frames:
    index = _index(np.asarray(frame), nearest, known, pattern=pattern)
    changed = (
      index if before is None else np.where(index == before, _UNCHANGED, index)
    )
    before = index
    image = PIL.Image.fromarray(changed.astype(np.uint8))
    image.putpalette(palette.tobytes())
    encoded.append(image)
  file = io.BytesIO()
  encoded[0].save(
    file,
    format="GIF",
    save_all=True,
    append_images=encoded[1:],
    duration=list(durations_ms),
    loop=0,
    transparency=_UNCHANGED,
    disposal=1,  # leave it for the next frame
    optimize=False,  # would give each frame a palette of its own
  )
  return file.getvalue()


def _frequent(pixels: np.ndarray) -> tuple[np.ndarray, int]:
  """Return packed colours that cover much, and how many pixels they cover."""
  packed, counts = np.unique(_pack(pixels), return_counts=True)
  order = np.argsort(-counts, kind="stable")[:_MAX_EXACT]
  order = order[counts[order] >= _MIN_RATE * counts.sum()]
  return packed[order], int(counts[order].sum())


def _palette(pixels: np.ndarray, exact: np.ndarray) -> np.ndarray:
  """Choose uint8[255, 3]: the exact colours, then clusters of the others."""
  palette = np.zeros((_UNCHANGED, 3), np.uint8)
  palette[: len(exact)] = _unpack(exact)
  palette[len(exact) :] = palette[:1]
  others = pixels[~np.isin(_pack(pixels), exact)][::4]
  if len(others):
    image = PIL.Image.fromarray(others[None])
    num_others = _UNCHANGED - len(exact)
    found = image.quantize(num_others, kmeans=2).getpalette() or []
    clustered = np.reshape(found, (-1, 3))[:num_others]
    palette[len(exact) : len(exact) + len(clustered)] = clustered
  return palette


def _nearest(palette: np.ndarray) -> np.ndarray:
  """Return uint8[8^_BITS], the palette entry nearest to each coarse colour."""
  levels = (np.arange(1 << _BITS, dtype=np.float32) + 0.5) * (
    256 >> _BITS
  ) - 0.5
  wanted = palette.astype(np.float32)
  green, blue = (
    plane.reshape(-1, 1) for plane in np.meshgrid(levels, levels, indexing="ij")
  )
  plane = np.square(green - wanted[:, 1]) + np.square(blue - wanted[:, 2])
  rows = [(plane + np.square(red - wanted[:, 0])).argmin(-1) for red in levels]
  return np.concatenate(rows).astype(np.uint8)


def _index(
  pixels: np.ndarray,
  nearest: np.ndarray,
  known: np.ndarray,
  *,
  pattern: np.ndarray,
) -> np.ndarray:
  """Return the palette entry of every pixel."""
  height, width = pixels.shape[:2]
  rows, columns = -(-height // 8), -(-width // 8)
  shift = np.tile(pattern, (rows, columns))[:height, :width, None]
  shifted = np.clip(np.rint(pixels + shift), 0, 255).astype(np.int32)
  red, green, blue = np.moveaxis(shifted >> (8 - _BITS), -1, 0)
  coarse = red << 2 * _BITS | green << _BITS | blue
  exact = known[_pack(pixels)]
  return np.where(exact > 0, exact - 1, nearest[coarse])


def _bayer() -> np.ndarray:
  """Return the threshold pattern float64[8, 8] in [-0.5, 0.5)."""
  pattern = np.zeros((1, 1))
  for _ in range(3):
    low = 4 * pattern
    pattern = np.block([[low, low + 2], [low + 3, low + 1]])
  return pattern / 64 - 0.5


def _pack(pixels: np.ndarray) -> np.ndarray:
  """Return int32[...] of uint8[..., 3]: one number a colour."""
  red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)
  return red << 16 | green << 8 | blue


def _unpack(packed: np.ndarray) -> np.ndarray:
  """Return uint8[n, 3] of int32[n]."""
  channels = [packed >> 16, packed >> 8 & 255, packed & 255]
  return np.stack(channels, -1).astype(np.uint8)
