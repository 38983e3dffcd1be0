"""Laws of attention: fused kernels and the plain formula agree."""
# mypy: disallow-untyped-defs=False

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paradiff import sharding
from paradiff.models import attention

# Interpreted, the kernel adds up in another order and, tile by tile, rescales.
RTOL, ATOL = 1e-5, 2e-6


def _inputs(*, batch=2, length=150, heads=2, size=32, seed=0):
  """Queries, keys, values and a mask whose holes are anywhere."""
  keys = jax.random.split(jax.random.key(seed), 4)
  shape = (batch, length, heads, size)
  values = [2.0 * jax.random.normal(key, shape) for key in keys[:3]]
  valid = jax.random.bernoulli(keys[3], 0.7, (batch, length))
  return (*values, valid.at[:, 0].set(True))


def _oracle(query, key, value, valid):
  query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
  scores = np.einsum("blhk,bmhk->bhlm", query, key) / query.shape[-1] ** 0.5
  scores[~np.broadcast_to(valid[:, None, None, :], scores.shape)] = -np.inf
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum("bhlm,bmhk->blhk", weights, value)


def _library(*inputs):
  return attention.library(*inputs, implementation="xla")


def _splash(*inputs):
  return attention.splash(*inputs, interpret=True)


KERNELS = [attention.plain, _library, _splash]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("length", [1, 128, 150])
def test_each_is_the_softmax_over_valid_keys(kernel, length):
  inputs = _inputs(length=length)
  valid = np.asarray(inputs[3])
  found = np.asarray(kernel(*inputs))
  assert np.isfinite(found).all()
  np.testing.assert_allclose(
    found[valid], _oracle(*inputs)[valid], rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize("kernel", [_library, _splash])
def test_gradients_are_those_of_the_plain_one(kernel):
  inputs = _inputs()
  valid = inputs[3][..., None, None]

  def loss(kernel, *values):
    return (jnp.sin(kernel(*values, inputs[3])) * valid).sum()

  wanted, found = (
    jax.grad(loss, argnums=(1, 2, 3))(kernel, *inputs[:3])
    for kernel in (attention.plain, kernel)
  )
  for one, other in zip(wanted, found, strict=True):
    np.testing.assert_allclose(other, one, rtol=0, atol=_atol(inputs, one))


def _atol(inputs, gradient):
  """Return what two float32 gradients may differ by: 1e-5 of the largest here.

  A score s is rounded by eps |s|, and by as much again below the largest of its
  row; exp makes of that the relative error of a weight, in each of the two. A
  gradient is a sum of what weights multiply, of both signs, so its error goes
  with the largest gradient, not with its own size. Against float64 each of the
  kernels is off by at most a third of this on jax 0.7.2 and 0.10.2; a scale
  that is wrong by 1e-4 is ten times this, a key dropped in one row thousands.
  """
  query, key = (np.asarray(x) for x in inputs[:2])
  scores = np.einsum("blhk,bmhk->bhlm", query, key) / query.shape[-1] ** 0.5
  eps = np.finfo(np.float32).eps
  return 2 * 2 * eps * abs(scores).max() * abs(gradient).max()


def test_splash_on_a_mesh_is_splash_on_a_device():
  inputs = _inputs(batch=4)
  mesh = sharding.make_mesh(data=2, fsdp=1, tensor=2)
  wanted = _splash(*inputs)
  with jax.set_mesh(mesh):
    found = jax.jit(_splash)(*inputs)
  spec = sharding.spec(("batch", None, "heads", None))
  place = jax.sharding.NamedSharding(mesh, spec)
  assert found.sharding.is_equivalent_to(place, found.ndim)
  np.testing.assert_allclose(found, wanted, rtol=RTOL, atol=ATOL)


def test_fused_attention_is_the_plain_one_where_there_is_no_accelerator():
  inputs = _inputs()
  np.testing.assert_array_equal(
    jax.jit(attention.attend, static_argnums=0)("fused", *inputs),
    jax.jit(attention.attend, static_argnums=0)("plain", *inputs),
  )


def test_fused_attention_lowers_to_a_kernel_for_a_tpu():
  inputs = _inputs()
  attend = jax.jit(attention.attend, static_argnums=0)
  for kind, has_kernel in (("plain", False), ("fused", True)):
    text = attend.trace(kind, *inputs).lower(lowering_platforms=("tpu",))
    assert ("tpu_custom_call" in text.as_text()) == has_kernel


def test_bad_input_is_refused():
  inputs = _inputs(length=4)
  with pytest.raises(ValueError, match="attention must be one of"):
    attention.attend("quick", *inputs)
  with pytest.raises(ValueError, match="key_bias must be None"):
    attention.attend("fused", *inputs, key_bias=jnp.zeros((2, 4)))
