"""The orders of decoding (table 10 of the paper), and the picture first."""

import dataclasses

import numpy as np
import pytest
import toy
import toy_runs

from paradiff import layout as layout_lib
from paradiff.diffusion import sampler
from paradiff.diffusion import settings

CONFIG = settings.SamplerConfig(num_steps=8, num_image_steps=8)
LAYOUT = layout_lib.Layout(grid=(4, 4), prompt_len=2, text_len=8)


def _counts(decoding):
  """Return the clock, text commits and picture tokens left of a full run."""
  schedule = sampler.schedule_of(CONFIG.decoded(decoding), LAYOUT)
  text = dict(zip(schedule.step, schedule.text_commits[:, -1], strict=True))
  left = {
    step: row[-1]
    for step, row, due in zip(
      schedule.step, schedule.image_left, schedule.image_step, strict=True
    )
    if due
  }
  return text, left


def test_counts_hand_worked():
  # floor(16 sin(pi/2 u)) at u = 3/4, 1/2, 1/4, 0 of the picture's own clock.
  own = {4: 14, 5: 11, 6: 6, 7: 0}
  text, left = _counts("sequential")
  assert text == {0: 2, 1: 2, 2: 2, 3: 2, 4: 0, 5: 0, 6: 0, 7: 0}
  assert left == own
  text, left = _counts("semi_parallel")
  assert text == dict.fromkeys(range(8), 1)
  assert left == own
  text, left = _counts("picture_first")
  assert text == {0: 0, 1: 0, 2: 0, 3: 0, 4: 2, 5: 2, 6: 2, 7: 2}
  assert left == {step - 4: count for step, count in own.items()}
  _, left = _counts("parallel")
  # On the shared clock the picture of the fifth step has 3/8 of the time left.
  assert left[4] == int(16 * np.sin(np.pi / 2 * 3 / 8))


@pytest.mark.parametrize("decoding", settings.DECODINGS)
def test_a_run_keeps_the_order_of_its_decoding(decoding):
  config = dataclasses.replace(
    toy_runs.SAMPLED, num_steps=6, num_image_steps=6, image_start_rate=0.0
  ).decoded(decoding)
  run = toy_runs.run(config)
  row = np.asarray(run.commit_step)[0]  # all of it was masked
  text, image = row[toy.LAYOUT.text_index], row[toy.LAYOUT.image_index]
  assert (row < 6).all()
  if decoding == "sequential":
    assert text.max() < 3 <= image.min()
  elif decoding == "picture_first":
    assert image.max() < 3 <= text.min()
  elif decoding == "semi_parallel":
    assert image.min() >= 3 and text.min() < 3 < text.max()
  else:
    assert image.min() == 0 and text.max() == 4  # five words, six steps


def test_a_picture_drawn_first_has_not_seen_a_word():
  # Other words are proposed, and the picture is the same.
  config = dataclasses.replace(
    toy_runs.SAMPLED, num_steps=6, num_image_steps=3
  ).decoded("picture_first")
  hot = dataclasses.replace(config, text_temperature=9.0)
  one, other = (np.asarray(toy_runs.run(c).tokens)[0] for c in (config, hot))
  image, text = toy.LAYOUT.image_index, toy.LAYOUT.text_index
  np.testing.assert_array_equal(one[image], other[image])
  assert (one[text] != other[text]).any()


def test_going_back_to_parallel_leaves_nothing_behind():
  for decoding in settings.DECODINGS:
    there = CONFIG.decoded(decoding, start_rate=CONFIG.image_start_rate)
    if decoding != "picture_first":  # which has no start of the picture
      assert there.decoded("parallel") == CONFIG
    assert there.decoded("parallel").text_start == 0


def test_bad_decodings_are_refused():
  with pytest.raises(ValueError, match="decoding must be of"):
    settings.SamplerConfig(decoding="backwards")
  with pytest.raises(ValueError, match="leave the text a step"):
    settings.SamplerConfig(decoding="sequential", image_start_rate=0.0)
  for rates in (
    dict(),
    dict(text_start_rate=0.1),  # no step of four
    dict(image_start_rate=0.5, text_start_rate=0.5),
    dict(text_start_rate=0.5, text_end_rate=0.5),
  ):
    fields = dict(image_start_rate=0.0, num_steps=4, num_image_steps=2) | rates
    with pytest.raises(ValueError, match="picture_first must begin"):
      settings.SamplerConfig(decoding="picture_first", **fields)
  with pytest.raises(ValueError, match="text_start_rate must be 0 unless"):
    settings.SamplerConfig(text_start_rate=0.5)
