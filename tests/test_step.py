"""Laws of one optimiser step, with and without a mesh, whole and in parts."""

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


def _rows_loss(params, batch, key, frozen):
  """Return a mean over rows whose normaliser comes with the rows."""
  out = batch["x"] @ (params["a"] + frozen) + params["b"][None]
  term = (out**2).mean(axis=1)
  loss = (batch["weight"] * term).mean()
  noise = jax.random.normal(key, ())
  return loss, {"train/term": term.mean(), "train/noise": noise}


def _rows(num_rows=8):
  rng = np.random.default_rng(1)
  length = rng.integers(1, 9, num_rows)
  weight = num_rows * length / length.sum()  # n w_i / Z
  x = rng.normal(size=(num_rows, 8))
  return {
    "x": jnp.asarray(x, jnp.float32),
    "weight": jnp.asarray(weight, jnp.float32),
  }


FROZEN = np.linspace(-1.0, 1.0, 128, dtype=np.float32).reshape(8, 16)


@pytest.mark.parametrize("num_parts", [2, 4])
def test_parts_give_the_update_of_the_whole_batch(num_parts):
  tx = optax.sgd(0.1, momentum=0.9)  # whose trace is the gradient
  state = train_state.create(_init(jax.random.key(0)), tx, jax.random.key(1))
  whole, parted = (
    jax.jit(step_lib.make_train_step(_rows_loss, tx, num_microbatches=m))(
      state, _rows(), FROZEN
    )
    for m in (1, num_parts)
  )
  for got, expected in zip(
    jax.tree.leaves((parted[0].params, parted[0].opt_state)),
    jax.tree.leaves((whole[0].params, whole[0].opt_state)),
    strict=True,
  ):
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
  assert set(parted[1]) == set(whole[1])
  for name in set(whole[1]) - {"train/noise"}:
    np.testing.assert_allclose(parted[1][name], whole[1][name], rtol=1e-5)


def test_the_whole_batch_agrees_with_numpy():
  tx = optax.sgd(1.0)
  params = _init(jax.random.key(0))
  state = train_state.create(params, tx, jax.random.key(1))
  step = step_lib.make_train_step(_rows_loss, tx, num_microbatches=2)
  new, metrics = step(state, _rows(), FROZEN)
  rows = jax.tree.map(np.float64, _rows())
  out = rows["x"] @ np.float64(params["a"] + FROZEN) + np.float64(params["b"])
  loss = (rows["weight"] * (out**2).mean(axis=1)).mean()
  slope = 2.0 * out * rows["weight"][:, None] / out.size
  np.testing.assert_allclose(metrics["train/loss"], loss, rtol=1e-5)
  np.testing.assert_allclose(
    params["b"] - new.params["b"], slope.sum(axis=0), rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    params["a"] - new.params["a"], rows["x"].T @ slope, rtol=1e-4, atol=1e-5
  )


def test_parts_are_strided_and_each_has_a_key_of_its_own():
  def loss(params, batch, key):
    ids = batch["id"].astype(jnp.float32)
    return params.sum(), {
      "train/pair": ids[0] * ids[1],
      "train/noise": jax.random.normal(key, ()),
    }

  tx = optax.sgd(0.1)
  state = train_state.create(jnp.ones(2), tx, jax.random.key(4))
  batch = {"id": jnp.arange(4)}
  _, metrics = step_lib.make_train_step(loss, tx, num_microbatches=2)(
    state, batch
  )
  assert metrics["train/pair"] == (0 * 2 + 1 * 3) / 2
  key = jax.random.fold_in(state.key, 0)
  noise = [jax.random.normal(jax.random.fold_in(key, m), ()) for m in (0, 1)]
  np.testing.assert_allclose(metrics["train/noise"], np.mean(noise), rtol=1e-6)
  _, whole = step_lib.make_train_step(loss, tx)(state, batch)
  assert whole["train/noise"] == jax.random.normal(key, ())


def test_one_part_traces_to_the_plain_step():
  tx = optax.adam(0.1)
  state = train_state.create(_init(jax.random.key(0)), tx, jax.random.key(1))

  def plain(state, batch):
    key = jax.random.fold_in(state.key, state.step)
    (loss, aux), grads = jax.value_and_grad(_loss, has_aux=True)(
      state.params, batch, key
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    metrics = aux | {
      "train/loss": loss,
      "train/grad_norm": optax.tree.norm(grads),
      "train/param_norm": optax.tree.norm(state.params),
    }
    return train_state.TrainState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
      key=state.key,
    ), metrics

  step = step_lib.make_train_step(_loss, tx, num_microbatches=1)
  traced = [str(jax.make_jaxpr(f)(state, _batch())) for f in (step, plain)]
  assert traced[0] == traced[1]


def test_gradients_add_up_in_float32_and_keep_the_dtype_of_the_parameters():
  # In bfloat16, 1 + 1/512 is 1 again: the parts after the first would be lost.
  def loss(params, batch, key):
    return (params * batch["x"][:, 0]).mean().astype(jnp.float32), {}

  tx = optax.sgd(1.0, momentum=0.9)
  state = train_state.create(jnp.zeros((), jnp.bfloat16), tx, jax.random.key(0))
  x = np.full((16, 1), 2.0**-9)
  x[0] = 1.0
  batch = {"x": jnp.asarray(x, jnp.bfloat16)}
  step = step_lib.make_train_step(loss, tx, num_microbatches=16)
  new, _ = jax.jit(step)(state, batch)
  assert new.params.dtype == jnp.bfloat16
  assert jax.tree.map(lambda a: a.dtype, new.opt_state) == jax.tree.map(
    lambda a: a.dtype, state.opt_state
  )
  expected = jnp.asarray(x.mean(), jnp.bfloat16)
  assert -new.params == expected != 1 / 16


@pytest.mark.parametrize("num_parts", [1, 2])
def test_constants_are_neither_updated_nor_differentiated(num_parts):
  tx = optax.sgd(0.1)
  state = train_state.create(_init(jax.random.key(0)), tx, jax.random.key(1))
  seen = []

  @jax.custom_vjp
  def watch(x):
    return x

  def backward(_, gradient):
    seen.append(gradient)
    return (gradient,)

  watch.defvjp(lambda x: (x, None), backward)

  def loss(params, batch, key, first, second):
    value, aux = _rows_loss(params, batch, key, watch(first["w"]) * second)
    return value, aux

  step = step_lib.make_train_step(loss, tx, num_microbatches=num_parts)
  new, _ = step(state, _rows(), {"w": FROZEN}, jnp.float32(2.0))
  assert not seen
  assert jax.tree.structure(new) == jax.tree.structure(state)
  plain, _ = step_lib.make_train_step(_rows_loss, tx)(
    state, _rows(), 2.0 * FROZEN
  )
  np.testing.assert_allclose(new.params["a"], plain.params["a"], rtol=1e-5)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_parts_on_a_mesh_equal_one_device_and_no_row_moves(shape):
  tx = optax.sgd(0.1, momentum=0.9)
  step = step_lib.make_train_step(_rows_loss, tx, num_microbatches=2)
  key = jax.random.key(5)
  results = []
  for sizes in ((1, 1, 1), shape):
    mesh = sharding.make_mesh(data=sizes[0], fsdp=sizes[1], tensor=sizes[2])
    state, places = train_state.init_state(
      _init, tx, key, mesh=mesh, logical_axes=AXES
    )
    by_batch = sharding.shardings(
      mesh, {"x": ("batch", None), "weight": ("batch",)}
    )
    args = (
      state,
      jax.device_put(_rows(16), by_batch),
      jax.device_put(FROZEN, places.params["a"]),
    )
    with jax.set_mesh(mesh):
      run = jax.jit(step, out_shardings=(places, None)).lower(*args).compile()
      results.append(jax.device_get(run(*args)[0]))
  if shape == (8, 1, 1):  # only sums of gradients and metrics need the others
    text = run.as_text()
    assert "all-reduce" in text
    assert not {"all-to-all", "collective-permute", "all-gather"} & {
      name for name in text.replace("(", " ").split()
    }
  one, many = (r.params | {"step": r.step} for r in results)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    one,
    many,
  )


def test_parts_must_divide_the_rows():
  tx = optax.sgd(0.1)
  state = train_state.create(_init(jax.random.key(0)), tx, jax.random.key(1))
  step = step_lib.make_train_step(_rows_loss, tx, num_microbatches=3)
  with pytest.raises(ValueError, match="num_microbatches=3 and 8 rows"):
    jax.eval_shape(step, state, _rows(), FROZEN)
  uneven = _rows(9) | {"weight": jnp.ones(3)}
  with pytest.raises(ValueError, match="as many rows, got .*'weight': 3"):
    jax.eval_shape(step, state, uneven, FROZEN)
  with pytest.raises(ValueError, match="num_microbatches must be positive"):
    step_lib.make_train_step(_rows_loss, tx, num_microbatches=0)
