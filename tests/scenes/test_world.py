"""Laws of scenes and their pictures."""

import numpy as np
import pytest

from paradiff.scenes import render
from paradiff.scenes import world


def test_scene_sorts_its_things_and_knows_its_empty_cells():
  last = world.Thing(15, "big", "red", "star")
  first = world.Thing(0, "small", "blue", "circle")
  scene = world.Scene((last, first))
  assert scene.things == (first, last)
  assert scene == world.Scene((first, last))
  assert scene.empty_cells() == tuple(range(1, 15))
  assert scene.at(15) == last
  assert scene.at(3) is None


def test_two_things_in_one_cell_are_refused():
  thing = world.Thing(3, "big", "red", "star")
  with pytest.raises(ValueError, match="at most one object"):
    world.Scene((thing, world.Thing(3, "small", "red", "star")))


@pytest.mark.parametrize(
  "values",
  [
    (16, "big", "red", "star"),
    (-1, "big", "red", "star"),
    (0, "huge", "red", "star"),
    (0, "big", "pink", "star"),
    (0, "big", "red", "heart"),
  ],
)
def test_unknown_attributes_are_refused(values):
  with pytest.raises(ValueError):
    world.Thing(*values)


def test_neighbours_share_a_side():
  assert world.neighbours(0) == (1, 4)
  assert world.neighbours(5) == (1, 4, 6, 9)
  assert world.neighbours(15) == (11, 14)


def test_cells_are_named_like_a_chess_board():
  assert world.CELL_NAMES[0] == "a1"
  assert world.CELL_NAMES[6] == "c2"
  assert world.CELL_NAMES[15] == "d4"


def test_render_draws_each_thing_in_its_cell_only():
  thing = world.Thing(6, "big", "green", "square")
  picture = render.render(world.Scene((thing,)))
  assert picture.shape == (64, 64, 3)
  assert picture.dtype == np.uint8
  rows, columns = np.nonzero((picture != render.CANVAS_RGB).any(2))
  assert 16 <= rows.min() and rows.max() < 32
  assert 32 <= columns.min() and columns.max() < 48
  np.testing.assert_array_equal(picture[24, 40], render.COLOUR_RGB["green"])


def test_shapes_are_anti_aliased():
  alpha = render.coverage("circle", "big")
  assert ((alpha > 0.05) & (alpha < 0.95)).any()
  assert abs(alpha.sum() - np.pi * render.RADIUS_PIXELS["big"] ** 2) < 1.0
