"""Laws of work in chunks: the same rows, whatever the chunks and the mesh."""
# mypy: disallow-untyped-defs=False

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paradiff import sharding
from paradiff.diffusion import chunks

WEIGHTS = jax.random.normal(jax.random.key(1), (16, 64))


def _function(parts):
  x, y = parts
  return {"top": (x @ WEIGHTS).max(-1) + y, "sum": x.sum(-1)}


def _rows(num):
  x = jax.random.normal(jax.random.key(0), (num, 16))
  return x, jnp.arange(num, dtype=jnp.float32)


@pytest.mark.parametrize("num_rows", [1, 5, 8, 13])
@pytest.mark.parametrize("chunk_len", [1, 4, 8, 100])
@pytest.mark.parametrize("data", [1, 4])
def test_each_row_is_worked_through_once(num_rows, chunk_len, data):
  rows = _rows(num_rows)
  mesh = sharding.make_mesh(data=data)
  run = functools.partial(chunks.mapped, _function, chunk_len=chunk_len)
  with jax.set_mesh(mesh):
    found = jax.jit(run)(rows)
  wanted = _function(rows)
  for name, values in wanted.items():
    np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)


def test_the_devices_that_share_a_batch_share_the_rows():
  # As in the losses: rows picked from all of a batch, of which each device
  # would else need all.
  def loss(x, pick):
    return chunks.mapped(_function, (x[pick], pick * 1.0), chunk_len=64)["top"]

  def flops(data):
    mesh = sharding.make_mesh(data=data)
    rows = jax.sharding.NamedSharding(mesh, sharding.spec(("batch", None)))
    x = jax.device_put(_rows(64)[0], rows)
    with jax.set_mesh(mesh):
      step = jax.jit(loss).lower(x, jnp.arange(64)[::-1])
      return step.compile().cost_analysis()["flops"]

  assert flops(4) < 0.3 * flops(1)
