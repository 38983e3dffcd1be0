"""Laws of reading and writing pictures."""

import io

import numpy as np
import PIL.Image
import pytest

from paradiff.data import images
from paradiff.scenes import render
from paradiff.scenes import world

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encode(picture: PIL.Image.Image, kind: str = "PNG", **options) -> bytes:
  buffer = io.BytesIO()
  picture.save(buffer, format=kind, **options)
  return buffer.getvalue()


def halves(width: int, height: int) -> PIL.Image.Image:
  """A picture, red on its left half and blue on its right."""
  picture = PIL.Image.new("RGB", (width, height), (0, 0, 255))
  picture.paste(RED, (0, 0, width // 2, height))
  return picture


@pytest.fixture
def scene():
  return render.render(world.Scene((world.Thing(5, "big", "red", "circle"),)))


def test_a_picture_of_the_right_size_keeps_its_pixels(scene, tmp_path):
  picture = PIL.Image.fromarray(scene)
  path = tmp_path / "scene.png"
  picture.save(path)
  for source in (path, str(path), path.read_bytes(), picture, scene):
    loaded = images.load_picture(source, size=64)
    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, scene)


def test_loading_neither_changes_nor_shares_the_source(scene):
  before = scene.copy()
  loaded = images.load_picture(scene, size=64)
  loaded[:] = 0
  np.testing.assert_array_equal(scene, before)


def test_a_wide_picture_is_cut_to_its_central_square():
  picture = PIL.Image.new("RGB", (90, 30), (0, 255, 0))
  picture.paste(RED, (30, 0, 60, 30))
  loaded = images.load_picture(picture, size=30)
  assert (loaded == RED).all()


def test_shrinking_averages_pixels():
  stripes = np.zeros((256, 256, 3), np.uint8)
  stripes[:, ::2] = 255
  loaded = images.load_picture(stripes, size=32)
  np.testing.assert_allclose(loaded, 127, atol=6)


def test_growing_gives_the_size_asked_for():
  assert images.load_picture(halves(4, 4), size=64).shape == (64, 64, 3)


def test_exif_orientation_turns_the_picture():
  exif = PIL.Image.Exif()
  exif[0x0112] = 3  # upside down
  data = encode(halves(32, 32), exif=exif)
  loaded = images.load_picture(data, size=32)
  assert tuple(loaded[0, -1]) == RED
  assert tuple(loaded[0, 0]) == (0, 0, 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_parts_show_white(mode):
  picture = PIL.Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode)
  assert (images.load_picture(picture, size=8) == 255).all()


def test_a_transparent_palette_colour_shows_white():
  picture = PIL.Image.new("P", (8, 8), 0)
  picture.putpalette([10, 20, 30])
  data = encode(picture, transparency=0)
  assert (images.load_picture(data, size=8) == 255).all()


def test_half_transparent_red_lies_over_white():
  array = np.full((4, 4, 4), (255, 0, 0, 128), np.uint8)
  loaded = images.load_picture(array, size=4)
  np.testing.assert_allclose(loaded[0, 0], (255, 127, 127), atol=1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_other_colour_modes_become_rgb(mode):
  picture = PIL.Image.new("RGB", (8, 8), WHITE).convert(mode)
  loaded = images.load_picture(picture, size=8)
  np.testing.assert_allclose(loaded, 255, atol=2)


def test_sixteen_bit_grey_keeps_its_brightness():
  wide = PIL.Image.fromarray(np.full((8, 8), 257 * 100, np.uint16))
  for source in (wide, encode(wide)):
    assert (images.load_picture(source, size=8) == 100).all()


def test_a_grey_array_becomes_rgb():
  grey = np.full((8, 8), 7, np.uint8)
  assert (images.load_picture(grey, size=8) == 7).all()


def test_a_photograph_with_an_extra_map_is_still():
  data = encode(
    halves(16, 16), "MPO", save_all=True, append_images=[halves(16, 16)]
  )
  assert images.load_picture(data, size=16).shape == (16, 16, 3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animated_pictures_are_refused(kind):
  frames = [PIL.Image.new("RGB", (8, 8), c) for c in (RED, WHITE, (0, 0, 9))]
  data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
  with pytest.raises(ValueError, match="still, got 3 frames"):
    images.load_picture(data, size=8)


@pytest.mark.parametrize("side", [9_000, 20_000])
def test_huge_pictures_are_refused_before_decoding(side, monkeypatch):
  header = encode(PIL.Image.new("1", (side, side)))[:200]  # no pixels left

  def never(self):
    raise AssertionError("decoded")

  monkeypatch.setattr(PIL.Image.Image, "load", never)
  with pytest.raises(ValueError, match="at most 64000000 pixels"):
    images.load_picture(header, size=8)


def test_huge_files_are_refused_before_reading(tmp_path):
  path = tmp_path / "huge.png"
  with path.open("wb") as file:
    file.truncate(images.MAX_BYTES + 1)  # sparse
  with pytest.raises(ValueError, match=r"at most 256000000 bytes.*huge\.png"):
    images.load_picture(path, size=8)


@pytest.mark.parametrize("missing", ["", "no/such.png", "a\0b", "x" * 5000])
def test_a_missing_file_is_named(missing):
  with pytest.raises(FileNotFoundError, match="existing file"):
    images.load_picture(missing, size=8)


def test_a_folder_is_not_a_picture(tmp_path):
  with pytest.raises(ValueError, match="not a folder"):
    images.load_picture(tmp_path, size=8)


def test_an_empty_file_is_named(tmp_path):
  path = tmp_path / "empty.png"
  path.touch()
  with pytest.raises(ValueError, match=r"0 bytes in .*empty\.png"):
    images.load_picture(path, size=8)


@pytest.mark.parametrize("data", [b"hello", b"\x89PNG\r\n\x1a\n", b"\0" * 99])
def test_bytes_of_something_else_are_refused(data):
  with pytest.raises(ValueError, match="known format"):
    images.load_picture(data, size=8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_truncated_pictures_are_refused(kind):
  rng = np.random.default_rng(0)
  noise = PIL.Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
  data = encode(noise, kind)
  with pytest.raises(ValueError, match="a picture must be"):
    images.load_picture(data[: len(data) // 2], size=8)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of the damage
def test_damaged_files_give_a_value_error_or_a_picture():
  rng = np.random.default_rng(0)
  for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "PPM"):
    data = encode(halves(24, 24), kind)
    for _ in range(60):
      damaged = np.frombuffer(data, np.uint8).copy()
      places = rng.integers(0, len(data), 6)
      damaged[places] = rng.integers(0, 256, 6)
      try:
        loaded = images.load_picture(damaged.tobytes(), size=8)
      except ValueError:
        continue
      assert loaded.shape == (8, 8, 3)


@pytest.mark.parametrize(
  "array",
  [
    np.zeros((8, 8, 3), np.float32),
    np.zeros((8, 8, 3), np.int32),
    np.zeros((8, 8, 2), np.uint8),
    np.zeros((1, 8, 8, 3), np.uint8),
    np.zeros(8, np.uint8),
  ],
)
def test_other_arrays_are_refused_with_type_and_shape(array):
  found = rf"{array.dtype}\[{', '.join(map(str, array.shape))}\]"
  with pytest.raises(ValueError, match=found):
    images.load_picture(array, size=8)


def test_pictures_without_pixels_are_refused():
  with pytest.raises(ValueError, match="must have pixels"):
    images.load_picture(np.zeros((0, 8, 3), np.uint8), size=8)
  with pytest.raises(ValueError, match="must have pixels"):
    images.load_picture(PIL.Image.new("RGB", (0, 4)), size=8)


def test_float_pixels_are_refused():
  with pytest.raises(ValueError, match="must be integers"):
    images.load_picture(PIL.Image.new("F", (4, 4)), size=4)


def test_other_types_are_refused():
  with pytest.raises(TypeError, match="got int"):
    images.load_picture(7, size=8)


def test_saved_pictures_come_back(scene, tmp_path):
  path = tmp_path / "new" / "scene.png"
  images.save_picture(scene, path)
  np.testing.assert_array_equal(images.load_picture(path, size=64), scene)
  assert [p.name for p in path.parent.iterdir()] == ["scene.png"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
  scene, tmp_path, monkeypatch
):
  path = tmp_path / "scene.png"
  images.save_picture(scene, path)

  def fail(self, target):
    raise OSError("full")

  monkeypatch.setattr(type(images.epath.Path(path)), "replace", fail)
  with pytest.raises(OSError, match="full"):
    images.save_picture(255 - scene, path)
  np.testing.assert_array_equal(images.load_picture(path, size=64), scene)
  assert [p.name for p in tmp_path.iterdir()] == ["scene.png"]


def test_an_opened_picture_keeps_its_size_and_pixels(tmp_path):
  rng = np.random.default_rng(0)
  array = rng.integers(0, 256, (5, 9, 3), np.uint8)
  picture = PIL.Image.fromarray(array)
  path = tmp_path / "wide.png"
  picture.save(path)
  for source in (path, str(path), path.read_bytes(), picture, array):
    opened = images.open_picture(source)
    assert (opened.mode, opened.size) == ("RGB", (9, 5))
    np.testing.assert_array_equal(np.asarray(opened), array)


def test_an_opened_picture_shares_nothing_with_its_source():
  array = np.zeros((5, 9, 3), np.uint8)
  for source in (array, PIL.Image.fromarray(array)):
    images.open_picture(source).paste(WHITE, (0, 0, 9, 5))
    assert not np.asarray(source).any()


def test_a_turned_picture_opens_upright():
  exif = PIL.Image.Exif()
  exif[0x0112] = 6  # a quarter turn clockwise shows it upright
  opened = images.open_picture(encode(halves(40, 20), exif=exif))
  assert opened.size == (20, 40)
  assert opened.getpixel((10, 0)) == RED
  assert opened.getpixel((10, 39)) == (0, 0, 255)
  again = images.open_picture(opened)
  assert again.tobytes() == opened.tobytes()


def test_an_opened_picture_has_no_transparency():
  picture = PIL.Image.new("RGBA", (3, 2), (0, 0, 0, 0))
  assert (np.asarray(images.open_picture(encode(picture))) == 255).all()


def test_what_cannot_be_loaded_cannot_be_opened():
  with pytest.raises(TypeError, match="got int"):
    images.open_picture(7)
  with pytest.raises(FileNotFoundError, match="existing file"):
    images.open_picture("no/such.png")
  with pytest.raises(ValueError, match="known format"):
    images.open_picture(b"hello")
