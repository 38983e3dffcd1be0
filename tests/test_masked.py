import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from paradiff import masked


def test_masked_mean_hand_worked():
  x = jnp.array([[1.0, 2.0, 6.0], [4.0, 5.0, 9.0]])
  mask = jnp.array([[True, False, True], [False, False, False]])
  assert masked.masked_mean(x, mask) == 3.5
  np.testing.assert_array_equal(masked.masked_mean(x, mask, axis=1), [3.5, 0.0])
  np.testing.assert_array_equal(
    masked.masked_mean(x, mask, axis=0), [1.0, 0.0, 6.0]
  )


def test_masked_mean_of_nothing_is_zero_with_zero_gradient():
  x = jnp.array([1.0, jnp.nan])
  mask = jnp.array([False, False])
  value, gradient = jax.value_and_grad(masked.masked_mean)(x, mask)
  assert value == 0.0
  np.testing.assert_array_equal(gradient, [0.0, 0.0])


def test_masked_mean_ignores_what_does_not_take_part():
  x = jnp.array([1.0, jnp.nan, jnp.inf, 3.0])
  mask = jnp.array([True, False, False, True])
  assert masked.masked_mean(x, mask) == 2.0
  gradient = jax.grad(masked.masked_mean)(x, mask)
  np.testing.assert_array_equal(gradient, [0.5, 0.0, 0.0, 0.5])


def test_descending_rank_hand_worked():
  x = jnp.array([[3.0, 7.0, 3.0], [-jnp.inf, 0.0, -0.0]])
  np.testing.assert_array_equal(
    masked.descending_rank(x), [[1, 0, 2], [2, 0, 1]]
  )


def test_descending_rank_is_a_permutation_with_ties_by_position():
  rng = np.random.default_rng(0)
  x = rng.integers(0, 5, (40, 17)).astype(np.float32)
  expected = np.empty(x.shape, np.int32)
  for row in range(len(x)):
    order = sorted(range(x.shape[1]), key=lambda i: (-x[row, i], i))
    expected[row, order] = np.arange(x.shape[1])
  rank = jax.jit(masked.descending_rank)(x)
  assert rank.dtype == jnp.int32
  np.testing.assert_array_equal(rank, expected)
  np.testing.assert_array_equal(masked.descending_rank(x), rank)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_token_logp_equals_log_softmax(scale):
  rng = np.random.default_rng(0)
  logits = (scale * rng.standard_normal((3, 4, 11))).astype(np.float32)
  logits[0, 0, 3] = np.finfo(np.float32).min
  tokens = rng.integers(0, 11, (3, 4))
  tokens[0, 0] = 5
  expected = np.take_along_axis(
    oracles.log_softmax(logits), tokens[..., None], -1
  )[..., 0]
  got = jax.jit(masked.token_logp)(logits, jnp.asarray(tokens))
  np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
  assert (np.asarray(got) <= 0.0).all()
