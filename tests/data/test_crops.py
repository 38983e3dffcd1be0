"""Laws of the sizes of the published models and of the choice among them."""

import fractions
import itertools
import math

import numpy as np
import pytest

from paradiff.data import crops

SIZES_512 = crops.sizes(512)


def walked(n: int, patch: int, max_aspect: float) -> list[crops.Size]:
  """The list by a walk along the border of w h <= n, unit by unit."""
  found, w, h = [], n, 1
  while w:
    if max(w, h) / min(w, h) <= max_aspect:
      found.append((w * patch, h * patch))
    w, h = (w, h + 1) if (h + 1) * w <= n else (w - 1, h)
  return found


def aspect(size: crops.Size) -> float:
  return max(size) / min(size)


# The list.


@pytest.mark.parametrize(
  ("side", "count", "ends"),
  [(512, 49, (1024, 256)), (1024, 97, (2048, 512))],
)
def test_the_lists_of_the_published_models(side, count, ends):
  sizes = crops.sizes(side)
  assert len(sizes) == len(set(sizes)) == count
  assert (sizes[0], sizes[-1]) == (ends, ends[::-1])
  assert sizes[count // 2] == (side, side)
  assert [size[::-1] for size in sizes] == list(sizes[::-1])


def test_every_size_is_legal_and_of_about_the_area():
  for side in (512, 1024):
    for size in crops.sizes(side):
      assert not size[0] % 32 and not size[1] % 32
      assert aspect(size) <= 4
      assert 0.87 * side**2 < size[0] * size[1] <= side**2
  areas = [w * h // 256 for w, h in SIZES_512]  # tokens of 16 x 16 pixels
  assert (min(areas), max(areas)) == (896, 1024)


def test_sizes_are_those_of_a_walk_along_the_border():
  for side, patch, bound in itertools.product(
    (1, 2, 3, 5, 8, 13, 16, 21), (1, 16, 32), (1, 1.5, 2, 3.99, 4, 9, 1e4)
  ):
    sizes = crops.sizes(side * patch, patch, max_aspect=bound)
    assert list(sizes) == walked(side**2, patch, bound)


@pytest.mark.parametrize(
  ("args", "bound"),
  [((500,), 4), ((0,), 4), ((-32,), 4), ((64, 0), 4), ((64,), 0.5)]
  + [((64,), bad) for bad in (math.inf, math.nan)],
)
def test_lists_that_cannot_be_are_refused(args, bound):
  with pytest.raises(ValueError, match="must be"):
    crops.sizes(*args, max_aspect=bound)


# The choice.


@pytest.mark.parametrize(
  ("picture", "size"),
  [
    ((640, 640), (512, 512)),
    ((4032, 3024), (576, 448)),
    ((3024, 4032), (448, 576)),
    ((1920, 1080), (672, 384)),  # 1.75 of 1.778
    ((1, 5000), (256, 1024)),
    ((5000, 1), (1024, 256)),
  ],
)
def test_nearest_by_hand(picture, size):
  assert crops.nearest(*picture, SIZES_512) == size


def test_every_size_is_nearest_to_itself():
  for sizes in (SIZES_512, crops.sizes(1024)):
    for w, h in sizes:
      assert crops.nearest(w, h, sizes) == (w, h)
      assert crops.nearest(3 * w, 3 * h, sizes) == (w, h)


def test_no_size_is_nearer_in_exact_arithmetic():
  rng = np.random.default_rng(0)
  for w, h in rng.integers(1, 6000, (200, 2)).tolist():

    def kept(size, w=w, h=h):
      across = fractions.Fraction(size[0], w)
      down = fractions.Fraction(size[1], h)
      return min(across, down) / max(across, down)

    found = crops.nearest(w, h, SIZES_512)
    assert kept(found) == max(map(kept, SIZES_512))


def test_of_equally_near_sizes_the_larger_tuple_is_chosen():
  for sizes in ([(480, 544), (544, 480)], [(544, 480), (480, 544)]):
    assert crops.nearest(100, 100, sizes) == (544, 480)
  assert crops.nearest(9, 9, [(32, 32), (64, 64), (48, 48)]) == (64, 64)


@pytest.mark.parametrize("sizes", [[], [(0, 32)], [(32,)], [(32, 32.0)]])
def test_a_choice_needs_sizes(sizes):
  with pytest.raises(ValueError, match="size"):
    crops.nearest(10, 10, sizes)


# The size that a user asks for.


def test_a_legal_size_is_answered_width_first():
  assert crops.check_size(height=256, width=1024) == (1024, 256)
  assert crops.check_size(height=48, width=16) == (16, 48)
  for w, h in SIZES_512:
    assert crops.check_size(height=h, width=w, multiple=32) == (w, h)


@pytest.mark.parametrize(
  ("height", "width", "nearest"),
  [
    (500, 700, "height=496 width=704"),
    (700, 500, "height=704 width=496"),
    (512, 500, "height=512 width=496"),
    (1, 1, "height=16 width=16"),
    (0, 0, "height=16 width=16"),
    (-512, 16, "height=16 width=16"),
    (1024, 128, "height=704 width=176"),  # of about the same area
  ],
)
def test_another_size_is_refused_with_the_nearest(height, width, nearest):
  with pytest.raises(ValueError, match=f"got .*{height=}.*{nearest}$"):
    crops.check_size(height=height, width=width)


def test_the_named_size_is_legal_and_none_is_nearer():
  rng = np.random.default_rng(1)
  for _ in range(400):
    multiple = int(rng.choice([1, 16, 32]))
    bound = float(rng.choice([1, 1.5, 2, 4, 4.7]))
    h, w = rng.integers(1, 30 * multiple, 2).tolist()
    options = {"multiple": multiple, "max_aspect": bound}
    try:
      assert crops.check_size(height=h, width=w, **options) == (w, h)
      continue
    except ValueError as error:
      named = str(error).split("height=")[-1].split(" width=")
    height, width = map(int, named)
    crops.check_size(height=height, width=width, **options)

    def change(high, wide, h=h, w=w, least=multiple):
      ratios = (high / max(h, least), wide / max(w, least))
      return sum(math.log(ratio) ** 2 for ratio in ratios)

    least = min(
      change(i * multiple, j * multiple)
      for i in range(1, 32)
      for j in range(1, 32)
      if aspect((i, j)) <= bound
    )
    assert change(height, width) <= least + 1e-12


def test_a_size_is_of_integers():
  with pytest.raises(TypeError, match="width must be an integer, got 512.0"):
    crops.check_size(height=512, width=512.0)
  with pytest.raises(ValueError, match="multiple must be positive"):
    crops.check_size(height=512, width=512, multiple=0)
  assert crops.check_size(height=np.int32(32), width=16) == (16, 32)
