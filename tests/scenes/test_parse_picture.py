"""Laws of the picture parser, on scenes up to a full canvas."""

import numpy as np
import pytest

from paradiff.scenes import parse_picture
from paradiff.scenes import phrases
from paradiff.scenes import render
from paradiff.scenes import world

_NUM_SCENES = 2000


def _blur(picture, kernel):
  """Blur with a separable kernel; the border repeats its last pixel."""
  kernel = np.asarray(kernel, np.float64)
  kernel = kernel / kernel.sum()
  reach = len(kernel) // 2
  pad = ((reach, reach), (reach, reach), (0, 0))
  padded = np.pad(picture.astype(np.float64), pad, mode="edge")
  side = len(picture)
  rows = sum(w * padded[i : i + side] for i, w in enumerate(kernel))
  both = sum(w * rows[:, i : i + side] for i, w in enumerate(kernel))
  return np.rint(both).astype(np.uint8)


def _gaussian(sigma):
  reach = int(np.ceil(3 * sigma))
  return np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)


def _scenes(num):
  rng = np.random.default_rng(11)
  for _ in range(num):
    most = 16 if rng.random() < 0.3 else 6
    yield phrases.random_scene(rng, min_things=0, max_things=most)


@pytest.mark.parametrize(
  ("name", "change"),
  [
    ("as drawn", lambda p: p),
    ("box blur of 3 x 3", lambda p: _blur(p, [1, 1, 1])),
    ("gaussian blur of one pixel", lambda p: _blur(p, _gaussian(1.0))),
  ],
)
def test_every_fact_of_2000_scenes_is_read_back(name, change):
  for scene in _scenes(_NUM_SCENES):
    parsed = parse_picture.parse(change(render.render(scene)))
    assert parsed.scene == scene, name


def test_facts_survive_noise_a_shift_and_faded_colour():
  rng = np.random.default_rng(5)
  for scene in _scenes(200):
    picture = render.render(scene).astype(np.float64)
    noisy = picture + rng.normal(0, 15, picture.shape)
    faded = 0.85 * picture + 0.15 * 245
    for changed in (noisy, faded, np.roll(picture, 1, axis=0)):
      changed = np.clip(changed, 0, 255).astype(np.uint8)
      assert parse_picture.parse(changed).scene == scene


def test_quality_is_one_as_drawn_and_falls_with_damage():
  rng = np.random.default_rng(6)
  for scene in _scenes(50):
    picture = render.render(scene)
    assert parse_picture.parse(picture).quality == 1.0
    if not scene.things:
      continue
    blurred = parse_picture.parse(_blur(picture, _gaussian(1.0)))
    worse = parse_picture.parse(_blur(picture, _gaussian(2.0)))
    assert 1.0 > blurred.quality > worse.quality > 0.0
  noise = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
  parsed = parse_picture.parse(noise)
  assert not parsed.scene.things
  assert parsed.quality < 0.1


def test_a_shape_drawn_half_is_not_read_as_whole():
  for size in world.SIZES:
    for shape in world.SHAPES:
      scene = world.Scene((world.Thing(5, size, "red", shape),))
      picture = render.render(scene)
      picture[16:32, 16:24] = render.CANVAS_RGB
      parsed = parse_picture.parse(picture)
      assert parsed.scene != scene
      assert parsed.quality < 0.95


def test_an_empty_canvas_is_clean_and_shows_nothing():
  parsed = parse_picture.parse(render.render(world.Scene()))
  assert parsed == parse_picture.ParsedPicture(world.Scene(), 1.0)


@pytest.mark.parametrize(
  "picture",
  [
    np.zeros((32, 32, 3), np.uint8),
    np.zeros((64, 64), np.uint8),
    np.zeros((64, 64, 4), np.uint8),
    np.zeros((64, 64, 3), np.float32),
  ],
)
def test_pictures_of_another_kind_are_refused(picture):
  with pytest.raises(ValueError, match=r"uint8\[64, 64, 3\], got"):
    parse_picture.parse(picture)
