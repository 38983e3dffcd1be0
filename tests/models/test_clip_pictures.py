"""CLIP's pictures against Pillow: the same levels, every one."""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from paradiff.models import clip_pictures


def _noise(height, width, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def _smooth(height, width):
  rows, columns = np.mgrid[:height, :width]
  channels = [
    np.sin(rows / 9 + c) * np.cos(columns / 7 - c) * 120 + 128 for c in range(3)
  ]
  return np.stack(channels, -1).astype(np.uint8)


def _blocks(height, width):
  """Return full-contrast edges, where bicubic overshoots on both axes."""
  rows, columns = np.mgrid[:height, :width]
  parity = (rows // 11 + columns // 13) % 2
  return np.repeat(parity[..., None] * 255, 3, -1).astype(np.uint8)


def _by_pillow(picture, size):
  """Return whole levels: resize the short side, cut the centre."""
  height, width = picture.shape[:2]
  short = min(height, width)
  wide, tall = int(size * width / short), int(size * height / short)
  resized = np.asarray(
    PIL.Image.fromarray(picture).resize(
      (wide, tall), PIL.Image.Resampling.BICUBIC
    )
  )
  top, left = (tall - size) // 2, (wide - size) // 2
  return resized[top : top + size, left : left + size].astype(np.int64)


def _levels(pixels):
  """Undo the normalisation; the levels must come out whole."""
  levels = (np.asarray(pixels, np.float64) * clip_pictures.STD) * 255
  levels = levels + np.asarray(clip_pictures.MEAN) * 255
  np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
  return np.round(levels).astype(np.int64)


@pytest.mark.parametrize("draw", [_noise, _smooth, _blocks])
@pytest.mark.parametrize(
  ("height", "width", "size"),
  [
    (96, 96, 32),
    (97, 131, 32),
    (120, 61, 48),
    (20, 33, 56),
    (64, 200, 64),
    (256, 256, 224),
    (512, 512, 336),
  ],
)
def test_levels_are_pillows(draw, height, width, size):
  picture = draw(height, width)
  pixels = clip_pictures.preprocess(jnp.asarray(picture)[None], size=size)
  np.testing.assert_array_equal(_levels(pixels[0]), _by_pillow(picture, size))


def test_columns_come_before_rows_however_tall():
  """In two calls Pillow has no choice of the order."""
  picture = _blocks(150, 61)
  narrow = PIL.Image.fromarray(picture).resize(
    (48, 150), PIL.Image.Resampling.BICUBIC
  )
  resized = np.asarray(narrow.resize((48, 118), PIL.Image.Resampling.BICUBIC))
  pixels = clip_pictures.preprocess(jnp.asarray(picture)[None], size=48)
  np.testing.assert_array_equal(_levels(pixels[0]), resized[35:83])


def test_a_picture_of_the_size_is_only_normalised():
  picture = _noise(32, 32)
  pixels = clip_pictures.preprocess(jnp.asarray(picture)[None], size=32)
  expected = (picture / 255 - clip_pictures.MEAN) / clip_pictures.STD
  np.testing.assert_allclose(pixels[0], expected, atol=2e-6)
  assert pixels.dtype == jnp.float32


def test_white_has_the_normalised_value_at_any_size():
  white = jnp.full((2, 40, 70, 3), 255, jnp.uint8)
  pixels = clip_pictures.preprocess(white, size=24)
  assert pixels.shape == (2, 24, 24, 3)
  expected = np.broadcast_to([1.9303361, 2.0748837, 2.1458852], pixels.shape)
  np.testing.assert_allclose(pixels, expected, atol=2e-5)
  pixels = clip_pictures.preprocess(
    white, size=24, mean=(0.5, 0.5, 0.0), std=(0.5, 0.25, 1.0)
  )
  np.testing.assert_allclose(
    pixels, np.broadcast_to([1.0, 2.0, 1.0], pixels.shape), atol=1e-6
  )


def test_floats_give_what_their_bytes_give():
  picture = _noise(50, 70)
  floats = jnp.asarray(picture, jnp.float32)[None] / 255
  # Less than half a level off; what leaves the range is clipped.
  moved = floats + jnp.where(floats > 0.5, 0.4, -0.4) / 255
  assert moved.min() < 0 and moved.max() > 1
  whole = clip_pictures.preprocess(jnp.asarray(picture)[None], size=32)
  for pictures in (floats, moved):
    pixels = clip_pictures.preprocess(pictures, size=32)
    np.testing.assert_array_equal(pixels, whole)


def test_pictures_of_a_batch_do_not_meet():
  pictures = jnp.asarray(np.stack([_noise(40, 60, seed) for seed in range(3)]))
  whole = clip_pictures.preprocess(pictures, size=32)
  for picture, pixels in zip(pictures, whole, strict=True):
    alone = clip_pictures.preprocess(picture[None], size=32)[0]
    np.testing.assert_array_equal(pixels, alone)


def test_jit_equals_no_jit():
  pictures = jnp.asarray(_smooth(45, 80))[None]
  plain = clip_pictures.preprocess(pictures, size=32)
  jitted = jax.jit(lambda x: clip_pictures.preprocess(x, size=32))(pictures)
  np.testing.assert_allclose(jitted, plain, atol=1e-6)


@pytest.mark.parametrize(
  ("shape", "dtype", "options", "message"),
  [
    ((8, 8, 3), jnp.uint8, {"size": 4}, r"\[B, H, W, 3\], got \(8, 8, 3\)"),
    ((1, 3, 8, 8), jnp.uint8, {"size": 4}, r"\[B, H, W, 3\]"),
    ((1, 8, 0, 3), jnp.uint8, {"size": 4}, r"\[B, H, W, 3\]"),
    ((1, 8, 8, 3), jnp.int32, {"size": 4}, "uint8 or floats, got int32"),
    ((1, 8, 8, 3), jnp.uint8, {"size": 0}, "size and std must be positive"),
    (
      (1, 8, 8, 3),
      jnp.uint8,
      {"size": 4, "std": (0.1, 0.0, 0.1)},
      "size and std must be positive",
    ),
  ],
)
def test_pictures_of_another_kind_are_refused(shape, dtype, options, message):
  with pytest.raises(ValueError, match=message):
    clip_pictures.preprocess(jnp.zeros(shape, dtype), **options)
