"""Units of credit: which steps they take and how much they can score."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import rl_toy
import toy

from paradiff.diffusion import sampler
from paradiff.diffusion import settings
from paradiff.rl import units as units_lib

# More steps than words: 3 of 12 are idle, and the picture's schedule is so
# fine that the sampler commits codes ahead of it.
CONFIG = settings.SamplerConfig(
  num_steps=12,
  num_image_steps=6,
  image_start_rate=0.3,
  text_temperature=1.0,
  image_temperature=1.0,
)
LAYOUT = toy.LAYOUT
SCHEDULE = sampler.schedule_of(CONFIG, LAYOUT)
NUM_DRAWS = 300


def _active():
  """Return the steps that update the picture, and those that do anything."""
  words, steps = LAYOUT.text_len, CONFIG.num_steps
  left = [words * (steps - s) // steps for s in range(steps + 1)]
  falls = {s for s in range(steps) if left[s + 1] < left[s]}
  image = oracles.image_steps(CONFIG)
  return sorted(image), sorted(image | falls)


@functools.cache
def _draws(kind, num):
  """Return NUM_DRAWS starts and stops, int[NUM_DRAWS, R] each."""
  config = units_lib.UnitsConfig(kind=kind, num=num)
  keys = jax.random.split(jax.random.key(3), NUM_DRAWS)
  draw = jax.vmap(functools.partial(units_lib.draw, config, SCHEDULE))
  units = jax.jit(draw, compiler_options=rl_toy.FAST)(keys)
  assert units.start.dtype == units.stop.dtype == jnp.int32
  return np.asarray(units.start), np.asarray(units.stop)


def test_candidates_are_the_steps_that_commit_something():
  image, active = _active()
  assert len(image) < len(active) < CONFIG.num_steps
  for kind in units_lib.KINDS:
    got = units_lib.candidates(units_lib.UnitsConfig(kind, 2), SCHEDULE)
    of_image = kind in ("image", "stratified", "with_last")
    assert got.tolist() == (image if of_image else active), kind


@pytest.mark.parametrize("kind", units_lib.ISOLATED)
@pytest.mark.parametrize("num", [1, 3])
def test_isolated_steps_are_distinct_ascending_and_reach_every_step(kind, num):
  image, active = _active()
  steps = active if kind == "all" else image
  start, stop = _draws(kind, num)
  assert start.shape == (NUM_DRAWS, num)
  np.testing.assert_array_equal(stop, start + 1)
  assert (np.diff(start, axis=1) > 0).all()
  wanted = {steps[-1]} if kind == "with_last" and num == 1 else set(steps)
  assert set(start.ravel().tolist()) == wanted


def test_steps_of_kind_all_are_equally_likely():
  _, active = _active()
  start, _ = _draws("all", 3)
  counts = np.array([(start == step).sum() for step in active])
  share = 3 / len(active)
  deviation = np.sqrt(NUM_DRAWS * share * (1.0 - share))
  assert np.abs(counts - NUM_DRAWS * share).max() < 4.0 * deviation


def test_stratified_takes_one_of_each_equal_stratum():
  image, _ = _active()
  start, _ = _draws("stratified", 3)
  rank = np.searchsorted(image, start)
  np.testing.assert_array_equal(rank // 2, np.tile([0, 1, 2], (NUM_DRAWS, 1)))
  share = (rank % 2).mean(axis=0)
  assert np.abs(share - 0.5).max() < 4.0 * 0.5 / np.sqrt(NUM_DRAWS)


def test_with_last_takes_the_last_and_one_of_each_stratum_of_the_others():
  image, _ = _active()
  start, _ = _draws("with_last", 3)
  assert (start[:, -1] == image[-1]).all()
  rank = np.searchsorted(image, start[:, :-1])
  # Five others in strata of 2 and 3.
  assert set(rank[:, 0].tolist()) == {0, 1}
  assert set(rank[:, 1].tolist()) == {2, 3, 4}


@pytest.mark.parametrize("num", [1, 2, 3, 4, 9])
def test_slices_cut_the_whole_clock_into_equal_shares(num):
  _, active = _active()
  start, stop = (x[0] for x in _draws("slices", num))
  assert start[0] == 0 and stop[-1] == CONFIG.num_steps
  np.testing.assert_array_equal(start[1:], stop[:-1])
  steps = [
    sum(a <= step < b for step in active)
    for a, b in zip(start, stop, strict=True)
  ]
  assert max(steps) - min(steps) <= 1 and min(steps) > 0


def test_slices_begin_with_the_clock_where_its_first_steps_are_idle():
  picture = dataclasses.replace(LAYOUT, text_len=0, answer=("image",))
  schedule = sampler.schedule_of(CONFIG, picture)
  assert schedule.step[0] > 0
  units = units_lib.draw(
    units_lib.UnitsConfig("slices", 2), schedule, jax.random.key(0)
  )
  image, _ = _active()
  np.testing.assert_array_equal(units.start, [0, image[3]])
  np.testing.assert_array_equal(units.stop, [image[3], CONFIG.num_steps])


def test_masked_units_are_whole_runs():
  start, stop = _draws("masked", 4)
  assert (start == 0).all() and (stop == CONFIG.num_steps).all()


def test_rewards_are_taken_after_each_unit_and_at_the_end():
  units = units_lib.Units(
    start=jnp.asarray([1, 4], jnp.int32), stop=jnp.asarray([3, 5], jnp.int32)
  )
  got = units_lib.points(units, num_steps=12)
  np.testing.assert_array_equal(got, [3, 5, 12])


@functools.cache
def _commits():
  """Count commits of each step, int[S, 2], of runs that begin anyhow."""
  model = rl_toy.model(toy.LAYOUT, toy.VOCAB)
  answer = rl_toy.partial_answers(layout=toy.LAYOUT, vocab=toy.VOCAB)
  run = rl_toy.rollout(
    CONFIG,
    model,
    rl_toy.draw_params(layout=toy.LAYOUT, vocab=toy.VOCAB),
    rl_toy.conditions(
      1, layout=toy.LAYOUT, vocab=toy.VOCAB, repeat=len(answer)
    ),
    answer,
    points=jnp.asarray([CONFIG.num_steps]),
    key=jax.random.key(0),
  )
  when = np.asarray(run.trajectory.commit_step)
  return np.array(
    [
      [
        (when[:, i] == s).sum(1)
        for i in (LAYOUT.text_index, LAYOUT.image_index)
      ]
      for s in range(CONFIG.num_steps)
    ]
  )  # [S, 2, B]


@pytest.mark.parametrize("kind", [*units_lib.ISOLATED, "slices"])
@pytest.mark.parametrize("num", [1, 3])
def test_capacity_is_the_most_that_a_unit_commits_in_any_run(kind, num):
  most = np.zeros(2, int)
  for start, stop in zip(*_draws(kind, num), strict=True):
    for a, b in zip(start, stop, strict=True):
      most = np.maximum(most, _commits()[a:b].sum(axis=0).max(axis=-1))
  config = units_lib.UnitsConfig(kind=kind, num=num)
  got = units_lib.capacity(config, CONFIG, LAYOUT, score_set="committed")
  if kind == "with_last" and num == 1:
    # Room for any step of the picture.
    assert (got >= most).all()
  else:
    assert got == tuple(most)


def test_masks_and_candidates_need_room_for_every_token():
  everything = (LAYOUT.text_len, LAYOUT.image_len)
  for kind, score_set in (("masked", "committed"), ("all", "candidates")):
    config = units_lib.UnitsConfig(kind=kind, num=2)
    got = units_lib.capacity(config, CONFIG, LAYOUT, score_set=score_set)
    assert got == everything


def test_an_answer_of_one_modality_needs_no_room_for_the_other():
  for layout, expected in (
    (dataclasses.replace(LAYOUT, text_len=0, answer=("image",)), (0, 6)),
    (
      dataclasses.replace(
        LAYOUT,
        grid=None,
        prefix=("task", "bos", "prompt"),
        answer=("bos", "text"),
      ),
      (5, 0),
    ),
  ):
    config = units_lib.UnitsConfig(kind="slices", num=1)
    got = units_lib.capacity(config, CONFIG, layout, score_set="committed")
    assert got == expected


def test_settings_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match="kind must be one of .*got 'some'"):
    units_lib.UnitsConfig(kind="some")
  with pytest.raises(ValueError, match="num must be at least 1, got 0"):
    units_lib.UnitsConfig(num=0)
  image, active = _active()
  for kind, count in (("image", len(image)), ("slices", len(active))):
    config = units_lib.UnitsConfig(kind=kind, num=count + 1)
    with pytest.raises(ValueError, match=f"at most the {count} steps"):
      units_lib.draw(config, SCHEDULE, jax.random.key(0))
