"""The objective equals numpy, REINFORCE at ratio 1, and its own parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rl_toy

from paradiff.rl import advantage
from paradiff.rl import objective
from paradiff.rl import rows as rows_lib
from paradiff.rl import score
from paradiff.rl import units as units_lib

SAMPLER, MODEL, LAYOUT = rl_toy.SAMPLER, rl_toy.model(), rl_toy.LAYOUT
INDEX = {"text": LAYOUT.text_index, "image": LAYOUT.image_index}
PROMPTS, GROUP, UNITS = 2, 4, 2
SIZE = PROMPTS * GROUP * UNITS
# Each way of weighing, each estimator, and uneven bounds.
CONFIGS = {
  config.aggregation: config
  for config in (
    objective.ObjectiveConfig(
      aggregation="paper_sum", kl_estimator="exact", chunk_len=11
    ),
    objective.ObjectiveConfig(aggregation="step_mean", kl_estimator="k1"),
    objective.ObjectiveConfig(aggregation="token_mean", kl_estimator="k2"),
    objective.ObjectiveConfig(
      aggregation="per_modality_mean", kl_estimator="k3"
    ),
    objective.ObjectiveConfig(
      aggregation="sequence",
      kl_estimator="exact",
      clip_low=0.05,
      clip_high=0.02,
    ),
  )
}
COEF = 0.3


@functools.cache
def _params(seed=0):
  """Return the policy that rolled out, or one that is near to it."""
  first = rl_toy.draw_params()
  if not seed:
    return first
  other = rl_toy.draw_params(seed=seed)
  return jax.tree.map(lambda a, b: a + 0.1 * b, first, other)


@functools.cache
def _rolled():
  """Return rows of two groups and the modalities."""
  units_config = units_lib.UnitsConfig(kind="slices", num=UNITS)
  _, rows = rl_toy.rolled(
    SAMPLER,
    MODEL,
    units_config,
    "committed",
    _params(),
    rl_toy.conditions(PROMPTS, repeat=GROUP),
    rl_toy.masked_answers(PROMPTS * GROUP),
    units=units_lib.draw(units_config, rl_toy.schedule(), jax.random.key(0)),
    key=jax.random.key(8),
  )
  capacity = units_lib.capacity(
    units_config, SAMPLER, LAYOUT, score_set="committed"
  )
  return rows, score.spans(SAMPLER, MODEL, capacity)


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=rl_toy.FAST)
def _weighed(aggregation, modalities, params, rows, rewards):
  advantages, _ = advantage.group_advantages(rewards, group_size=GROUP)
  rows = rows_lib.add_weights(
    aggregation, MODEL, rows, advantages, num_groups=PROMPTS
  )
  old = objective.old_logp(
    SAMPLER, MODEL, params, rows, modalities, chunk_len=11
  )
  return rows | old


@functools.cache
def _batch(aggregation, num_empty=0):
  """Return weighed rows, with log-probabilities of the policy that sampled.

  In the first `num_empty` of them nothing is scored.
  """
  rows, modalities = _rolled()
  is_used = (jnp.arange(SIZE) >= num_empty)[:, None]
  rows = rows | {"scored": rows["scored"] & is_used}
  rewards = np.random.default_rng(2).normal(size=(PROMPTS * GROUP, UNITS))
  return _weighed(
    aggregation, modalities, _params(), rows, rewards.astype(np.float32)
  )


def _loss(config, params, rows, *, anchor=None, kl_coef=COEF):
  return rl_toy.loss_and_gradient(
    config, SAMPLER, MODEL, _rolled()[1], params, rows, anchor, kl_coef
  )


def _numpy(params, rows):
  """Return logp of the targets float64[n, A] and of all ids [n, A, V]."""
  logits = rl_toy.numpy_logits(params, rows)
  logp = rl_toy.numpy_logp(SAMPLER, MODEL, logits)
  target = np.asarray(rows["target"])[..., None]
  return np.take_along_axis(logp, target, axis=-1)[..., 0], logp


def _numpy_loss(config, params, anchor, rows):
  """Return loss and metrics of rows, from their definitions."""
  scored = np.asarray(rows["scored"])
  (logp, every), (old, _), (other, every_other) = (
    _numpy(tree, rows) for tree in (params, _params(), anchor)
  )
  weight = np.asarray(rows["weight"], np.float64)
  value = np.asarray(rows["advantage"], np.float64)[:, None]
  # What is not scored may be an id that cannot be drawn.
  logp, old, other = (np.where(scored, x, 0.0) for x in (logp, old, other))
  log_ratio = logp - old
  if config.aggregation == "sequence":
    mean = log_ratio.sum(1) / np.maximum(scored.sum(1), 1)
    log_ratio = np.broadcast_to(mean[:, None], scored.shape)
  ratio = np.exp(log_ratio)
  inside = np.clip(ratio, 1 - config.clip_low, 1 + config.clip_high)
  gain = np.minimum(ratio * value, inside * value)
  d = other - logp
  probs = np.exp(every)
  with np.errstate(invalid="ignore"):
    exact = np.where(probs > 0, probs * (every - every_other), 0.0).sum(-1)
    entropy = -np.where(probs > 0, probs * every, 0.0).sum(-1)
  kl = {"exact": exact, "k1": -d, "k2": d * d / 2, "k3": np.exp(d) - 1 - d}
  kl = kl[config.kl_estimator]
  metrics = {
    "rl/policy_loss": -(weight * gain).sum() / len(scored),
    "rl/kl": (weight * kl).sum() / len(scored),
  }
  values = {
    "entropy": entropy,
    "kl": kl,
    "ratio": ratio,
    "clip_fraction": np.abs(gain - ratio * value) > 1e-7,
  }
  bucket = np.asarray(rows["bucket"])
  for modality, index in INDEX.items():
    here = np.zeros(scored.shape, bool)
    here[:, index] = scored[:, index]
    for name, x in values.items():
      key = f"rl/{name}_{modality}"
      metrics[key] = x[here].mean()
      for number, third in enumerate(rows_lib.BUCKETS):
        there = here & (bucket == number)[:, None]
        metrics[f"{key}_{third}"] = x[there].mean() if there.any() else 0.0
  return metrics["rl/policy_loss"] + COEF * metrics["rl/kl"], metrics


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_metrics_equal_numpy(name):
  config, rows = CONFIGS[name], _batch(name, num_empty=3)
  (loss, metrics), _ = _loss(config, _params(1), rows, anchor=_params(2))
  expected_loss, expected = _numpy_loss(config, _params(1), _params(2), rows)
  assert loss == pytest.approx(expected_loss, abs=1e-5)
  assert set(metrics) == set(expected)
  for key, value in expected.items():
    assert metrics[key] == pytest.approx(value, abs=2e-5), key
  # The batch tells what it should: both kinds of tokens, some clipped.
  assert 0.0 < sum(expected[f"rl/clip_fraction_{m}"] for m in INDEX) < 2.0
  assert expected["rl/entropy_text_late"] == 0.0  # no unit begins there
  assert expected["rl/entropy_text_middle"] > 0.0


@functools.cache
def _reinforce():
  """Return a jitted gradient of -mean over rows A sum_o w_o log pi(o)."""
  logits_scale = np.ones((1, LAYOUT.answer_len, 1), np.float32)
  logits_scale[:, LAYOUT.text_index] = 1.0 / SAMPLER.text_temperature
  logits_scale[:, LAYOUT.image_index] = 1.0 / SAMPLER.image_temperature
  rows, _ = _rolled()
  _, logp = _numpy(_params(), rows)
  allowed = np.isfinite(logp) | ~np.isfinite(logp).any(-1, keepdims=True)

  def value(params, rows):
    tokens = jnp.concatenate([rows["prefix"], rows["canvas"]], axis=1)
    hidden = MODEL.denoiser.trunk(params, tokens, None, None)
    logits = hidden[:, LAYOUT.prefix_len :] @ params["head"] * logits_scale
    logp = jax.nn.log_softmax(jnp.where(allowed, logits, -1e9))
    target = rows["target"][..., None]
    picked = jnp.take_along_axis(logp, target, axis=-1)[..., 0]
    weight = jnp.where(rows["scored"], rows["weight"], 0.0)
    return -(rows["advantage"] * (weight * picked).sum(axis=1)).mean()

  return jax.jit(jax.grad(value), compiler_options=rl_toy.FAST)


@pytest.mark.parametrize("name", CONFIGS)
def test_first_gradient_is_that_of_reinforce(name):
  rows = _batch(name)
  (_, metrics), gradient = _loss(
    CONFIGS[name], _params(), rows, anchor=_params(2), kl_coef=0.0
  )
  expected = _reinforce()(_params(), rows)
  rl_toy.assert_close(gradient, expected, atol=2e-6)
  size = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
  assert size > 1e-2
  for modality in INDEX:
    assert metrics[f"rl/ratio_{modality}"] == pytest.approx(1.0, abs=1e-5)
    assert metrics[f"rl/clip_fraction_{modality}"] == 0.0


def test_first_policy_loss_is_0():
  # Tokens weigh by their number under "token_mean", so units do not cancel.
  for name in set(CONFIGS) - {"token_mean"}:
    (_, metrics), _ = _loss(
      CONFIGS[name], _params(), _batch(name), anchor=_params(2)
    )
    assert metrics["rl/policy_loss"] == pytest.approx(0.0, abs=2e-6), name
  (_, metrics), _ = _loss(
    CONFIGS["step_mean"], _params(1), _batch("step_mean"), anchor=_params(2)
  )
  assert abs(metrics["rl/policy_loss"]) > 1e-3


@pytest.mark.parametrize("estimator", ["exact", "k3"])
def test_anchor_as_printed_is_the_policy_itself_at_the_first_update(estimator):
  rows = {
    name: x
    for name, x in _batch("step_mean").items()
    if not name.startswith("old_")
  }
  config = objective.ObjectiveConfig(
    kl_anchor="old", kl_estimator=estimator, aggregation="step_mean"
  )
  (loss, metrics), gradient = _loss(config, _params(), rows, kl_coef=1.0)
  # Without log-probabilities of before, the ratio is 1 to the last bit.
  assert metrics["rl/ratio_text"] == pytest.approx(1.0, abs=1e-6)
  assert metrics["rl/kl"] == 0.0
  assert loss == metrics["rl/policy_loss"]
  expected = _reinforce()(_params(), rows)
  rl_toy.assert_close(gradient, expected, atol=2e-6)


@pytest.mark.parametrize(
  "name", ["paper_sum", "token_mean", "per_modality_mean"]
)
def test_divergence_is_0_without_gradient_at_the_anchor_and_grows_from_it(name):
  rows = _batch(name)
  rows = rows | {"advantage": jnp.zeros_like(rows["advantage"])}
  (loss, metrics), gradient = _loss(
    CONFIGS[name], _params(), rows, anchor=_params(), kl_coef=1.0
  )
  assert metrics["rl/kl"] == pytest.approx(0.0, abs=1e-6)
  assert loss == pytest.approx(0.0, abs=1e-6)
  rl_toy.assert_close(
    gradient, jax.tree.map(jnp.zeros_like, gradient), atol=1e-6
  )
  (_, metrics), gradient = _loss(
    CONFIGS[name], _params(1), rows, anchor=_params(), kl_coef=1.0
  )
  assert metrics["rl/kl"] > 1e-3
  assert all(jnp.abs(x).max() > 1e-3 for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
  ("program", "num_parts"),
  [("step_mean", 2), ("step_mean", 4), ("sequence", 4)],
)
def test_loss_gradient_and_metrics_are_means_over_parts(program, num_parts):
  # But for the sequence, ways of weighing differ in their weights alone.
  names = ["sequence"] if program == "sequence" else set(CONFIGS) - {"sequence"}
  config = CONFIGS[program]
  for name in names:
    rows = _batch(name)
    whole = _loss(config, _params(1), rows, anchor=_params(2))
    cut = {
      key: x.reshape(num_parts, SIZE // num_parts, *x.shape[1:])
      for key, x in rows.items()
    }
    parts = [
      _loss(
        config,
        _params(1),
        {key: x[i] for key, x in cut.items()},
        anchor=_params(2),
      )
      for i in range(num_parts)
    ]
    mean = jax.tree.map(lambda *x: sum(x) / num_parts, *parts)
    rl_toy.assert_close(mean, whole, atol=2e-6)


def test_settings_that_do_not_fit_are_refused():
  for name in ("kl_anchor", "kl_estimator", "aggregation", "score_set"):
    with pytest.raises(ValueError, match=f"{name} must be one of .*'other'"):
      objective.ObjectiveConfig(**{name: "other"})
  for bounds in ({"clip_low": 0.0}, {"clip_low": 1.1}, {"clip_high": 0.0}):
    with pytest.raises(ValueError, match="clip_low must lie in"):
      objective.ObjectiveConfig(**bounds)
  with pytest.raises(ValueError, match="chunk_len must be positive, got 0"):
    objective.ObjectiveConfig(chunk_len=0)
  with pytest.raises(ValueError, match='anchor must be given .* "ref"'):
    _loss(CONFIGS["step_mean"], _params(), _batch("step_mean"))
