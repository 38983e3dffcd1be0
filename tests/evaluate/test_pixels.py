"""Laws of the distance to the true picture."""

import math

import numpy as np
import pytest

from paradiff.evaluate import pixels

BLACK = np.zeros((4, 4, 3), np.uint8)


def test_by_hand():
  source, target, output = BLACK.copy(), BLACK.copy(), BLACK.copy()
  target[0] = 255  # a quarter is to change
  output[0, :2] = 255  # half of it did
  output[3, 3, 0] = 51  # a fifth, in one channel of one pixel of 12
  error, changed, kept = pixels.errors(output, target, source)
  assert changed == pytest.approx(50.0)
  assert kept == pytest.approx(20.0 / 3 / 12)
  assert error == pytest.approx(changed / 4 + kept * 3 / 4)


def test_the_truth_has_no_error_and_a_copy_keeps_all():
  rng = np.random.default_rng(0)
  target = rng.integers(0, 256, (8, 8, 3), np.uint8)
  source = target.copy()
  source[:2] = 255 - source[:2]
  assert pixels.errors(target, target, source) == (0.0, 0.0, 0.0)
  error, changed, kept = pixels.errors(source, target, source)
  assert error > 0
  assert changed > error
  assert kept == 0.0


def test_what_no_eye_sees_is_no_change():
  source = BLACK + np.uint8(pixels.CHANGE_LEVELS - 1)
  _, changed, kept = pixels.errors(BLACK, BLACK, source)
  assert math.isnan(changed)
  assert kept == 0.0


def test_without_an_input_every_pixel_is_to_change():
  white = np.full_like(BLACK, 255)
  error, changed, kept = pixels.errors(white, BLACK, None)
  assert error == changed == 100.0
  assert math.isnan(kept)


def test_pictures_of_other_sizes_are_refused():
  with pytest.raises(ValueError, match="one size"):
    pixels.errors(BLACK[:2], BLACK, None)
