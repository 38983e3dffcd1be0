"""Advantages are standard scores within a group, of the credit of each unit."""

import jax.numpy as jnp
import numpy as np
import pytest

from paradiff.rl import advantage

REWARDS = np.array([[1.0, 3.0, 2.0, 4.0], [0.0, -1.0, 0.5, 0.5]], np.float32)
BY_HAND = {
  "level": [[1.0, 3.0, 2.0], [0.0, -1.0, 0.5]],
  "increment": [[1.0, 2.0, -1.0], [0.0, -1.0, 1.5]],
  "to_go": [[2.5, 3.0, 3.0], [0.0, 0.0, 0.5]],
  "final": [[4.0, 4.0, 4.0], [0.5, 0.5, 0.5]],
  "mix": [[2.5, 3.5, 3.0], [0.25, -0.25, 0.5]],
}


def _values(num=12, units=3):
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.normal(0.4, 0.3, (num, units)), jnp.float32)


@pytest.mark.parametrize("kind", advantage.CREDITS)
def test_credit_has_the_values_computed_by_hand(kind):
  got = advantage.credit(kind, jnp.asarray(REWARDS))
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, BY_HAND[kind], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", advantage.CREDITS)
def test_one_unit_has_a_credit_of_every_kind(kind):
  got = advantage.credit(kind, jnp.asarray([[1.0, 3.0]], jnp.float32))
  expected = {"to_go": 2.0, "final": 3.0, "mix": 2.0}.get(kind, 1.0)
  np.testing.assert_allclose(got, [[expected]], rtol=0, atol=1e-6)


def test_unknown_credit_is_refused():
  with pytest.raises(ValueError, match="credit must be one of .*got 'gain'"):
    advantage.credit("gain", jnp.asarray(REWARDS))


def test_advantages_have_the_values_computed_by_hand():
  # Two prompts, two rollouts each, two units.
  values = jnp.asarray([[1.0, 0.0], [3.0, 0.0], [5.0, 7.0], [2.0, 8.0]])
  got, is_dead = advantage.group_advantages(values, group_size=2)
  np.testing.assert_allclose(
    got, [[-1.0, 0.0], [1.0, 0.0], [1.0, -1.0], [-1.0, 1.0]], atol=1e-6
  )
  np.testing.assert_array_equal(is_dead, [[False, True], [False, False]])


@pytest.mark.parametrize("group_size", [2, 3, 6, 12])
def test_each_group_and_unit_has_mean_0_and_population_std_1(group_size):
  got, is_dead = advantage.group_advantages(_values(), group_size=group_size)
  groups = np.asarray(got, np.float64).reshape(-1, group_size, 3)
  assert not is_dead.any() and is_dead.shape == (12 // group_size, 3)
  np.testing.assert_allclose(groups.mean(axis=1), 0.0, atol=1e-5)
  np.testing.assert_allclose(groups.std(axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize(("scale", "shift"), [(7.0, -3.0), (0.25, 100.0)])
def test_affine_maps_of_rewards_change_no_advantage(scale, shift):
  values = _values()
  expected, _ = advantage.group_advantages(values, group_size=4)
  got, _ = advantage.group_advantages(scale * values + shift, group_size=4)
  np.testing.assert_allclose(got, expected, atol=1e-3)


@pytest.mark.parametrize("value", [0.1, 1.0 / 3.0, 123.456])
def test_equal_rewards_give_exact_zeros(value):
  # A sum of 7 equal float32 is not 7 times one of them.
  values = jnp.full((14, 2), value, jnp.float32)
  got, is_dead = advantage.group_advantages(values, group_size=7)
  assert is_dead.all()
  np.testing.assert_array_equal(got, 0.0)


def test_a_group_is_dead_below_the_threshold_only():
  spread = jnp.asarray([[-1.0], [1.0]], jnp.float32)  # std 1
  values = jnp.concatenate([0.9 * spread, 1.1 * spread])
  got, is_dead = advantage.group_advantages(values, group_size=2, min_std=1.0)
  np.testing.assert_array_equal(is_dead, [[True], [False]])
  np.testing.assert_allclose(got[:, 0], [0.0, 0.0, -1.0, 1.0], atol=1e-6)
  _, is_dead = advantage.group_advantages(values * 1e-4, group_size=2)
  np.testing.assert_array_equal(is_dead, [[True], [False]])


@pytest.mark.parametrize("group_size", [1, 5, 0])
def test_group_sizes_that_do_not_fit_are_refused(group_size):
  with pytest.raises(ValueError, match="group_size must be at least 2"):
    advantage.group_advantages(_values(), group_size=group_size)
