import math

import numpy as np
import pytest

from paradiff.diffusion import schedule

SETTINGS = [(8, 4), (5, 5), (1, 1), (7, 1), (12, 3), (49, 30), (16, 16), (3, 9)]


def _make(num_steps, num_image_steps, *, start_rate=0.25, text_len=8, **more):
  return schedule.make_schedule(
    image_steps=schedule.image_steps(
      num_steps=num_steps,
      num_image_steps=num_image_steps,
      start_rate=start_rate,
    ),
    text_left=schedule.text_table(
      num_steps=num_steps, text_steps=num_steps, text_len=text_len
    ),
    image_left=schedule.image_table(num_steps=num_steps, image_len=1000),
    **more,
  )


def test_schedule_hand_worked_for_eight_steps_and_four_picture_updates():
  # linspace(2, 7, 4) = 2, 3.67, 5.33, 7; after step s the time left is
  # 7/8, 6/8 ... 0 and the picture keeps sin(pi u / 2).
  got = _make(8, 4)
  np.testing.assert_array_equal(got.step, range(8))
  np.testing.assert_array_equal(
    got.image_step, [s in (2, 4, 5, 7) for s in range(8)]
  )
  expected = [980, 923, 831, 707, 555, 382, 195, 0]
  np.testing.assert_array_equal(got.image_left[:, 1000], expected)
  np.testing.assert_array_equal(got.image_left[:, 1], [0] * 8)
  np.testing.assert_array_equal(got.text_commits[:, 8], [1] * 8)
  np.testing.assert_array_equal(got.text_commits[:, 4], [1, 0] * 4)
  assert got.num_steps == 8


def test_text_remaining_hand_worked():
  left = [schedule.text_remaining(5, step=s, num_steps=4) for s in range(4)]
  assert left == [3, 2, 1, 0]


@pytest.mark.parametrize("num_masked", [0, 1, 5, 48, 256])
@pytest.mark.parametrize("num_steps", [1, 3, 32, 49, 128])
def test_text_commits_are_never_negative_and_add_up_to_all(
  num_masked, num_steps
):
  left = schedule.text_remaining(
    np.int32(num_masked), step=np.arange(num_steps), num_steps=num_steps
  )
  counts = -np.diff(left, prepend=num_masked)
  assert counts.sum() == num_masked
  assert counts.min() >= 0
  for step in range(num_steps):  # exact rationals, no rounding
    assert left[step] == math.floor(
      num_masked * (num_steps - 1 - step) / num_steps + 1e-9
    )
  assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("start_rate", [0.0, 0.25, 0.9])
def test_image_steps_are_ascending_in_range_and_include_the_last(
  setting, start_rate
):
  num_steps, num_image_steps = setting
  due = schedule.image_steps(
    num_steps=num_steps, num_image_steps=num_image_steps, start_rate=start_rate
  )
  assert 1 <= len(due) <= num_image_steps
  assert (np.diff(due) > 0).all()
  assert due[0] >= int(start_rate * num_steps)
  assert due[-1] == num_steps - 1
  if num_image_steps == num_steps and start_rate == 0.0:
    np.testing.assert_array_equal(due, range(num_steps))


def test_idle_steps_are_skipped_where_there_are_more_steps_than_tokens():
  # 2 text tokens in 8 steps: floor(2 (7 - s) / 8) falls at s = 0 and s = 4.
  got = _make(8, 2, start_rate=0.5, text_len=2)
  np.testing.assert_array_equal(got.step, [0, 4, 7])
  np.testing.assert_array_equal(got.image_step, [False, True, True])


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("text_len", [1, 4, 200])
def test_every_active_step_has_work_and_no_work_is_skipped(setting, text_len):
  num_steps, num_image_steps = setting
  got = _make(num_steps, num_image_steps, text_len=text_len)
  left = [text_len] + [
    text_len * (num_steps - 1 - s) // num_steps for s in range(num_steps)
  ]
  due = schedule.image_steps(
    num_steps=num_steps, num_image_steps=num_image_steps, start_rate=0.25
  )
  expected = [s for s in range(num_steps) if left[s + 1] < left[s] or s in due]
  assert got.step.tolist() == expected
  assert got.step[-1] == num_steps - 1
  assert (np.diff(got.image_left[:, 1000]) < 0).all()
  # Whatever the number of masks, the active steps commit all of them.
  np.testing.assert_array_equal(
    got.text_commits.sum(axis=0), np.arange(text_len + 1)
  )
  assert got.text_commits.min() >= 0


@pytest.mark.parametrize(
  "change",
  [
    {"num_steps": 0},
    {"num_image_steps": 0},
    {"start_rate": 1.0},
    {"start_rate": -0.1},
  ],
  ids=str,
)
def test_schedule_refuses_what_is_out_of_range(change):
  settings = {"num_steps": 4, "num_image_steps": 2, "start_rate": 0.0}
  with pytest.raises(ValueError, match="must be positive and start_rate"):
    schedule.image_steps(**{**settings, **change})
