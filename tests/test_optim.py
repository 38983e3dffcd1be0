"""Laws of the optimiser and its schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from paradiff import optim


def test_schedule_rises_linearly_then_falls_to_end_rate():
  config = optim.OptimConfig(
    learning_rate=2.0, num_steps=30, warmup_steps=10, end_rate=0.1
  )
  schedule = optim.make_schedule(config)
  got = [float(schedule(step)) for step in (0, 5, 10, 20, 30)]
  np.testing.assert_allclose(got, [0.0, 1.0, 2.0, 1.1, 0.2], rtol=1e-6)


def test_schedule_without_warmup_begins_at_the_peak():
  config = optim.OptimConfig(learning_rate=2.0, num_steps=4, warmup_steps=0)
  assert float(optim.make_schedule(config)(0)) == 2.0


def test_weight_decay_touches_matrices_only():
  params = {
    "embed": jnp.ones((3, 2)),
    "blocks": {"attn_norm": jnp.ones((4, 2)), "up": jnp.ones((4, 2, 2))},
    "conv": {"kernel": jnp.ones((1, 1, 2, 2)), "bias": jnp.ones(2)},
  }
  assert optim.is_decayed(params) == {
    "embed": True,
    "blocks": {"attn_norm": False, "up": True},
    "conv": {"kernel": True, "bias": False},
  }
  config = optim.OptimConfig(
    learning_rate=0.5, num_steps=2, warmup_steps=0, weight_decay=0.1
  )
  tx = optim.make_tx(config)
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(zeros, tx.init(params), params)
  np.testing.assert_allclose(updates["embed"], -0.05, rtol=1e-6)
  np.testing.assert_array_equal(updates["blocks"]["attn_norm"], 0.0)


def test_first_update_equals_a_numpy_adamw():
  config = optim.OptimConfig(
    learning_rate=0.1, num_steps=10, warmup_steps=0, clip_norm=1.0
  )
  params = {"w": jnp.array([[1.0, -2.0]])}
  grads = {"w": jnp.array([[3.0, 4.0]])}
  tx = optim.make_tx(config)
  updates, _ = tx.update(grads, tx.init(params), params)
  clipped = np.array([[0.6, 0.8]])
  direction = clipped / (np.abs(clipped) + config.eps)
  expected = -0.1 * (direction + 0.01 * np.array([[1.0, -2.0]]))
  np.testing.assert_allclose(updates["w"], expected, rtol=1e-5)


def _newton_schulz(matrix):
  """The nearest orthogonal matrix, roughly, as Jordan et al. compute it."""
  x = matrix / np.linalg.norm(matrix)
  if x.shape[0] > x.shape[1]:
    return _newton_schulz(matrix.T).T
  for _ in range(5):
    square = x @ x.T
    x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
  return x


def test_muon_equals_numpy_on_matrices_and_adamw_elsewhere():
  rng = np.random.default_rng(0)
  shapes = {"embed": (5, 6), "blocks": {"q": (3, 6, 2, 4), "norm": (3, 6)}}
  params, grads = (
    jax.tree.map(
      lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
      shapes,
      is_leaf=lambda node: isinstance(node, tuple),
    )
    for _ in range(2)
  )
  axes = {"embed": None, "blocks": {"q": ((1,), (2, 3)), "norm": None}}
  options = dict(
    learning_rate=0.1, num_steps=10, warmup_steps=0, weight_decay=0.2
  )
  tx = optim.make_tx(
    optim.OptimConfig(**options, muon_ratio=7.0, clip_norm=1e9),
    matrix_axes=axes,
  )
  muon, _ = tx.update(grads, tx.init(params), params)
  # The first Adam step is the gradient's sign.
  for got, gradient, decay in (
    (muon["embed"], grads["embed"], 0.2 * params["embed"]),
    (muon["blocks"]["norm"], grads["blocks"]["norm"], 0.0),
  ):
    np.testing.assert_allclose(
      got, -0.1 * (np.sign(gradient) + decay), rtol=1e-4
    )
  # 6 inputs, 8 outputs: a wide matrix moves by sqrt(8 / 6) more.
  for got, gradient, weight in zip(
    muon["blocks"]["q"],
    grads["blocks"]["q"],
    params["blocks"]["q"],
    strict=True,
  ):
    direction = _newton_schulz(np.asarray(gradient).reshape(6, 8))
    direction = direction * (8 / 6) ** 0.5 + 0.2 * weight.reshape(6, 8)
    np.testing.assert_allclose(
      got.reshape(6, 8), -0.7 * direction, rtol=1e-3, atol=1e-4
    )


def test_muon_wants_to_know_the_matrices():
  config = optim.OptimConfig(learning_rate=1.0, num_steps=200, muon_ratio=1.0)
  with pytest.raises(ValueError, match="matrix_axes must be given"):
    optim.make_tx(config)


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("learning_rate", 0.0),
    ("muon_ratio", -1.0),
    ("warmup_steps", 10),
    ("end_rate", 1.5),
    ("weight_decay", -1.0),
    ("b2", 1.0),
    ("clip_norm", -1.0),
  ],
)
def test_out_of_range_options_are_refused_by_name(name, value):
  options = {"learning_rate": 1.0, "num_steps": 10, "warmup_steps": 0}
  with pytest.raises(ValueError, match=name):
    optim.OptimConfig(**{**options, name: value})


def test_the_first_moment_may_be_short(num_steps=30):
  params = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)}
  ends = {}
  for dtype in optim.MOMENT_DTYPES:
    config = optim.OptimConfig(
      learning_rate=1e-2, num_steps=100, warmup_steps=0, moment_dtype=dtype
    )
    tx = optim.make_tx(config)
    now, state = params, tx.init(params)
    adam = next(
      s
      for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu"))
      if hasattr(s, "mu")
    )
    assert adam.mu["w"].dtype == jnp.dtype(dtype)
    assert adam.nu["w"].dtype == jnp.float32
    for _ in range(num_steps):
      updates, state = tx.update({"w": now["w"] - 0.3}, state, now)
      now = optax.apply_updates(now, updates)
    ends[dtype] = now["w"]
  step = jnp.abs(ends["float32"] - params["w"]).max()
  apart = jnp.abs(ends["float32"] - ends["bfloat16"]).max()
  assert 0 < apart < 0.02 * step
  with pytest.raises(ValueError, match="moment_dtype must be one of"):
    optim.OptimConfig(learning_rate=1.0, num_steps=200, moment_dtype="int8")
