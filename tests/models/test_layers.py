"""Products that are summed in float32, also where the backend has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paradiff.models import layers

SHAPES = ((3, 64), (64, 5))


def _operands(dtype):
  left, right = (
    jax.random.normal(jax.random.key(i), shape)
    for i, shape in enumerate(SHAPES)
  )
  return left.astype(dtype), right.astype(dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("has_wide_sum", [True, False])
def test_products_are_summed_in_float32(monkeypatch, dtype, has_wide_sum):
  if has_wide_sum and not layers._HAS_WIDE_SUM:
    pytest.skip("this jax has no such product on a CPU")
  monkeypatch.setattr(layers, "_HAS_WIDE_SUM", has_wide_sum)
  left, right = _operands(dtype)
  got = jax.jit(lambda a, b: layers.wide_einsum("ik,kj->ij", a, b))(left, right)
  assert got.dtype == jnp.float32
  exact = np.asarray(left, np.float64) @ np.asarray(right, np.float64)
  np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-5)
  # Summed in bfloat16 it would be off by more than that.
  assert np.abs(exact - exact.astype(jnp.bfloat16)).max() > 1e-3


def test_the_gradient_has_the_dtype_of_its_operand(monkeypatch):
  monkeypatch.setattr(layers, "_HAS_WIDE_SUM", False)
  left, right = _operands(jnp.bfloat16)
  gradients = jax.jit(
    jax.grad(lambda a, b: layers.wide_einsum("ik,kj->ij", a, b).sum(), (0, 1))
  )(left, right)
  assert [g.dtype for g in gradients] == [jnp.bfloat16] * 2
  expected = np.broadcast_to(np.asarray(right, np.float64).sum(1), left.shape)
  np.testing.assert_allclose(
    np.asarray(gradients[0], np.float64), expected, rtol=1e-2, atol=1e-2
  )
