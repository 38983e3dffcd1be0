"""Frames to the bytes of a GIF, with flat colours kept exactly.

A GIF has 256 colours. The most frequent ones of the frames are taken as they
are, the others are clustered, and every pixel gets the nearest: no dithering,
which would shimmer from frame to frame.
"""

import io
from collections.abc import Sequence

import numpy as np
import PIL.Image

_NUM_EXACT = 96


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
  palette = _palette([frames[0], frames[len(frames) // 2], frames[-1]])
  indexed = [_index(frame, palette) for frame in frames]
  encoded = io.BytesIO()
  indexed[0].save(
    encoded,
    format="GIF",
    save_all=True,
    append_images=indexed[1:],
    duration=list(durations_ms),
    loop=0,
    optimize=False,  # would give each frame a palette of its own
  )
  return encoded.getvalue()


def _palette(frames: Sequence[PIL.Image.Image]) -> np.ndarray:
  """Choose uint8[256, 3] for all frames together."""
  pixels = np.concatenate([np.asarray(frame) for frame in frames])
  packed, counts = np.unique(_pack(pixels), return_counts=True)
  frequent = packed[np.argsort(-counts, kind="stable")[:_NUM_EXACT]]
  exact = np.stack([frequent >> 16, frequent >> 8 & 255, frequent & 255], -1)
  missing = 256 - len(exact)
  clustered = PIL.Image.fromarray(pixels).quantize(missing).getpalette() or []
  palette = np.zeros((256, 3), np.uint8)
  palette[: len(exact)] = exact
  others = np.reshape(clustered, (-1, 3))[:missing]
  palette[len(exact) : len(exact) + len(others)] = others
  return palette


def _index(frame: PIL.Image.Image, palette: np.ndarray) -> PIL.Image.Image:
  """Return the frame with every pixel as its nearest palette entry."""
  pixels = np.asarray(frame)
  colours, first, place = np.unique(
    _pack(pixels), return_index=True, return_inverse=True
  )
  found = pixels.reshape(-1, 3)[first].astype(np.int32)
  nearest = np.empty(len(colours), np.uint8)
  for start in range(0, len(colours), 4096):
    part = found[start : start + 4096, None, :] - palette.astype(np.int32)
    nearest[start : start + 4096] = np.square(part).sum(-1).argmin(-1)
  indexed = PIL.Image.fromarray(nearest[place].reshape(pixels.shape[:2]))
  indexed.putpalette(palette.tobytes())
  return indexed


def _pack(pixels: np.ndarray) -> np.ndarray:
  """Return int32[...] of uint8[..., 3]: one number a colour."""
  red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)
  return red << 16 | green << 8 | blue
