"""Ratios are clipped, and the divergence is estimated, as defined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rl_toy

from paradiff.rl import objective
from paradiff.rl import rows as rows_lib
from paradiff.rl import score

LOW, HIGH = 0.2, 0.28
# Ratio, advantage, value, gradient by the ratio.
TRUTH = (
  (1.5, 2.0, 2.56, 0.0),  # above, praised: clipped
  (0.5, -2.0, -1.6, 0.0),  # below, blamed: clipped
  (1.5, -2.0, -3.0, -2.0),  # above, blamed
  (0.5, 2.0, 1.0, 2.0),  # below, praised
  # Within the other bound only.
  (1.25, 2.0, 2.5, 2.0),
  (0.75, -2.0, -1.6, 0.0),
  (1.0, 2.0, 2.0, 2.0),
  (1.0, -2.0, -2.0, -2.0),
)


@pytest.mark.parametrize("case", TRUTH, ids=str)
def test_surrogate_clips_what_would_go_further(case):
  ratio, advantage, expected, slope = case
  value, gradient = jax.value_and_grad(
    lambda ratio: objective.surrogate(
      ratio, jnp.float32(advantage), low=LOW, high=HIGH
    )
  )(jnp.float32(ratio))
  assert value == pytest.approx(expected, abs=1e-6)
  assert gradient == pytest.approx(slope, abs=1e-6)


def _rows(log_ratio, advantage):
  """Return a row of one code whose ratio and advantage are given."""
  layout, vocab = rl_toy.LAYOUT, rl_toy.VOCAB
  condition = rl_toy.conditions(1)
  place = layout.image_index[2]
  scored = np.zeros((1, layout.answer_len), bool)
  scored[0, place] = True
  target = np.array(rl_toy.masked_answers(1))
  target[0, place] = vocab.code_offset + 1
  rows = {
    "prefix": condition.prefix,
    "prefix_valid": condition.valid,
    "canvas": rl_toy.masked_answers(1),
    "target": jnp.asarray(target),
    "scored": jnp.asarray(scored),
    "bucket": jnp.zeros(1, jnp.int32),
  }
  model = rl_toy.model()
  rows = rows_lib.add_weights(
    "step_mean", model, rows, jnp.full((1, 1), advantage), num_groups=1
  )
  logits = rl_toy.numpy_logits(rl_toy.draw_params(), rows)
  logp = rl_toy.numpy_logp(rl_toy.SAMPLER, model, logits)
  old = logp[0, place, target[0, place]] - log_ratio
  return rows | {"old_image": jnp.full((1, 1), old, jnp.float32)}


@pytest.mark.parametrize("case", TRUTH[:6], ids=str)
def test_a_clipped_token_teaches_nothing(case):
  ratio, advantage, expected, slope = case
  config = objective.ObjectiveConfig(
    clip_low=LOW, clip_high=HIGH, kl_anchor="none", aggregation="step_mean"
  )
  (loss, metrics), gradient = rl_toy.loss_and_gradient(
    config,
    rl_toy.SAMPLER,
    rl_toy.model(),
    score.spans(rl_toy.SAMPLER, rl_toy.model(), (0, 1)),
    rl_toy.draw_params(),
    _rows(np.log(ratio), advantage),
    None,
    0.0,
  )
  assert loss == pytest.approx(-expected, abs=1e-4)
  assert metrics["rl/ratio_image"] == pytest.approx(ratio, abs=1e-4)
  assert metrics["rl/clip_fraction_image"] == (slope == 0.0)
  assert metrics["rl/kl"] == 0.0
  largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient))
  assert largest == 0.0 if slope == 0.0 else largest > 1e-2


# Every token of a place of 5, with its probability under the policy.
POLICY = jax.nn.log_softmax(jnp.asarray([0.3, -1.0, 0.8, 0.0, -0.4]))
ANCHOR = jax.nn.log_softmax(jnp.asarray([-0.2, 0.5, 0.1, 0.0, -1.5]))


def _estimates(estimator, logp):
  zeros = jnp.zeros_like(logp)
  scores = score.Scores(logp=logp, entropy=zeros, kl=zeros, anchor_logp=ANCHOR)
  return objective.kl_of(estimator, scores)


def _divergence(logp, other):
  return (jnp.exp(logp) * (logp - other)).sum()


def test_estimators_have_the_mean_of_the_exact_divergence():
  exact = _divergence(POLICY, ANCHOR)
  probs = jnp.exp(POLICY)
  for estimator in ("k1", "k3"):
    mean = (probs * _estimates(estimator, POLICY)).sum()
    assert mean == pytest.approx(float(exact), abs=1e-6), estimator
  for estimator in ("k2", "k3"):
    assert (_estimates(estimator, POLICY) >= 0.0).all()
    assert (_estimates(estimator, ANCHOR) == 0.0).all()
  assert (_estimates("k1", POLICY) < 0.0).any()
  d = np.asarray(ANCHOR - POLICY, np.float64)
  np.testing.assert_allclose(_estimates("k2", POLICY), d * d / 2, atol=1e-6)


def test_mean_gradients_are_those_of_which_divergence():
  logits = POLICY + 0.7

  def mean_gradient(estimator):
    probs = jnp.exp(POLICY)  # tokens are drawn, not differentiated
    return jax.grad(
      lambda x: (probs * _estimates(estimator, jax.nn.log_softmax(x))).sum()
    )(logits)

  reverse = jax.grad(lambda x: _divergence(jax.nn.log_softmax(x), ANCHOR))
  forward = jax.grad(lambda x: _divergence(ANCHOR, jax.nn.log_softmax(x)))
  for estimator, expected in (
    ("k1", jnp.zeros_like(logits)),
    ("k2", reverse(logits)),
    ("k3", forward(logits)),
  ):
    np.testing.assert_allclose(
      mean_gradient(estimator), expected, atol=1e-6, err_msg=estimator
    )


def test_exact_divergence_comes_with_the_scores_and_others_are_refused():
  zeros = jnp.zeros_like(POLICY)
  scores = score.Scores(logp=zeros, entropy=zeros, kl=POLICY, anchor_logp=zeros)
  assert objective.kl_of("exact", scores) is scores.kl
  with pytest.raises(ValueError, match="estimator must be one of .*'k4'"):
    objective.kl_of("k4", scores)
