"""Laws of one optimiser step, with and without a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from paradiff import optim
from paradiff import sharding
from paradiff import step as step_lib
from paradiff import train_state

SHAPES = {"a": (8, 16), "b": (16,)}
AXES = {"a": ("embed", "mlp"), "b": (None,)}


def _init(key):
  return {
    name: jax.random.normal(jax.random.fold_in(key, i), shape)
    for i, (name, shape) in enumerate(SHAPES.items())
  }


def _loss(params, batch, key):
  noise = jax.random.normal(key, batch["x"].shape)
  out = (batch["x"] + noise) @ params["a"] + params["b"][None]
  return (out**2).mean(), {"train/noise": noise[0, 0]}


def _batch():
  x = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
  return {"x": jnp.asarray(x)}


def test_step_equals_its_parts():
  tx = optax.sgd(0.1)
  key = jax.random.key(3)
  state = train_state.create(_init(key), tx, key)
  new, metrics = step_lib.make_train_step(
    _loss, tx, schedule=lambda n: 0.1 * (n + 1)
  )(state, _batch())
  (loss, aux), grads = jax.value_and_grad(_loss, has_aux=True)(
    state.params, _batch(), jax.random.fold_in(key, 0)
  )
  for name in SHAPES:
    np.testing.assert_allclose(
      new.params[name], state.params[name] - 0.1 * grads[name], rtol=1e-5
    )
  squares = sum(float((g**2).sum()) for g in grads.values())
  assert int(new.step) == 1
  np.testing.assert_allclose(metrics["train/loss"], loss, rtol=1e-6)
  np.testing.assert_allclose(
    metrics["train/grad_norm"], squares**0.5, rtol=1e-5
  )
  assert metrics["train/noise"] == aux["train/noise"]
  np.testing.assert_allclose(metrics["train/learning_rate"], 0.1, rtol=1e-6)
  assert all(m.shape == () and m.dtype == "float32" for m in metrics.values())


def test_each_step_draws_its_own_noise_and_repeats_it():
  tx = optax.sgd(0.0)
  state = train_state.create(_init(jax.random.key(0)), tx, jax.random.key(1))
  step = jax.jit(step_lib.make_train_step(_loss, tx))
  second, first_metrics = step(state, _batch())
  _, second_metrics = step(second, _batch())
  _, again = step(second, _batch())
  assert first_metrics["train/noise"] != second_metrics["train/noise"]
  assert again["train/noise"] == second_metrics["train/noise"]


@pytest.mark.parametrize("muon_ratio", [0.0, 10.0])
@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 4, 2)])
def test_mesh_equals_no_mesh_and_moments_lie_with_their_parameters(
  shape, muon_ratio
):
  config = optim.OptimConfig(
    learning_rate=0.1, num_steps=10, warmup_steps=0, muon_ratio=muon_ratio
  )
  tx = optim.make_tx(config, matrix_axes={"a": ((0,), (1,)), "b": None})
  step = step_lib.make_train_step(_loss, tx)
  key = jax.random.key(5)
  results = []
  for sizes in ((1, 1, 1), shape):
    mesh = sharding.make_mesh(data=sizes[0], fsdp=sizes[1], tensor=sizes[2])
    state, places = train_state.init_state(
      _init, tx, key, mesh=mesh, logical_axes=AXES
    )
    by_batch = sharding.shardings(mesh, {"x": ("batch", None)})
    batch = jax.device_put(_batch(), by_batch)
    with jax.set_mesh(mesh):
      run = jax.jit(
        step,
        in_shardings=(places, by_batch),
        out_shardings=(places, None),
        donate_argnums=0,
      )
      for _ in range(3):
        state, metrics = run(state, batch)
    results.append(jax.device_get((state.params, metrics)))
    moments = {
      getattr(path[-1], "key", None): leaf
      for path, leaf in jax.tree.leaves_with_path(state.opt_state)
      if leaf.ndim
    }
    for name in SHAPES:
      assert moments[name].sharding == state.params[name].sharding
  assert state.params["a"].sharding.spec == sharding.spec(AXES["a"])
  jax.tree.map(
    lambda one, many: np.testing.assert_allclose(
      one, many, atol=1e-5, rtol=1e-5
    ),
    *results,
  )
