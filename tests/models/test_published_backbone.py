"""The backbone against runs of the published code, padding included.

Logits may differ by 1e-4: the order of float32 sums differs between the
frameworks, typical logits are near 1.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import published_runs
import pytest

from paradiff.diffusion import model as model_lib
from paradiff.diffusion import pooled_loss
from paradiff.models import transformer


@functools.partial(jax.jit, static_argnums=0)
def _program(config, params, tokens, valid):
  hidden = transformer.trunk(config, params, tokens, valid_mask=valid)
  return transformer.head(
    config, params, hidden, columns=(0, config.vocab_size)
  )


def _logits(run, tokens, valid=None, **changes):
  config = published_runs.network(run.params, **changes)
  tokens = jnp.asarray(tokens)
  valid = np.ones(tokens.shape, bool) if valid is None else valid
  return np.asarray(_program(config, run.params, tokens, jnp.asarray(valid)))


@pytest.mark.parametrize("name", published_runs.RUNS_A)
def test_logits_of_a_equal_the_published_code(name):
  run = published_runs.load(name)
  expected = run.file["logits"]
  assert np.abs(expected).max() > 0.5
  got = _logits(run, run.file["input_ids"])
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", published_runs.RUNS_M)
def test_logits_of_m_equal_the_published_code(name):
  run = published_runs.load(name)
  got = _logits(run, run.file["calls"][0])
  np.testing.assert_allclose(got, run.file["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", published_runs.RUNS_M)
def test_an_added_mask_gives_the_masked_logits_of_m(name):
  run = published_runs.load(name)
  valid = run.file["attn_mask"].astype(bool)
  assert not valid.all()
  tokens, expected = run.file["calls"][0], run.file["logits_masked"]
  got = _logits(run, tokens, valid, padding="added")
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
  for other in ("attended", "left_out"):
    there = _logits(run, tokens, valid, padding=other)
    assert np.abs(there - expected)[valid].max() > 0.01


@pytest.mark.parametrize("name", published_runs.RUNS_A)
def test_attended_padding_leaks_as_published_and_padding_left_out_does_not(
  name,
):
  run = published_runs.load(name)
  whole = run.file["input_ids"][0]
  half = len(whole) // 2
  padded = np.where(np.arange(len(whole)) < half, whole, 0)
  tokens = np.stack([whole, padded])
  valid = np.ones(tokens.shape, bool)
  valid[1, half:] = False
  alone = _logits(run, padded[None, :half])[0]

  def leak(padding):
    batched = _logits(run, tokens, valid, padding=padding)
    return np.abs(batched[1, :half] - alone).max()

  assert leak("attended") == pytest.approx(run.file["pad_leak"], abs=1e-4)
  assert leak("left_out") < 2e-5


def _batch(run):
  """Return tokens, labels, valid and is_code of the recorded ragged batch."""
  rows = [(run.file[f"sft_ids{i}"], run.file[f"sft_lab{i}"]) for i in (0, 1)]
  length = max(len(ids) for ids, _ in rows)
  tokens = np.zeros((2, length), np.int32)  # right-padded with id 0
  labels = np.full((2, length), pooled_loss.UNSUPERVISED)
  valid = np.zeros((2, length), bool)
  for row, (ids, lab) in enumerate(rows):
    tokens[row, : len(ids)] = ids
    labels[row, : len(ids)] = lab
    valid[row, : len(ids)] = True
  is_code = np.zeros((2, length), bool)
  layout = run.model.layout
  is_code[:, layout.prefix_len + layout.image_index] = True
  return tokens, labels, valid, is_code


def _loss(run, padding):
  config = published_runs.network(run.params, padding=padding)
  denoiser = dataclasses.replace(
    run.model.denoiser,
    trunk=lambda params, tokens, valid, places: transformer.trunk(
      config, params, tokens, valid_mask=valid
    ),
  )
  tokens, labels, valid, is_code = map(jnp.asarray, _batch(run))
  got = pooled_loss.pooled_loss(
    denoiser,
    run.model.vocab,
    run.params,
    tokens,
    labels,
    valid=valid,
    is_code=is_code,
  )
  return [float(got[name]) for name in ("total", "text", "image")]


@pytest.mark.parametrize("name", published_runs.RUNS_A)
def test_the_pooled_loss_equals_the_published_training_loss(name):
  run = published_runs.load(name)
  assert isinstance(run.model, model_lib.Model)
  got = _loss(run, "attended")
  np.testing.assert_allclose(got, run.file["sft_loss"], rtol=0, atol=1e-5)
  assert abs(_loss(run, "left_out")[0] - got[0]) > 1e-4


def test_paddings_are_named():
  with pytest.raises(ValueError, match="padding must be one of"):
    published_runs.network(
      published_runs.load("parallel_m_greedy").params, padding="ignored"
    )
