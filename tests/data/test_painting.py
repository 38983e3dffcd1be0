"""Laws of the masks that say which picture tokens are painted."""

import io

import numpy as np
import PIL.Image
import pytest

from paradiff.data import crops
from paradiff.data import images
from paradiff.data import painting


def averaged(pixels: np.ndarray, factor: int) -> np.ndarray:
  """The mean of each cell, by a loop over cells."""
  rows, columns = (side // factor for side in pixels.shape)
  means = np.zeros((rows, columns))
  for row in range(rows):
    for column in range(columns):
      top, left = row * factor, column * factor
      means[row, column] = pixels[
        top : top + factor, left : left + factor
      ].mean()
  return means


def rectangle(height: int, width: int, h_rate: float, w_rate: float):
  """Pixels, 1 in the centred rectangle."""
  pixels = np.zeros((height, width))
  mh, mw = round(height * h_rate), round(width * w_rate)
  top, left = (height - mh) // 2, (width - mw) // 2
  pixels[top : top + mh, left : left + mw] = 1
  return pixels


def grown(mask: np.ndarray, reach: int) -> np.ndarray:
  """Each True with its square of neighbours, cell by cell."""
  wide = np.zeros_like(mask)
  for row, column in np.argwhere(mask):
    wide[
      max(row - reach, 0) : row + reach + 1,
      max(column - reach, 0) : column + reach + 1,
    ] = True
  return wide


def photograph(height: int, width: int) -> np.ndarray:
  rng = np.random.default_rng(0)
  ramp = np.linspace(0, 200, width)[None, :, None]
  noise = rng.integers(0, 40, (height, width, 3))
  return (ramp + noise).astype(np.uint8)


def blobs(rows: int, columns: int, seed: int = 0) -> np.ndarray:
  mask = np.random.default_rng(seed).random((rows, columns)) < 0.4
  assert mask.any() and not mask.all()
  return mask


# The centred rectangle.


def test_centred_by_hand():
  """Half of 96 pixels: 24 to 71; cells begin at 0, 16, 32, 48, 64, 80."""
  inside = painting.centred((6, 6), mask_h_rate=0.5, mask_w_rate=0.5)
  assert inside.dtype == np.bool_
  assert np.argwhere(inside).tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]
  outside = painting.centred(
    (6, 6), mask_h_rate=0.5, mask_w_rate=0.5, mode="outpaint"
  )
  kept = np.zeros((6, 6), bool)  # cells half or wholly inside
  kept[1:5, 2:4] = kept[2:4, 1:5] = True
  np.testing.assert_array_equal(outside, ~kept)


def test_the_published_setting():
  """Half of 512 pixels: 128 to 383, whole cells."""
  square = np.zeros((32, 32), bool)
  square[8:24, 8:24] = True
  for mode, mask in (("inpaint", square), ("outpaint", ~square)):
    made = painting.centred(
      (32, 32), mask_h_rate=0.5, mask_w_rate=0.5, mode=mode
    )
    np.testing.assert_array_equal(made, mask)


def test_halves_round_to_even():
  five = painting.centred((5, 7), mask_h_rate=0.5, mask_w_rate=1, factor=1)
  assert five.any(1).tolist() == [False, True, True, False, False]
  seven = painting.centred((5, 7), mask_h_rate=1, mask_w_rate=0.5, factor=1)
  assert seven.any(0).tolist() == [False] + [True] * 4 + [False] * 2


def test_centred_is_the_average_of_pixels_over_half():
  rng = np.random.default_rng(0)
  ties = 0
  for _ in range(600):
    grid = tuple(rng.integers(1, 14, 2).tolist())
    factor = int(rng.choice([1, 2, 3, 8, 16]))
    # hundredths, so that halves to round and halves of cells occur
    rates = (rng.integers(0, 101, 2) / 100).tolist()
    pixels = rectangle(grid[0] * factor, grid[1] * factor, *rates)
    for mode in painting.MODES:
      means = averaged(pixels if mode == "inpaint" else 1 - pixels, factor)
      ties += (means == 0.5).sum()
      made = painting.centred(
        grid,
        mask_h_rate=rates[0],
        mask_w_rate=rates[1],
        mode=mode,
        factor=factor,
      )
      np.testing.assert_array_equal(made, means > 0.5)
  assert ties > 100


def test_the_whole_and_nothing():
  for rates, mode, value in [
    ((1, 1), "inpaint", True),
    ((1, 1), "outpaint", False),
    ((0, 1), "inpaint", False),
    ((1, 0), "outpaint", True),
  ]:
    mask = painting.centred(
      (3, 5), mask_h_rate=rates[0], mask_w_rate=rates[1], mode=mode
    )
    assert mask.shape == (3, 5) and (mask == value).all()


def test_a_rectangle_grows_after_it_is_turned_inside_out():
  options = {"mask_h_rate": 0.6, "mask_w_rate": 0.3}
  for mode in painting.MODES:
    plain = painting.centred((9, 12), mode=mode, **options)
    for reach in (0, 1, 3):
      wide = painting.centred((9, 12), mode=mode, dilate=reach, **options)
      np.testing.assert_array_equal(wide, grown(plain, reach))


@pytest.mark.parametrize(
  ("change", "error"),
  [
    ({"mode": "in"}, "inpaint.*outpaint.*got 'in'"),
    ({"mask_h_rate": 1.1}, r"in \[0, 1\].*mask_h_rate=1.1"),
    ({"mask_w_rate": -0.1}, r"in \[0, 1\].*mask_w_rate=-0.1"),
    ({"mask_w_rate": float("nan")}, r"in \[0, 1\]"),
    ({"grid": (0, 4)}, "positive"),
    ({"factor": 0}, "positive"),
    ({"dilate": -1}, "not be negative"),
  ],
)
def test_rectangles_that_cannot_be_are_refused(change, error):
  options = {"grid": (4, 4), "mask_h_rate": 0.5, "mask_w_rate": 0.5} | change
  with pytest.raises(ValueError, match=error):
    painting.centred(**options)


# Growing.


def test_dilated_is_the_neighbourhood_of_every_cell():
  for seed in range(20):
    rng = np.random.default_rng(seed)
    mask = rng.random(tuple(rng.integers(1, 12, 2))) < 0.1
    before = mask.copy()
    for reach in (0, 1, 2, 15):
      made = painting.dilated(mask, reach)
      assert made.dtype == np.bool_
      np.testing.assert_array_equal(made, grown(mask, reach))
    np.testing.assert_array_equal(mask, before)


# A mask that somebody drew.


def drawn(mask: np.ndarray, scale: int) -> np.ndarray:
  """A black and white picture, `scale` pixels a token."""
  return np.kron(mask, np.full((scale, scale), 255)).astype(np.uint8)


@pytest.mark.parametrize("scale", [1, 4, 8, 16, 48, 64])
def test_a_drawn_mask_is_read_at_any_scale(scale):
  mask = blobs(12, 20)
  picture = drawn(mask, scale)
  for mode in crops.MODES:
    made = painting.from_picture(picture, (12, 20), mode=mode)
    assert made.dtype == np.bool_
    np.testing.assert_array_equal(made, mask)


def test_a_drawn_mask_is_the_average_of_pixels_over_the_threshold():
  rng = np.random.default_rng(1)
  for factor in (2, 8, 16):
    levels = rng.integers(0, 256, (5 * factor, 7 * factor), np.uint8)
    levels[: 2 * factor] //= 2
    means = averaged(levels, factor) / 255
    for threshold in (0.0, 0.3, 0.5, 0.9):
      made = painting.from_picture(levels, (5, 7), factor, threshold=threshold)
      np.testing.assert_array_equal(made, means > threshold)


def test_a_cell_exactly_half_white_is_kept():
  picture = np.zeros((16, 48), np.uint8)
  picture[:8, :16] = 255
  picture[:, 24:32] = 255
  picture[0, 16] = 255  # half and one pixel
  made = painting.from_picture(picture, (1, 3))
  assert made.tolist() == [[False, True, False]]


def test_colours_count_by_their_brightness():
  colours = {"red": 0.299, "lime": 0.587, "blue": 0.114, "white": 1}
  for colour, level in colours.items():
    picture = PIL.Image.new("RGB", (16, 16), colour)
    for threshold in (level - 0.001, min(level + 0.001, 0.999)):
      made = painting.from_picture(picture, (1, 1), threshold=threshold)
      assert made.item() == (level > threshold)


def test_a_boolean_array_is_a_mask():
  mask = blobs(6, 6)
  pixels = mask.repeat(16, 0).repeat(16, 1)
  np.testing.assert_array_equal(painting.from_picture(pixels, (6, 6)), mask)


def test_transparent_parts_are_painted(tmp_path):
  mask = blobs(6, 9)
  layer = np.zeros((6 * 16, 9 * 16, 4), np.uint8)
  layer[..., 3] = 255 - drawn(mask, 16)
  path = tmp_path / "mask.png"
  PIL.Image.fromarray(layer).save(path)
  np.testing.assert_array_equal(painting.from_picture(path, (6, 9)), mask)


@pytest.mark.parametrize("mode", crops.MODES)
@pytest.mark.parametrize("side", [(1400, 500), (700, 1900)])
def test_a_mask_over_the_uncut_picture_is_cut_like_it(mode, side):
  """White where the picture is red, before and so also after."""
  rng = np.random.default_rng(2)
  white = np.zeros(side, np.uint8)
  for row, column in rng.integers(0, np.array(side) - 200, (6, 2)):
    white[row : row + 200, column : column + 150] = 255
  red = np.zeros((*side, 3), np.uint8)
  red[..., 0] = white
  offset = (0.2, 0.9) if mode == "crop" else None
  loaded = crops.load(red, (320, 512), mode=mode, offset=offset)
  made = painting.from_picture(white, (32, 20), mode=mode, offset=offset)
  means = averaged(loaded[..., 0].astype(float), 16) / 255
  np.testing.assert_array_equal(made, means > 0.5)
  assert 0.05 < made.mean() < 0.95


def test_a_turned_mask_is_read_upright():
  mask = blobs(4, 9)
  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  stored = PIL.Image.fromarray(drawn(mask, 16)).transpose(
    PIL.Image.Transpose.ROTATE_90
  )
  buffer = io.BytesIO()
  stored.save(buffer, format="PNG", exif=exif)
  made = painting.from_picture(buffer.getvalue(), (4, 9))
  np.testing.assert_array_equal(made, mask)


def test_a_drawn_mask_grows():
  mask = blobs(8, 8)
  made = painting.from_picture(drawn(mask, 16), (8, 8), dilate=1)
  np.testing.assert_array_equal(made, grown(mask, 1))


def test_masks_that_cannot_be_are_refused():
  picture = drawn(blobs(4, 4), 16)
  for threshold in (-0.1, 1.0, float("nan")):
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\)"):
      painting.from_picture(picture, (4, 4), threshold=threshold)
  with pytest.raises(ValueError, match="positive"):
    painting.from_picture(picture, (4, 0))
  with pytest.raises(ValueError, match="picture array must be uint8"):
    painting.from_picture(picture.astype(np.float32), (4, 4))


# What is shown.


def test_show_greys_what_is_painted_and_nothing_else():
  mask = blobs(5, 7)
  for factor in (1, 16):
    picture = photograph(5 * factor, 7 * factor)
    before = picture.copy()
    shown = painting.show(picture, mask, factor)
    assert shown.dtype == np.uint8 and shown.shape == picture.shape
    for row in range(5):
      for column in range(7):
        cell = np.s_[
          row * factor : (row + 1) * factor,
          column * factor : (column + 1) * factor,
        ]
        kept = 127 if mask[row, column] else before[cell]
        assert (shown[cell] == kept).all()
    shown[:] = 0
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize(
  ("picture", "mask"),
  [
    (np.zeros((64, 64, 3), np.uint8), np.zeros((4, 5), bool)),
    (np.zeros((64, 64), np.uint8), np.zeros((4, 4), bool)),
    (np.zeros((64, 64, 3), np.uint8), np.zeros((4, 4), int)),
    (np.zeros((64, 64, 3), np.float32), np.zeros((4, 4), bool)),
    (np.zeros((64, 64, 3), np.uint8), np.zeros(4, bool)),
  ],
)
def test_show_refuses_what_does_not_fit(picture, mask):
  with pytest.raises(ValueError, match="must be"):
    painting.show(picture, mask)


# A larger canvas.


def test_a_picture_of_whole_tokens_keeps_every_pixel():
  picture = photograph(64, 32)
  canvas, mask = painting.place(picture, (96, 160))
  assert canvas.dtype == np.uint8 and canvas.shape == (160, 96, 3)
  np.testing.assert_array_equal(canvas[48:112, 32:64], picture)
  kept = np.zeros((10, 6), bool)
  kept[3:7, 2:4] = True
  np.testing.assert_array_equal(mask, ~kept)


def test_kept_tokens_are_those_wholly_of_the_picture():
  rng = np.random.default_rng(5)
  for _ in range(100):
    factor = int(rng.choice([4, 16]))
    rows, columns = rng.integers(1, 9, 2).tolist()
    h, w = (int(rng.integers(1, side * factor + 1)) for side in (rows, columns))
    offset = None if rng.random() < 0.3 else tuple(rng.random(2))
    picture = photograph(h, w)
    canvas, mask = painting.place(
      picture, (columns * factor, rows * factor), factor, offset=offset
    )
    assert canvas.shape == (rows * factor, columns * factor, 3)
    assert mask.shape == (rows, columns)
    marked, _ = painting.place(
      np.full_like(picture, 1), (columns * factor, rows * factor), factor
    )
    assert (marked == 1).all()  # nothing but the picture's own border
    assert (~mask).sum() == (h // factor) * (w // factor)
    kept = canvas[(~mask).repeat(factor, 0).repeat(factor, 1)]
    whole = picture[: h // factor * factor, : w // factor * factor]
    np.testing.assert_array_equal(kept, whole.reshape(-1, 3))


def test_a_picture_is_placed_where_it_is_told():
  picture = photograph(16, 16)
  for offset, row, column in [
    ((0, 0), 0, 0),
    ((1, 0), 0, 3),
    ((0, 1), 1, 0),
    ((2 / 3, 1), 1, 2),
    (None, 0, 1),
  ]:
    canvas, mask = painting.place(picture, (64, 32), offset=offset)
    assert np.argwhere(~mask).tolist() == [[row, column]]
    top, left = 16 * row, 16 * column
    np.testing.assert_array_equal(
      canvas[top : top + 16, left : left + 16], picture
    )


def test_a_picture_of_the_canvas_leaves_nothing_to_paint():
  picture = photograph(32, 48)
  canvas, mask = painting.place(picture, (48, 32))
  np.testing.assert_array_equal(canvas, picture)
  assert not mask.any()


@pytest.mark.parametrize(
  ("shape", "size", "error"),
  [
    ((32, 65, 3), (64, 64), "must fit into 64 x 64, got 65 x 32"),
    ((80, 32, 3), (64, 64), "must fit into 64 x 64, got 32 x 80"),
    ((32, 32, 3), (64, 70), "multiples of 16"),
    ((32, 32, 3), (64, 0), "positive"),
    ((32, 32, 4), (64, 64), "uint8"),
    ((32, 32), (64, 64), "uint8"),
    ((0, 32, 3), (64, 64), "must fit"),
  ],
)
def test_pictures_that_cannot_be_placed_are_refused(shape, size, error):
  with pytest.raises(ValueError, match=error):
    painting.place(np.zeros(shape, np.uint8), size)


def test_a_placed_picture_is_read_back_with_its_mask():
  """The whole way: read, place, show; the grey is what is painted."""
  source = PIL.Image.fromarray(photograph(300, 500))
  picture = crops.load(source, crops.sizes(64))
  canvas, mask = painting.place(picture, (160, 96))
  shown = painting.show(canvas, mask)
  grey = np.where((shown == painting.GREY).all(-1), 255, 0).astype(np.uint8)
  np.testing.assert_array_equal(painting.from_picture(grey, mask.shape), mask)
  assert images.open_picture(shown).size == (160, 96)
