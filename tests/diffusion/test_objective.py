import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import toy

from paradiff import sequence as sequence_lib
from paradiff import sharding
from paradiff.diffusion import corrupt
from paradiff.diffusion import objective
from paradiff.models import transformer

SIZE = 8
BASE = objective.SftConfig(drop_text_rate=0.3, drop_image_rate=0.3)
WEIGHTED = [
  BASE,
  dataclasses.replace(BASE, text_weight="one", image_weight="inv_t"),
  dataclasses.replace(
    BASE, text_weight="inv_maskprob", image_weight="inv_maskprob"
  ),
  dataclasses.replace(
    BASE,
    text_weight="elbo",
    image_weight="elbo",
    text_coef=0.5,
    image_coef=3.0,
  ),
]
CLEAN = dataclasses.replace(
  BASE, rows=corrupt.RowRates(clean_text=0.3, clean_image=0.4)
)
SEQUENTIAL = dataclasses.replace(BASE, rows=corrupt.SEQUENTIAL)
BOTH_ABSENT = dataclasses.replace(
  BASE, rows=corrupt.RowRates(absent_text=0.4, absent_image=0.4)
)
_FAST = {"xla_backend_optimization_level": 0}
KEY = jax.random.key(7)  # drops two prompts and three pictures of eight


@functools.partial(jax.jit, static_argnums=0, compiler_options=_FAST)
def _loss(config, params, condition, answer, key=KEY):
  return objective.sft_loss(
    config, toy.model(), params, condition, answer, key=key
  )


@functools.partial(jax.jit, static_argnums=0, compiler_options=_FAST)
def _loss_and_gradient(config, params, condition, answer, key=KEY):
  return jax.value_and_grad(
    lambda params: objective.sft_loss(
      config, toy.model(), params, condition, answer, key=key
    )[0]
  )(params)


def _batch():
  return toy.conditions(SIZE), toy.answers(SIZE)


def _corrupted(config, condition, answer, key=KEY):
  """Repeat the loss's own draws: dropped conditions and hidden tokens."""
  key_drop, key_corrupt = jax.random.split(key)
  dropped = objective.drop_conditions(
    config, toy.model(), condition, key=key_drop
  )
  noisy = corrupt.corrupt(
    toy.LAYOUT,
    answer,
    mask_id=toy.VOCAB.mask_id,
    key=key_corrupt,
    rows=config.rows,
  )
  return dropped, noisy


@pytest.mark.parametrize(
  "config",
  [*WEIGHTED, CLEAN, SEQUENTIAL, BOTH_ABSENT],
  ids=["paper", *"123", "clean", "sequential", "both absent"],
)
def test_sft_loss_equals_the_numpy_oracle(config):
  condition, answer = _batch()
  loss, metrics = _loss(config, toy.params(), condition, answer)
  dropped, noisy = _corrupted(config, condition, answer)
  assert (np.asarray(dropped.prefix) != condition.prefix).any()
  assert (np.asarray(dropped.valid) != condition.valid).any()
  total, text, image = oracles.sft_loss(
    config,
    toy.LAYOUT,
    toy.VOCAB,
    toy.network(),
    np.asarray(dropped.prefix),
    np.asarray(dropped.valid),
    np.asarray(answer),
    np.asarray(noisy.answer),
    dict(
      text=np.asarray(noisy.text_mask).any(axis=1),
      image=np.asarray(noisy.image_mask).any(axis=1),
    ),
  )
  assert loss == pytest.approx(total, rel=1e-5)
  assert metrics["train/loss_text"] == pytest.approx(text, rel=1e-5)
  assert metrics["train/loss_image"] == pytest.approx(image, rel=1e-5)
  assert metrics["train/tokens_text"] == noisy.text_mask.sum()
  assert metrics["train/tokens_image"] == noisy.image_mask.sum()


def test_a_clean_row_has_no_loss_of_that_modality():
  _, noisy = _corrupted(CLEAN, *_batch())
  clean_text = ~np.asarray(noisy.text_mask).any(axis=1)
  clean_image = ~np.asarray(noisy.image_mask).any(axis=1)
  assert 0 < clean_text.sum() < SIZE and 0 < clean_image.sum() < SIZE
  assert not (clean_text & clean_image).any()


@functools.partial(jax.jit, compiler_options=_FAST)
def _table_loss(table, answer):
  """Return (loss, metrics) and the gradient of one row's table of logits."""

  def loss(table):
    return objective.sft_loss(
      BASE, toy.table_model(), table, toy.conditions(1), answer, key=KEY
    )

  return jax.value_and_grad(loss, has_aux=True)(table)


def test_accuracy_counts_right_guesses_of_hidden_tokens():
  table = np.zeros((28, toy.VOCAB.size), np.float32)
  answer = np.asarray(toy.answers(1))
  table[np.arange(14, 28), answer[0]] = 5.0
  table[14 + toy.LAYOUT.text_index[0], 21] = 9.0  # one wrong word
  (_, metrics), _ = _table_loss(jnp.asarray(table), jnp.asarray(answer))
  _, noisy = _corrupted(BASE, toy.conditions(1), jnp.asarray(answer))
  words = np.asarray(noisy.text_mask)[0]
  expected = (words.sum() - words[0]) / words.sum()
  assert metrics["train/accuracy_text"] == pytest.approx(expected)
  assert metrics["train/accuracy_image"] == 1.0


@pytest.mark.parametrize("chunk_len", [7])
def test_chunks_change_neither_loss_nor_gradient(chunk_len):
  config = dataclasses.replace(BASE, chunk_len=chunk_len)
  batch = _batch()
  got = _loss_and_gradient(config, toy.params(), *batch)
  expected = _loss_and_gradient(BASE, toy.params(), *batch)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_only_columns_of_the_two_modalities_get_gradient():
  _, gradient = _loss_and_gradient(BASE, toy.params(), *_batch())
  by_row = np.abs(np.asarray(gradient["head"])).max(axis=1)
  text, codes = slice(*toy.VOCAB.text_columns), slice(*toy.VOCAB.code_columns)
  assert (by_row[text] > 0.0).all() and (by_row[codes] > 0.0).all()
  by_row[text] = by_row[codes] = 0.0
  assert (by_row == 0.0).all()
  for name, leaf in gradient["blocks"].items():
    assert (np.abs(np.asarray(leaf)).max() > 1e-6).all(), name


def test_only_hidden_positions_are_scored():
  answer, condition = toy.answers(1), toy.conditions(1)
  table = jnp.zeros((28, toy.VOCAB.size))

  (loss, _), gradient = _table_loss(table, answer)
  _, noisy = _corrupted(BASE, condition, answer)
  hidden = np.zeros(28, bool)
  hidden[14:] = np.asarray(noisy.answer)[0] == toy.VOCAB.mask_id
  assert 2 <= hidden.sum() < 11
  np.testing.assert_array_equal(
    np.abs(np.asarray(gradient)).max(axis=1) > 0.0, hidden
  )
  # Another token at a visible place changes nothing behind the network.
  visible = [i for i in toy.LAYOUT.text_index if not hidden[14 + i]]
  changed = answer.at[0, jnp.asarray(visible)].set(21)
  (other_loss, _), other_gradient = _table_loss(table, changed)
  assert other_loss == loss > 0.0
  np.testing.assert_array_equal(other_gradient, gradient)


def test_masks_in_the_input_are_the_only_way_a_hidden_token_matters():
  answer = np.asarray(toy.answers(1))
  _, noisy = _corrupted(BASE, toy.conditions(1), jnp.asarray(answer))
  other = answer.copy()
  hidden = np.asarray(noisy.answer)[0] == toy.VOCAB.mask_id
  other[0, hidden] = np.where(answer[0, hidden] >= 24, 24, 20)
  _, again = _corrupted(BASE, toy.conditions(1), jnp.asarray(other))
  np.testing.assert_array_equal(again.answer, noisy.answer)


def test_drop_rates_are_realised_on_disjoint_rows():
  config = objective.SftConfig(
    drop_text_rate=0.2, drop_image_rate=0.3, drop_both_rate=0.1
  )
  # A prompt of three words and a picture in every row.
  prefix, valid = sequence_lib.encode_prefix(
    toy.LAYOUT, toy.VOCAB, prompt_ids=[9, 9, 9], source_codes=np.arange(6)
  )
  rows = 4000
  condition = sequence_lib.Condition(
    prefix=jnp.asarray(np.tile(prefix, (rows, 1))),
    valid=jnp.asarray(np.tile(valid, (rows, 1))),
  )
  got = objective.drop_conditions(config, toy.model(), condition, key=KEY)
  prompt = np.asarray(got.prefix)[:, toy.LAYOUT.prompt_span]
  no_text = (prompt == toy.VOCAB.eos_id).all(axis=1)
  no_image = ~np.asarray(got.valid)[:, toy.LAYOUT.source_span].any(axis=1)
  for rows_hit, rate in (
    (no_text & ~no_image, 0.2),
    (no_image & ~no_text, 0.3),
    (no_text & no_image, 0.1),
  ):
    assert rows_hit.mean() == pytest.approx(rate, abs=0.03)
  untouched = ~no_text & ~no_image
  assert (np.asarray(got.prefix)[untouched] == prefix).all()
  assert np.asarray(got.valid)[untouched].all()


def test_no_rate_drops_nothing_and_rate_one_everything():
  condition = toy.conditions(SIZE)

  def drop(**rates):
    return objective.drop_conditions(
      objective.SftConfig(
        **{**dict(drop_text_rate=0.0, drop_image_rate=0.0), **rates}
      ),
      toy.model(),
      condition,
      key=KEY,
    )

  for a, b in zip(
    jax.tree.leaves(drop()), jax.tree.leaves(condition), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  got = drop(drop_both_rate=1.0)
  assert not got.valid[:, toy.LAYOUT.source_span].any()
  assert (got.prefix[:, toy.LAYOUT.prompt_span] == toy.VOCAB.eos_id).all()


@pytest.mark.parametrize("shape", toy.MESHES, ids=str)
def test_loss_and_gradient_do_not_depend_on_the_mesh(shape):
  batch = _batch()
  loss, gradient = _loss_and_gradient(BASE, toy.params(), *batch)
  mesh = toy.mesh(shape)
  places = sharding.shardings(mesh, transformer.logical_axes(toy.CONFIG))
  with jax.set_mesh(mesh):
    got_loss, got_gradient = _loss_and_gradient(
      BASE, jax.device_put(toy.params(), places), *batch
    )
  assert got_loss == pytest.approx(float(loss), abs=1e-5)
  for name, expected in gradient["blocks"].items():
    np.testing.assert_allclose(
      got_gradient["blocks"][name], expected, rtol=0, atol=1e-5
    )
  for name in ("embed", "head", "final_norm"):
    np.testing.assert_allclose(
      got_gradient[name], gradient[name], rtol=0, atol=1e-5
    )


def test_jit_equals_no_jit():
  # A generator of few primitives: without jit each compiles by itself.
  key = jax.random.key(0, impl="unsafe_rbg")
  network = dataclasses.replace(toy.CONFIG, num_layers=1)
  run = functools.partial(objective.sft_loss, BASE, toy.model(network), key=key)
  inputs = (toy.params(network), *_batch())
  jitted = jax.jit(run, compiler_options=_FAST)(*inputs)
  with jax.disable_jit():
    plain = run(*inputs)
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(jitted), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_only_rows_that_can_be_hidden_reach_the_head():
  seen = []

  def head(params, hidden, *, columns):
    seen.append((hidden.shape[0], columns))
    return transformer.head(toy.CONFIG, params, hidden, columns=columns)

  denoiser = dataclasses.replace(toy.model().denoiser, head=head)
  model = dataclasses.replace(toy.model(), denoiser=denoiser)
  jax.eval_shape(
    lambda params: objective.sft_loss(BASE, model, params, *_batch(), key=KEY),
    toy.params(),
  )
  rows = corrupt.capacity(toy.LAYOUT, batch_size=SIZE)
  columns = (toy.VOCAB.text_columns, toy.VOCAB.code_columns)
  assert seen == list(zip(rows, columns, strict=True))


def test_no_array_of_the_gradient_has_the_size_of_all_logits():
  vocab = dataclasses.replace(
    toy.VOCAB, size=4200, text_size=4096, code_offset=4100, codebook_size=64
  )
  config = dataclasses.replace(toy.CONFIG, vocab_size=vocab.size)
  key = jax.eval_shape(lambda: jax.random.key(0))
  params = jax.eval_shape(lambda key: transformer.init(config, key), key)
  sft = dataclasses.replace(BASE, chunk_len=16)
  jaxpr = jax.make_jaxpr(
    jax.grad(
      lambda params: objective.sft_loss(
        sft,
        toy.model(config, toy.LAYOUT, vocab),
        params,
        *_batch(),
        key=KEY,
      )[0]
    )
  )(params).jaxpr
  # Chunks of 16 rows of text logits are the largest, or the head itself.
  assert toy.largest_array(jaxpr) <= 16 * vocab.size
  assert not [n for n in toy.primitives(jaxpr) if "callback" in n]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"text_weight": "inv"}, "text_weight must be one of"),
    ({"image_weight": ""}, "image_weight must be one of"),
    ({"drop_text_rate": -0.1}, "rates must be at least 0"),
    ({"drop_both_rate": 0.9}, "add up to at most 1"),
    ({"chunk_len": 0}, "chunk_len must be positive"),
  ],
  ids=str,
)
def test_config_errors_name_the_field(change, message):
  with pytest.raises(ValueError, match=message):
    objective.SftConfig(**change)
