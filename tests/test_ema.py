"""Laws of the running mean of the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from paradiff import ema
from paradiff import optim
from paradiff import sharding
from paradiff import step as step_lib
from paradiff import train_state

RATE = 0.8


def _loss(params, batch, key):
  return jnp.mean((batch["x"] @ params["w"] - 1.0) ** 2), {}


def _config(**changes):
  return optim.OptimConfig(
    learning_rate=0.1, num_steps=50, warmup_steps=0, **changes
  )


def _run(tx, *, num_steps=7, mesh=None):
  mesh = mesh or sharding.make_mesh()
  state, places = train_state.init_state(
    lambda key: {"w": jax.random.normal(key, (4, 8))},
    tx,
    jax.random.key(0),
    mesh=mesh,
    logical_axes={"w": ("embed", "mlp")},
  )
  step = jax.jit(
    step_lib.make_train_step(_loss, tx),
    out_shardings=(places, None),
    donate_argnums=0,
  )
  seen = [np.asarray(state.params["w"])]
  for number in range(num_steps):
    x = jax.random.normal(jax.random.key(number), (6, 4))
    state, _ = step(state, {"x": x})
    seen.append(np.asarray(state.params["w"]))
  return state, seen


def test_the_mean_is_that_of_numpy_and_changes_no_update():
  state, seen = _run(optim.make_tx(_config(ema_rate=RATE)))
  _, plain = _run(optim.make_tx(_config()))
  np.testing.assert_array_equal(seen, plain)
  mean = seen[0]
  for params in seen[1:]:
    mean = RATE * mean + (1 - RATE) * params
  got = ema.mean_of(state.opt_state, state.params)
  np.testing.assert_allclose(got["w"], mean, rtol=1e-6)
  assert np.abs(mean - seen[-1]).max() > 0.01


def test_the_mean_lies_where_the_parameters_lie():
  mesh = sharding.make_mesh(fsdp=2, tensor=2)
  state, _ = _run(optim.make_tx(_config(ema_rate=RATE)), mesh=mesh)
  mean = ema.mean_of(state.opt_state, state.params)
  assert mean["w"].sharding == state.params["w"].sharding
  assert not mean["w"].sharding.is_fully_replicated


def test_the_mean_is_float32_and_given_in_the_parameters_dtype():
  params = {"w": jnp.ones(3, jnp.bfloat16)}
  tx = optax.chain(optax.sgd(2.0**-7), ema.track(0.5))
  state = tx.init(params)
  for _ in range(2):
    updates, state = tx.update({"w": jnp.ones(3, jnp.bfloat16)}, state, params)
    params = optax.apply_updates(params, updates)
  assert state[-1].mean["w"].dtype == jnp.float32
  # 1, then half of it and half of 1 - 1/128, and so on: bfloat16 has no such.
  np.testing.assert_allclose(state[-1].mean["w"], 1 - 5 / 512)
  assert ema.mean_of(state, params)["w"].dtype == jnp.bfloat16


def test_without_a_mean_the_parameters_are_given():
  params = {"w": jnp.ones(3)}
  state = optim.make_tx(_config()).init(params)
  assert ema.mean_of(state, params) is params
  for rate in (0.0, 1.0, -0.5):
    with pytest.raises(ValueError, match=r"rate must lie in \(0, 1\)"):
      ema.track(rate)
  with pytest.raises(ValueError, match="ema_rate must lie in"):
    _config(ema_rate=1.0)
