"""Laws of the low-rank adapters, beside the matrices and merged into them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from paradiff import optim
from paradiff import sharding
from paradiff.models import lora
from paradiff.models import transformer

LORA = lora.LoraConfig(rank=3, alpha=7.5)
# These programs run once.
jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
TOKENS = np.random.default_rng(1).integers(0, toy.CONFIG.vocab_size, (4, 7))


def _adapters(config=LORA, seed=3):
  """Draw adapters whose two factors are both far from 0."""
  shapes = jax.eval_shape(
    lambda: lora.init(config, toy.CONFIG, jax.random.key(0))
  )
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda a: jnp.asarray(rng.standard_normal(a.shape) / 4.0, a.dtype), shapes
  )


def _trunk(params, tokens=TOKENS, config=toy.CONFIG):
  valid = jnp.ones(tokens.shape, bool)
  return transformer.trunk(config, params, tokens, valid_mask=valid)


_run = jit(_trunk)


def _value_and_gradient(adapters, base, tokens, place=lora.attach):
  def loss(adapters):
    hidden = _trunk(place(LORA, base, adapters), tokens)
    return jnp.square(hidden[:, ::2]).mean()

  return jax.value_and_grad(loss)(adapters)


@functools.cache
def _gradient():
  """Return loss and gradient of adapters beside the matrices, on no mesh."""
  return jit(_value_and_gradient)(_adapters(), toy.params(), TOKENS)


def _close(got, expected, tolerance=1e-5):
  jax.tree.map(
    lambda g, e: np.testing.assert_allclose(
      g, e, rtol=tolerance, atol=tolerance
    ),
    got,
    expected,
  )


def test_fresh_adapters_change_no_bit():
  fresh = lora.init(LORA, toy.CONFIG, jax.random.key(0))
  base = toy.params()
  got = _run(lora.attach(LORA, base, fresh))
  np.testing.assert_array_equal(got, _run(base))
  moved = _run(lora.attach(LORA, base, _adapters()))
  assert np.abs(moved - _run(base)).max() > 0.1


def test_the_base_is_neither_changed_nor_copied():
  base = toy.params()
  before = jax.tree.structure(base)
  attached = lora.attach(LORA, base, _adapters())
  assert jax.tree.structure(base) == before
  blocks = {n: a for n, a in attached["blocks"].items() if n != "lora"}
  same = jax.tree.map(lambda a, b: a is b, attached | {"blocks": blocks}, base)
  assert all(jax.tree.leaves(same))


def test_merged_matrices_equal_numpy():
  base, adapters = toy.params(), _adapters()
  merged = lora.merge(LORA, base, adapters)
  contractions = dict.fromkeys(("q_proj", "k_proj", "v_proj"), "ndr,nrhk->ndhk")
  contractions["attn_out"] = "nhkr,nrd->nhkd"
  for name in lora.TARGETS:
    pair = jax.tree.map(np.float64, adapters["blocks"][name])
    subscripts = contractions.get(name, "nir,nro->nio")
    change = 2.5 * np.einsum(subscripts, pair["a"], pair["b"])
    expected = np.float64(base["blocks"][name]) + change
    np.testing.assert_allclose(
      merged["blocks"][name], expected, rtol=0, atol=1e-6
    )
  rest = [n for n in base["blocks"] if n not in lora.TARGETS]
  assert len(rest) == 2
  assert all(merged["blocks"][n] is base["blocks"][n] for n in rest)
  assert merged["head"] is base["head"]


@pytest.mark.parametrize("targets", [lora.TARGETS, ("attn_out", "up")])
def test_attached_equals_merged(targets):
  config = dataclasses.replace(LORA, targets=targets)
  base, adapters = toy.params(), _adapters(config)
  beside = _run(lora.attach(config, base, adapters))
  _close(beside, _run(lora.merge(config, base, adapters)))


@pytest.mark.parametrize("target", lora.TARGETS)
def test_each_target_alone_is_applied(target):
  base, every = toy.params(), _adapters()
  alone = {  # an adapter is off where its factors are 0
    name: jax.tree.map(lambda a, on=name == target: a * on, pair)
    for name, pair in every["blocks"].items()
  }
  beside = _run(lora.attach(LORA, base, {"blocks": alone}))
  _close(beside, _run(lora.merge(LORA, base, {"blocks": alone})))
  assert np.abs(beside - _run(base)).max() > 0.01


def test_gradients_of_adapters_equal_those_through_the_merged_matrices():
  merged = jit(functools.partial(_value_and_gradient, place=lora.merge))
  expected = merged(_adapters(), toy.params(), TOKENS)
  _close(_gradient(), expected, 2e-5)
  assert all(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(expected))


def test_a_model_without_adapters_has_no_more_products_than_before():
  adapters = _adapters(dataclasses.replace(LORA, targets=("q_proj", "down")))
  config = dataclasses.replace(LORA, targets=("q_proj", "down"))
  counts = [
    sum(
      eqn.primitive.name == "dot_general"
      for eqn, _, _ in toy.equations(jax.make_jaxpr(_trunk)(tree).jaxpr)
    )
    for tree in (toy.params(), lora.attach(config, toy.params(), adapters))
  ]
  assert counts == [9, 9 + 2 * 2]  # seven matrices, scores and their values


def _matrix_shaped(function, *args):
  """Return the intermediates with the shape of a matrix, of a layer or all."""
  full = {toy.params()["blocks"][name].shape for name in lora.TARGETS}
  shapes = full | {shape[1:] for shape in full}
  return [
    eqn.primitive.name
    for eqn, _, _ in toy.equations(jax.make_jaxpr(function)(*args).jaxpr)
    for var in eqn.outvars
    if getattr(var.aval, "shape", None) in shapes
  ]


@pytest.mark.parametrize("remat", ["none", "full"])
def test_no_second_copy_of_a_matrix_is_made_forward_or_backward(remat):
  model = dataclasses.replace(toy.CONFIG, compute_dtype="bfloat16", remat=remat)

  def gradient(adapters, base, place):
    def loss(adapters):
      tree = place(LORA, base, adapters)
      return _trunk(tree, config=model).astype(jnp.float32).sum()

    return jax.grad(loss)(adapters)

  base = jax.tree.map(lambda a: a.astype(jnp.bfloat16), toy.params())
  beside = functools.partial(gradient, place=lora.attach)
  assert _matrix_shaped(beside, _adapters(), base) == []
  merged = functools.partial(gradient, place=lora.merge)
  assert "add" in _matrix_shaped(merged, _adapters(), base)  # it can be seen


def test_adapters_are_computed_in_the_compute_dtype():
  model = dataclasses.replace(toy.CONFIG, compute_dtype="bfloat16")
  tree = lora.attach(LORA, toy.params(), _adapters())
  jaxpr = jax.make_jaxpr(functools.partial(_trunk, config=model))(tree).jaxpr
  (scan,) = [
    e for e, _, _ in toy.equations(jaxpr) if e.primitive.name == "scan"
  ]
  products = [
    eqn
    for eqn, _, _ in toy.equations(scan.params["jaxpr"].jaxpr)
    if eqn.primitive.name == "dot_general"
    and LORA.rank in (*eqn.invars[1].aval.shape, *eqn.invars[0].aval.shape)
  ]
  assert len(products) == 2 * len(lora.TARGETS)
  dtypes = {str(v.aval.dtype) for eqn in products for v in eqn.invars}
  assert dtypes == {"bfloat16"}
  merged = lora.merge(
    LORA,
    jax.tree.map(lambda a: a.astype(jnp.bfloat16), toy.params()),
    _adapters(),
  )
  assert {a.dtype for a in jax.tree.leaves(merged)} == {jnp.dtype("bfloat16")}


def test_a_starts_with_the_variance_of_its_fan_in_and_b_at_zero():
  model = dataclasses.replace(toy.CONFIG, width=64, mlp_width=192)
  config = lora.LoraConfig(rank=24)
  init = jit(lora.init, static_argnums=(0, 1))
  adapters = init(config, model, jax.random.key(0))
  assert list(adapters) == ["blocks"]
  assert set(adapters["blocks"]) == set(lora.TARGETS)
  shapes = jax.tree.map(lambda a: a.shape, adapters["blocks"])
  assert shapes["q_proj"] == {"a": (2, 64, 24), "b": (2, 24, 2, 32)}
  assert shapes["attn_out"] == {"a": (2, 2, 32, 24), "b": (2, 24, 64)}
  assert shapes["down"] == {"a": (2, 192, 24), "b": (2, 24, 64)}
  drawn = set()
  for name, pair in adapters["blocks"].items():
    fan_in = 192 if name == "down" else 64
    assert np.std(pair["a"]) == pytest.approx(fan_in**-0.5, rel=0.05)
    assert (pair["b"] == 0.0).all()
    drawn |= {np.asarray(layer).ravel()[:8].tobytes() for layer in pair["a"]}
  assert len(drawn) == 2 * len(lora.TARGETS)  # no two share a key
  few = init(
    dataclasses.replace(config, targets=("up",)), model, jax.random.key(0)
  )
  assert set(few["blocks"]) == {"up"}
  np.testing.assert_array_equal(  # a matrix draws the same beside any others
    few["blocks"]["up"]["a"], adapters["blocks"]["up"]["a"]
  )


@pytest.mark.parametrize("targets", [lora.TARGETS, ("attn_out", "gate")])
def test_logical_axes_are_those_of_the_matrix_and_the_rank_is_replicated(
  targets,
):
  config = dataclasses.replace(LORA, targets=targets)
  adapters = _adapters(config)
  names = lora.logical_axes(config, toy.CONFIG)
  is_leaf = lambda node: isinstance(node, tuple)  # noqa: E731
  assert jax.tree.structure(adapters) == jax.tree.structure(
    names, is_leaf=is_leaf
  )
  of_matrices = transformer.logical_axes(toy.CONFIG)["blocks"]
  for name in targets:
    a, b = names["blocks"][name]["a"], names["blocks"][name]["b"]
    assert len(a) == adapters["blocks"][name]["a"].ndim
    assert len(b) == adapters["blocks"][name]["b"].ndim
    assert (a[-1], b[:2]) == (None, (None, None))
    assert a[:-1] + b[2:] == of_matrices[name]


def test_mesh_equals_no_mesh_for_values_and_gradients():
  args = (_adapters(), toy.params(), jnp.asarray(TOKENS))
  mesh = toy.mesh((2, 2, 2))
  names = (
    lora.logical_axes(LORA, toy.CONFIG),
    transformer.logical_axes(toy.CONFIG),
    ("batch", None),
  )
  placed = [
    jax.device_put(arg, sharding.shardings(mesh, tree))
    for arg, tree in zip(args, names, strict=True)
  ]
  assert placed[0]["blocks"]["down"]["a"].sharding.spec[1] == "tensor"
  with jax.set_mesh(mesh):
    got = jit(_value_and_gradient)(*placed)
  _close(got, _gradient())


def test_the_optimiser_moves_adapters_and_keeps_state_for_them_alone():
  config = optim.OptimConfig(learning_rate=0.1, num_steps=5, warmup_steps=0)
  tx = optim.make_tx(config)
  adapters = _adapters()
  state = tx.init(adapters)
  updates, new_state = jit(tx.update)(_gradient()[1], state, adapters)
  assert jax.tree.structure(updates) == jax.tree.structure(adapters)
  assert all(np.abs(u).max() > 0.0 for u in jax.tree.leaves(updates))
  num_weights = sum(a.size for a in jax.tree.leaves(adapters))
  moments = [a for a in jax.tree.leaves(new_state) if a.ndim]
  assert sum(a.size for a in moments) == 2 * num_weights
  assert all(jax.tree.leaves(optim.is_decayed(adapters)))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"rank": 0}, "rank must be positive, got 0"),
    ({"alpha": 0.0}, "alpha must be positive"),
    ({"alpha": float("nan")}, "alpha must be positive"),
    ({"targets": ()}, "targets must name one matrix or more"),
    ({"targets": ("up", "up")}, "each once"),
    ({"targets": ("up", "head")}, r"of \('q_proj', .* got \['head'\]"),
  ],
)
def test_config_errors_name_the_field(change, message):
  with pytest.raises(ValueError, match=message):
    lora.LoraConfig(**change)


@pytest.mark.parametrize("place", [lora.attach, lora.merge])
def test_adapters_of_another_config_are_refused(place):
  fewer = dataclasses.replace(LORA, targets=("up",))
  with pytest.raises(ValueError, match=r"targets \['up'\], got \['attn_out'"):
    place(fewer, toy.params(), _adapters())
  with pytest.raises(ValueError, match=r"rank 4, got \[3\]"):
    place(dataclasses.replace(LORA, rank=4), toy.params(), _adapters())
