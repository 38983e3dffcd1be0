"""Intervals over seeds and prompts, held against loops and known cases."""
# mypy: disallow-untyped-defs=False

import numpy as np
import pytest

from paradiff.evaluate import bootstrap


def _by_hand(values, resamples):
  """Return mean, low and high of float64[S, N] by loops over the resamples."""
  means = []
  for seeds, prompts in zip(resamples.seeds, resamples.prompts, strict=True):
    drawn = [
      values[s, n]
      for s in range(len(values))
      for n in range(values.shape[1])
      for _ in range(int(seeds[s] * prompts[n]))
    ]
    drawn = [value for value in drawn if not np.isnan(value)]
    means.append(sum(drawn) / len(drawn) if drawn else np.nan)
  low, high = np.nanpercentile(means, (2.5, 97.5))
  return np.nanmean(values), low, high


def test_intervals_equal_a_loop_that_repeats_what_was_drawn():
  rng = np.random.default_rng(0)
  values = rng.normal(size=(3, 7, 2))
  values[:, :3, 1] = np.nan  # a metric that some prompts lack
  values[1, 5, 0] = np.nan
  resamples = bootstrap.draw(3, 7, seed=4, num_resamples=60)
  for column, interval in enumerate(bootstrap.intervals(values, resamples)):
    expected = _by_hand(values[..., column], resamples)
    np.testing.assert_allclose(
      (interval.mean, interval.low, interval.high), expected, rtol=1e-12
    )
    assert interval.num == (7, 4)[column]


def test_two_seeds_that_differ_on_every_prompt_span_the_whole_interval():
  values = np.stack([np.zeros((5, 1)), np.ones((5, 1))])
  (interval,) = bootstrap.intervals(values, bootstrap.draw(2, 5))
  assert (interval.mean, interval.low, interval.high) == (0.5, 0.0, 1.0)


def test_identical_systems_differ_by_exactly_zero():
  values = np.random.default_rng(1).normal(size=(2, 9, 3))
  resamples = bootstrap.draw(2, 9)
  for interval in bootstrap.differences(values, values.copy(), resamples):
    assert (interval.mean, interval.low, interval.high) == (0.0, 0.0, 0.0)
    assert not bootstrap.is_clear(interval)


def test_a_constant_lead_is_exact_however_much_prompts_and_seeds_vary():
  theirs = 100 * np.random.default_rng(2).normal(size=(3, 8, 1))
  resamples = bootstrap.draw(3, 8)
  (lead,) = bootstrap.differences(theirs + 2.0, theirs, resamples)
  np.testing.assert_allclose((lead.mean, lead.low, lead.high), 2.0)
  assert bootstrap.is_clear(lead)
  (lag,) = bootstrap.differences(theirs - 2.0, theirs, resamples)
  assert bootstrap.is_clear(lag)
  # Unpaired, nothing could be said.
  (alone,) = bootstrap.intervals(theirs, resamples)
  assert alone.high - alone.low > 20


def test_a_system_without_seeds_is_held_against_every_seed():
  rng = np.random.default_rng(3)
  ours, theirs = rng.normal(size=(3, 6, 1)), rng.normal(size=(1, 6, 1))
  resamples = bootstrap.draw(3, 6)
  repeated = np.repeat(theirs, 3, axis=0)
  assert bootstrap.differences(ours, theirs, resamples) == (
    bootstrap.differences(ours, repeated, resamples)
  )
  assert bootstrap.differences(theirs, theirs * 2, resamples) == (
    bootstrap.differences(repeated, repeated * 2, resamples)
  )


def test_one_seed_leaves_the_bootstrap_of_prompts():
  values = np.random.default_rng(4).normal(size=(1, 50, 1))
  resamples = bootstrap.draw(1, 50, seed=5)
  assert (resamples.seeds == 1).all()
  (interval,) = bootstrap.intervals(values, resamples)
  width = interval.high - interval.low
  error = values.std() / np.sqrt(50)
  np.testing.assert_allclose(width, 2 * 1.96 * error, rtol=0.08)


def test_prompts_are_the_same_for_systems_with_other_numbers_of_seeds():
  one, three = bootstrap.draw(1, 20, seed=6), bootstrap.draw(3, 20, seed=6)
  np.testing.assert_array_equal(one.prompts, three.prompts)
  np.testing.assert_array_equal(three.prompts.sum(axis=1), 20)
  np.testing.assert_array_equal(three.seeds.sum(axis=1), 3)


def test_intervals_cover_the_truth_when_seeds_and_prompts_vary():
  num_seeds, num_prompts, num_trials = 12, 60, 600
  rng = np.random.default_rng(7)
  values = (
    rng.normal(size=(num_seeds, 1, num_trials))
    + rng.normal(size=(1, num_prompts, num_trials))
    + rng.normal(size=(num_seeds, num_prompts, num_trials))
  )
  resamples = bootstrap.draw(num_seeds, num_prompts, num_resamples=1000)

  def coverage(array, drawn):
    found = bootstrap.intervals(array, drawn)
    return np.mean([i.low <= 0.0 <= i.high for i in found])

  # Twelve seeds: the shortfall of a bootstrap of so few is some 3 points.
  assert 0.88 < coverage(values, resamples) < 0.98
  # Prompts alone take the luck of the seeds for a fact.
  pooled = values.mean(axis=0, keepdims=True)
  alone = bootstrap.draw(1, num_prompts, num_resamples=1000)
  assert coverage(pooled, alone) < 0.75


def test_nothing_known_gives_not_a_number():
  values = np.full((2, 4, 1), np.nan)
  (interval,) = bootstrap.intervals(values, bootstrap.draw(2, 4))
  assert interval.num == 0
  assert np.isnan(interval.mean)
  assert not bootstrap.is_clear(interval)


def test_values_of_other_sizes_are_refused():
  resamples = bootstrap.draw(2, 4)
  with pytest.raises(ValueError, match=r"\(2, 4\) seeds and prompts"):
    bootstrap.intervals(np.zeros((2, 5, 1)), resamples)
  with pytest.raises(ValueError, match="num_prompts=0"):
    bootstrap.draw(2, 0)
