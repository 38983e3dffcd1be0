"""Laws of the backbone; `test_published_backbone` compares with recordings."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import toy

from paradiff.models import transformer
from paradiff.models import transformer_config

# With a learned table of places, as the small variants have.
PLACED = dataclasses.replace(toy.CONFIG, place_grids=((2, 3), (5,)))
PLACES = np.random.default_rng(7).integers(0, 11, (11, 2))


def _trunk(params, tokens, valid=None, config=toy.CONFIG, places=None):
  tokens = jnp.asarray(tokens)
  valid = jnp.ones(tokens.shape, bool) if valid is None else jnp.asarray(valid)
  return transformer.trunk(
    config, params, tokens, valid_mask=valid, places=places
  )


@functools.partial(jax.jit, static_argnames="config")
def _logits(params, tokens, valid=None, config=toy.CONFIG, places=None):
  hidden = _trunk(params, tokens, valid, config, places)
  return transformer.head(
    config, params, hidden, columns=(0, config.vocab_size)
  )


def _tokens(shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, toy.CONFIG.vocab_size, shape)


@pytest.mark.parametrize("config", [toy.CONFIG, PLACED], ids=["", "placed"])
def test_logits_equal_the_numpy_oracle(config):
  tokens = _tokens((2, 11))
  got = _logits(toy.params(config), tokens, config=config, places=PLACES)
  expected = [toy.network(config)(row, places=PLACES) for row in tokens]
  np.testing.assert_allclose(got, expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
  "valid",
  [
    [0, 0, 0, 1, 1, 1, 1, 1, 1],
    [1, 1, 0, 0, 0, 1, 1, 1, 1],
    [1, 1, 1, 1, 1, 1, 0, 0, 0],
    [0, 1, 0, 1, 1, 1, 1, 0, 1],
  ],
  ids=["front", "middle", "end", "scattered"],
)
@pytest.mark.parametrize("config", [toy.CONFIG, PLACED], ids=["", "placed"])
def test_padded_equals_unpadded(valid, config):
  keep = np.flatnonzero(valid)
  short = _tokens((2, len(keep)))
  long = _tokens((2, len(valid)), seed=1)
  long[:, keep] = short
  mask = np.broadcast_to(np.array(valid, bool), long.shape)
  params = toy.params(config)
  places = PLACES[: len(valid)]
  padded = np.asarray(_logits(params, long, mask, config, places))
  unpadded = _logits(params, short, config=config, places=places[keep])
  np.testing.assert_allclose(padded[:, keep], unpadded, rtol=0, atol=2e-5)
  assert np.isfinite(padded).all()


def test_a_model_with_places_must_be_told_them():
  params = toy.params(PLACED)
  for places, found in ((None, "None"), (PLACES[:4], "4")):
    with pytest.raises(ValueError, match=f"for 5 tokens, got {found}"):
      _logits(params, _tokens((1, 5)), config=PLACED, places=places)


def test_rows_with_different_padding_are_independent():
  tokens = _tokens((3, 8))
  valid = np.array([[1] * 8, [0] * 3 + [1] * 5, [1] * 2 + [0] * 6], bool)
  batched = np.asarray(_logits(toy.params(), tokens, valid))
  for row in range(3):
    alone = toy.network()(tokens[row][valid[row]])
    np.testing.assert_allclose(
      batched[row][valid[row]], alone, rtol=0, atol=5e-5
    )


def test_a_row_without_valid_tokens_stays_finite():
  valid = np.zeros((1, 4), bool)

  def loss(params):
    return _logits(params, _tokens((1, 4)), valid).sum()

  value, gradient = jax.jit(jax.value_and_grad(loss))(toy.params())
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_invalid_tokens_get_no_gradient_and_give_none():
  tokens = np.array([[7, 8, 9, 10]])
  valid = np.array([[True, True, False, True]])

  def loss(params):
    return (_logits(params, tokens, valid)[:, [0, 1, 3]] ** 2).sum()

  gradient = np.asarray(jax.grad(loss)(toy.params())["embed"])
  assert (gradient[9] == 0.0).all()
  assert (gradient[[7, 8, 10]] != 0.0).any(axis=1).all()


def test_attention_is_bidirectional_and_positions_matter():
  tokens = _tokens((1, 6))
  base = np.asarray(_logits(toy.params(), tokens))
  last = tokens.copy()
  last[0, -1] = (last[0, -1] + 1) % toy.CONFIG.vocab_size
  assert np.abs(_logits(toy.params(), last) - base)[0, 0].max() > 1e-3
  reverse = np.asarray(_logits(toy.params(), tokens[:, ::-1]))
  assert np.abs(reverse[:, ::-1] - base).max() > 1e-3


def test_jit_equals_no_jit():
  tokens = _tokens((2, 9))
  valid = np.ones((2, 9), bool)
  valid[1, :2] = False
  jitted = _logits(toy.params(), tokens, valid)
  with jax.disable_jit():
    plain = _logits(toy.params(), tokens, valid)
  np.testing.assert_allclose(jitted, plain, rtol=0, atol=2e-5)


@pytest.mark.parametrize("columns", [(0, 44), (0, 22), (24, 40), (43, 44)])
def test_head_of_columns_slices_the_full_logits(columns):
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.standard_normal((2, 5, 16)), jnp.float32)
  full = transformer.head(toy.CONFIG, toy.params(), hidden, columns=(0, 44))
  part = transformer.head(toy.CONFIG, toy.params(), hidden, columns=columns)
  np.testing.assert_allclose(
    part, full[..., slice(*columns)], rtol=0, atol=1e-5
  )


@pytest.mark.parametrize("columns", [(-1, 4), (4, 4), (0, 45), (5, 3)])
def test_head_refuses_columns_outside_the_vocabulary(columns):
  hidden = jnp.zeros((1, 16))
  with pytest.raises(ValueError, match="columns must be a range"):
    transformer.head(toy.CONFIG, toy.params(), hidden, columns=columns)


def test_logical_axes_name_every_dimension_of_every_parameter():
  names = transformer.logical_axes(PLACED)

  def is_leaf(node):
    return isinstance(node, tuple)

  assert jax.tree.structure(toy.params(PLACED)) == jax.tree.structure(
    names, is_leaf=is_leaf
  )
  ranks = jax.tree.map(lambda a, n: a.ndim == len(n), toy.params(PLACED), names)
  assert all(jax.tree.leaves(ranks))
  assert names["blocks"]["down"] == (None, "mlp", "embed")


def test_matrix_axes_cover_every_matrix_of_the_blocks():
  params = transformer.init(PLACED, jax.random.key(0))
  axes = transformer.matrix_axes(PLACED)
  assert set(axes) == set(params)
  assert all(axes[name] is None for name in set(params) - {"blocks"})
  for name, leaf in params["blocks"].items():
    if name.endswith("norm"):
      assert axes["blocks"][name] is None
      continue
    inputs, outputs = axes["blocks"][name]
    assert sorted(inputs + outputs) == list(range(1, leaf.ndim))
    is_inward = leaf.shape[1] == PLACED.width
    assert is_inward == (name not in ("attn_out", "down"))
    if name == "attn_out":
      assert (inputs, outputs) == ((1, 2), (3,))


def test_places_begin_as_waves_in_which_a_step_looks_the_same_everywhere():
  table = transformer.init(PLACED, jax.random.key(0))["places"]
  table = np.asarray(table, np.float64)
  np.testing.assert_allclose((table**2).sum(axis=1), 1.0, rtol=1e-5)
  grid = table[:6].reshape(2, 3, -1)
  down = (grid[0] * grid[1]).sum(axis=-1)
  right = (grid[:, :2] * grid[:, 1:]).sum(axis=-1)
  np.testing.assert_allclose(down, down[0], rtol=1e-5)
  np.testing.assert_allclose(right, right[0, 0], rtol=1e-5)
  assert (
    0.5 < down[0] < 0.99 and (grid[:, 0] * grid[:, 2]).sum() < 2 * right[0, 0]
  )
  line = table[6:]
  steps = (line[1:] * line[:-1]).sum(axis=-1)
  np.testing.assert_allclose(steps, steps[0], rtol=1e-5)


def test_init_has_the_published_scale():
  config = dataclasses.replace(toy.CONFIG, width=64, mlp_width=192)
  init = jax.jit(transformer.init, static_argnums=0)
  params = init(config, jax.random.key(0))
  assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(params))
  truncated = 0.9866  # deviation of a unit normal cut at 3 sigma
  for layer in range(config.num_layers):
    depth = (2 * (layer + 1)) ** 0.5
    blocks = {name: a[layer] for name, a in params["blocks"].items()}
    for name, sigma in (
      ("q_proj", 64**-0.5),
      ("up", 64**-0.5),
      ("attn_out", 64**-0.5 / depth),
      ("down", 192**-0.5 / depth),
    ):
      assert np.std(blocks[name]) == pytest.approx(truncated * sigma, rel=0.05)
      assert np.abs(blocks[name]).max() <= 3.001 * sigma
    assert (blocks["attn_norm"] == 1.0).all()
  flat = [np.asarray(a).ravel()[:8] for a in jax.tree.leaves(params)]
  drawn = {a.tobytes() for a in flat if not (a == 1.0).all()}
  assert len(drawn) == 9  # no two matrices share a key


def _mean_square(params, config):
  return jnp.square(_logits(params, _tokens((2, 7)), config=config)).mean()


@functools.cache
def _loss_and_gradient(config):
  function = jax.jit(jax.value_and_grad(_mean_square), static_argnums=1)
  return function(toy.params(), config)


@pytest.mark.parametrize(
  "change",
  [
    *({"remat": name} for name in transformer_config.REMATS),
    {"scan_unroll": 2},
  ],
  ids=str,
)
def test_remat_and_unrolling_change_no_value(change):
  config = dataclasses.replace(toy.CONFIG, **change)
  for got, expected in zip(
    jax.tree.leaves(_loss_and_gradient(config)),
    jax.tree.leaves(_loss_and_gradient(toy.CONFIG)),
    strict=True,
  ):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_remat_makes_again_what_it_does_not_keep():
  def products(remat):
    config = dataclasses.replace(toy.CONFIG, remat=remat)

    def loss(params):
      return _logits(params, _tokens((1, 4)), config=config).sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss))(toy.params()).jaxpr
    names = [eqn.primitive.name for eqn, _, _ in toy.equations(jaxpr)]
    return names.count("dot_general")

  found = {name: products(name) for name in transformer_config.REMATS}
  # The scores and what they mix hold no matrix and are always made again.
  assert found["products"] == found["none"] + 2
  assert found["attention"] == found["products"] + 2  # gate and up
  assert found["full"] == found["attention"] + 4  # q, k, v and attn_out


def test_bfloat16_is_close_and_keeps_float32_logits_and_gradients():
  config = dataclasses.replace(toy.CONFIG, compute_dtype="bfloat16")
  tokens = _tokens((2, 7))
  hidden = jax.eval_shape(
    lambda p: _trunk(p, tokens, None, config), toy.params()
  )
  assert hidden.dtype == jnp.bfloat16
  logits = _logits(toy.params(), tokens, config=config)
  assert logits.dtype == jnp.float32
  expected = np.asarray(_logits(toy.params(), tokens))
  error = np.sqrt(np.mean((logits - expected) ** 2))
  assert 1e-5 < error < 0.05 * expected.std()
  gradient = jax.eval_shape(
    lambda params: jax.grad(_mean_square)(params, config), toy.params()
  )
  assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradient))


def test_bfloat16_adds_up_embedding_gradients_in_float32():
  config = dataclasses.replace(toy.CONFIG, compute_dtype="bfloat16")
  jaxpr = jax.make_jaxpr(
    jax.grad(
      lambda p: (
        _trunk(p, _tokens((1, 8)), config=config).astype(jnp.float32).sum()
      )
    )
  )(toy.params())
  sums = [
    eqn.outvars[0].aval.dtype
    for eqn, _, _ in toy.equations(jaxpr.jaxpr)
    if eqn.primitive.name == "scatter-add"
  ]
  assert sums == [jnp.float32]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"num_heads": 3}, "num_heads must divide width"),
    ({"num_heads": 16}, "even head sizes"),
    ({"num_heads": 0}, "num_heads must be positive"),
    ({"num_layers": 0}, "num_layers must be positive"),
    ({"place_grids": ((2, 0),)}, "place_grids must have positive sides"),
    ({"scan_unroll": 0}, "scan_unroll must be positive"),
    ({"compute_dtype": "float16"}, "compute_dtype must be"),
    ({"remat": "half"}, "remat must be"),
  ],
)
def test_config_errors_name_the_field(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(toy.CONFIG, **change)


def test_oracle_softmax_agrees_with_log_softmax():
  x = np.random.default_rng(0).standard_normal((3, 7))
  np.testing.assert_allclose(
    np.log(oracles.softmax(x)), oracles.log_softmax(x), atol=1e-12
  )
