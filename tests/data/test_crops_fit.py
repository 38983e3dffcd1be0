"""Laws of bringing pictures to the sizes of the published models."""

import io
import itertools
import math

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from paradiff.data import crops
from paradiff.data import images

BICUBIC = PIL.Image.Resampling.BICUBIC
SIZES_512 = crops.sizes(512)


def photograph(width: int, height: int, seed: int = 0) -> PIL.Image.Image:
  """A smooth picture with grain, unlike in every part and channel."""
  rng = np.random.default_rng(seed)
  x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
  waves = [
    np.sin(rng.uniform(2, 9) * x + rng.uniform(2, 9) * y + rng.uniform(0, 6))
    for _ in range(3)
  ]
  grain = rng.normal(0, 8, (height, width, 3))
  pixels = 128 + 90 * np.stack(waves, -1) + grain
  return PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def composed(picture: PIL.Image.Image, size: crops.Size) -> PIL.Image.Image:
  """The central window by Pillow's own cover and a count of halvings."""
  rates = (picture.width // size[0], picture.height // size[1])
  for _ in range(max(min(rate.bit_length() for rate in rates) - 1, 0)):
    half = (picture.width // 2, picture.height // 2)
    picture = picture.resize(half, PIL.Image.Resampling.BOX)
  picture = PIL.ImageOps.cover(picture, size, BICUBIC)
  left, top = ((a - b) // 2 for a, b in zip(picture.size, size, strict=True))
  return picture.crop((left, top, left + size[0], top + size[1]))


def cubic(pixels: np.ndarray, length: int, axis: int) -> np.ndarray:
  """Scale one axis with the cubic of a = -1/2, widened when shrinking."""
  side = pixels.shape[axis]
  rate = side / length
  width = max(rate, 1.0)
  centres = (np.arange(length) + 0.5) * rate
  x = np.abs(np.arange(side) + 0.5 - centres[:, None]) / width
  near = 1.5 * x**3 - 2.5 * x**2 + 1
  far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
  weights = np.where(x < 1, near, np.where(x < 2, far, 0))
  weights /= weights.sum(1, keepdims=True)
  return np.moveaxis(np.tensordot(weights, pixels, (1, axis)), 0, axis)


# Scaling and cutting.


def test_fit_is_halving_covering_and_cutting():
  rng = np.random.default_rng(2)
  halved = 0
  for seed in range(40):
    w, h = (int(2 ** rng.uniform(3, 10.5)) for _ in range(2))
    size = tuple(int(2 ** rng.uniform(3, 8)) for _ in range(2))
    picture = photograph(w, h, seed)
    fitted = crops.fit(picture, size)
    assert fitted.size == size
    assert fitted.tobytes() == composed(picture, size).tobytes()
    halved += w >= 2 * size[0] and h >= 2 * size[1]
  assert 10 < halved < 35


def test_fit_agrees_with_resampling_in_floats():
  picture = photograph(150, 90)
  fitted = crops.fit(picture, (96, 64))  # scaled to 107 x 64
  exact = cubic(cubic(np.asarray(picture, np.float64), 107, 1), 64, 0)
  exact = np.clip(exact, 0, 255)[:, 5 : 5 + 96]
  np.testing.assert_allclose(np.asarray(fitted), exact, atol=1.5)


def test_halving_averages_four_pixels():
  picture = photograph(64, 64)
  pixels = np.asarray(picture, np.float64)
  means = pixels.reshape(32, 2, 32, 2, 3).mean((1, 3))
  fitted = np.asarray(crops.fit(picture, (32, 32)))
  # Pillow rounds halves up after the rows and again after the columns.
  np.testing.assert_allclose(fitted, means, atol=1)


def test_a_picture_of_the_size_keeps_its_pixels():
  picture = photograph(64, 96)
  for made in (crops.fit(picture, (64, 96)), crops.squash(picture, (64, 96))):
    assert made is not picture
    assert made.tobytes() == picture.tobytes()


def test_the_centre_stays_in_the_centre():
  rng = np.random.default_rng(3)
  for _ in range(40):
    w, h = rng.integers(40, 900, 2).tolist()
    side = min(w, h) // 4
    picture = PIL.Image.new("RGB", (w, h))
    left, top = (w - side) // 2, (h - side) // 2
    picture.paste((255, 255, 255), (left, top, left + side, top + side))
    size = SIZES_512[int(rng.integers(len(SIZES_512)))]
    bright = np.asarray(crops.fit(picture, size))[..., 0].astype(float)
    scale = max(size[0] / w, size[1] / h)
    for axis, length in ((0, size[0]), (1, size[1])):
      profile = bright.sum(axis)
      mean = (profile * (np.arange(length) + 0.5)).sum() / profile.sum()
      # half a pixel each of the picture and of the window may be missing
      assert abs(mean - length / 2) <= 0.5 * scale + 1


def test_an_offset_chooses_the_window():
  picture = photograph(60, 20)
  windows = [
    crops.fit(picture, (20, 20), offset=(k / 40, 0.3)) for k in range(41)
  ]
  for left, window in enumerate(windows):
    exact = picture.crop((left, 0, left + 20, 20))
    assert window.tobytes() == exact.tobytes()
  centre = crops.fit(picture, (20, 20))
  assert centre.tobytes() == windows[20].tobytes()
  tall = picture.transpose(PIL.Image.Transpose.TRANSPOSE)
  low = crops.fit(tall, (20, 20), offset=(0, 1))
  assert low.tobytes() == tall.crop((0, 40, 20, 60)).tobytes()


@pytest.mark.parametrize("room", [0, 1, 6, 99])
def test_every_start_has_an_equal_share(room):
  steps = 10 * (room + 1)
  starts = [crops.window_start(room, (i + 0.5) / steps) for i in range(steps)]
  assert np.bincount(starts).tolist() == [10] * (room + 1)
  assert crops.window_start(room, 1.0) == room
  assert crops.window_start(room, None) == room // 2


@pytest.mark.parametrize("offset", [(-0.1, 0), (0, 1.1), (math.nan, 0)])
def test_offsets_outside_are_refused(offset):
  with pytest.raises(ValueError, match=r"in \[0, 1\]"):
    crops.fit(photograph(60, 20), (20, 20), offset=offset)


@pytest.mark.parametrize("mode", ["P", "RGBA", "L", "1"])
def test_other_modes_are_refused(mode):
  picture = PIL.Image.new(mode, (8, 8))
  for make in (crops.fit, crops.squash):
    with pytest.raises(ValueError, match=f"mode RGB, got {mode}"):
      make(picture, (4, 4))


@pytest.mark.parametrize("size", [(0, 4), (4, -4), (4,), (4.0, 4.0), 4])
def test_other_sizes_are_refused(size):
  for make in (crops.fit, crops.squash):
    with pytest.raises(ValueError, match="two positive integers"):
      make(photograph(8, 8), size)


# Pictures of no ordinary shape.


def test_a_window_cut_before_scaling_is_the_one_cut_after(monkeypatch):
  rng = np.random.default_rng(4)
  whole, early = crops._MAX_SCALED_PIXELS, 0
  for seed in range(30):
    w, h = (int(2 ** rng.uniform(0, 10)) for _ in range(2))
    size = tuple(int(2 ** rng.uniform(3, 7)) for _ in range(2))
    offset = [tuple(rng.uniform(0, 1, 2)), (0.0, 0.0), (1.0, 1.0)][seed % 3]
    picture = photograph(w, h, seed)
    made = []
    for bound in (whole, early):
      monkeypatch.setattr(crops, "_MAX_SCALED_PIXELS", bound)
      made.append(np.asarray(crops.fit(picture, size, offset=offset), int))
    assert made[0].shape == made[1].shape == (size[1], size[0], 3)
    assert np.abs(made[0] - made[1]).max() <= 1


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("length", [5000, 2_000_000])
def test_a_line_is_cut_to_the_most_extreme_size(length, turned, monkeypatch):
  line = np.full((length, 1, 3), 50, np.uint8)
  line[length // 2 :] = 200
  if turned:
    line = line.transpose(1, 0, 2)
  sides = []
  resize = PIL.Image.Image.resize

  def spy(self, size, *args, **kwargs):
    sides.append(size)
    return resize(self, size, *args, **kwargs)

  monkeypatch.setattr(PIL.Image.Image, "resize", spy)
  loaded = crops.load(line, SIZES_512)
  if turned:
    loaded = loaded.transpose(1, 0, 2)
  assert loaded.shape == (1024, 256, 3)
  # Beyond these rows the filter meets the edge, 2 x 256 rows from the ends.
  assert (loaded[:128] == 50).all() and (loaded[-128:] == 200).all()
  assert (loaded == loaded[:, :1, :1]).all()
  assert abs(float(loaded[:, 0, 0].mean()) - 125) < 1  # cut at its middle
  assert max(w * h for w, h in sides) <= images.MAX_PIXELS


def test_a_single_pixel_fills_any_size():
  pixel = np.array([[[9, 100, 255]]], np.uint8)
  for sizes in (SIZES_512, (16, 64), [(512, 512)]):
    assert (crops.load(pixel, sizes) == pixel).all()
  squashed = crops.load(pixel, (512, 512), mode="squash")
  assert squashed.shape == (512, 512, 3) and (squashed == pixel).all()


# Squashing.


def test_squash_agrees_with_resampling_in_floats():
  picture = photograph(150, 90)
  squashed = crops.squash(picture, (64, 120))
  exact = cubic(cubic(np.asarray(picture, np.float64), 64, 1), 120, 0)
  exact = np.clip(exact, 0, 255)
  assert squashed.size == (64, 120)
  np.testing.assert_allclose(np.asarray(squashed), exact, atol=1.5)


def test_squash_is_one_resize():
  picture = photograph(1500, 700)
  exact = picture.resize((512, 512), BICUBIC)
  assert crops.squash(picture, (512, 512)).tobytes() == exact.tobytes()


def test_squash_keeps_every_corner():
  picture = PIL.Image.new("RGB", (300, 20))
  colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)]
  corners = list(itertools.product((0, 150), (0, 10)))
  for colour, (x, y) in zip(colours, corners, strict=True):
    picture.paste(colour, (x, y, x + 150, y + 10))
  squashed = crops.squash(picture, (64, 64))
  for colour, (x, y) in zip(colours, corners, strict=True):
    assert squashed.getpixel((x and 63, y and 63)) == colour


def test_squash_of_a_line_does_not_widen_it_first(monkeypatch):
  picture = photograph(3, 4000)
  exact = np.asarray(crops.squash(picture, (64, 32)), int)
  monkeypatch.setattr(crops, "_MAX_SCALED_PIXELS", 100_000)
  steps = []
  resize = PIL.Image.Image.resize

  def spy(self, size, *args, **kwargs):
    steps.append((self.height, size))
    return resize(self, size, *args, **kwargs)

  monkeypatch.setattr(PIL.Image.Image, "resize", spy)
  made = np.asarray(crops.squash(picture, (64, 32)), int)
  assert steps == [(4000, (3, 32)), (32, (64, 32))]
  assert np.abs(made - exact).max() <= 2


# From anywhere.


def encode(picture: PIL.Image.Image, **options) -> bytes:
  buffer = io.BytesIO()
  picture.save(buffer, format="PNG", **options)
  return buffer.getvalue()


def test_load_chooses_and_fits(tmp_path):
  picture = photograph(900, 500)
  path = tmp_path / "photograph.png"
  picture.save(path)
  near = min(SIZES_512, key=lambda s: abs(math.log(s[0] / s[1] / (900 / 500))))
  exact = np.asarray(composed(picture, near))
  for source in (path, path.read_bytes(), picture, np.asarray(picture)):
    loaded = crops.load(source, SIZES_512)
    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, exact)


def test_load_cuts_where_it_is_told():
  picture = photograph(60, 20)
  loaded = crops.load(picture, (20, 20), offset=(1, 0))
  exact = picture.crop((40, 0, 60, 20))
  np.testing.assert_array_equal(loaded, np.asarray(exact))


def test_load_squashes_where_it_is_told():
  picture = photograph(900, 500)
  loaded = crops.load(picture, (512, 512), mode="squash")
  exact = picture.resize((512, 512), BICUBIC)
  np.testing.assert_array_equal(loaded, np.asarray(exact))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_load_fits_the_upright_picture(orientation):
  upright = photograph(400, 150)
  turns = PIL.Image.Transpose
  undo = {  # what the camera stored, such that the tag brings it upright
    2: turns.FLIP_LEFT_RIGHT,
    3: turns.ROTATE_180,
    4: turns.FLIP_TOP_BOTTOM,
    5: turns.TRANSPOSE,
    6: turns.ROTATE_90,
    7: turns.TRANSVERSE,
    8: turns.ROTATE_270,
  }
  stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
  exif = PIL.Image.Exif()
  exif[0x0112] = orientation
  loaded = crops.load(encode(stored, exif=exif), SIZES_512)
  np.testing.assert_array_equal(loaded, crops.load(upright, SIZES_512))
  assert loaded.shape[1] > 2 * loaded.shape[0]


def test_load_shows_transparent_parts_white():
  picture = PIL.Image.new("RGBA", (80, 40), (0, 0, 0, 0))
  picture.paste((255, 0, 0, 255), (0, 0, 40, 40))
  for mode in crops.MODES:
    loaded = crops.load(encode(picture), (64, 32), mode=mode)
    assert (loaded[:, :24] == (255, 0, 0)).all()
    assert (loaded[:, -24:] == 255).all()


def test_the_result_is_the_callers():
  array = np.asarray(photograph(32, 32)).copy()
  before = array.copy()
  for mode in crops.MODES:
    crops.load(array, (32, 32), mode=mode)[:] = 0
  np.testing.assert_array_equal(array, before)


def test_load_refuses_what_it_does_not_know():
  picture = photograph(32, 32)
  with pytest.raises(ValueError, match="crop.*squash.*got 'stretch'"):
    crops.load(picture, (32, 32), mode="stretch")
  with pytest.raises(ValueError, match="offset must be None"):
    crops.load(picture, (32, 32), mode="squash", offset=(0, 0))
  with pytest.raises(ValueError, match="two positive integers"):
    crops.load(picture, (32,))
  with pytest.raises(ValueError, match="a size to choose from"):
    crops.load(picture, [])
  with pytest.raises(FileNotFoundError, match="existing file"):
    crops.load("no/such.png", (32, 32))
