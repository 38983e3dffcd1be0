"""The ParaRL objective: clipped importance ratios at parts of a trajectory.

  r_o = pi(o | state) / pi_old(o | state)
  L   = -mean over rows sum_o w_o min(r_o A, clip(r_o, 1 - low, 1 + high) A)
        + coef mean over rows sum_o w_o KL_o

A row is one unit of one rollout (see `units`). The weights w hold the
normalisers of the whole batch, so the loss and every metric are means over
rows, and any split of the rows into microbatches gives the same gradient.

Source: arXiv 2511.09611 eq. 3 and 4. Differs from it: means over the group and
the units (its sums are `paper_sum`), and a choice of anchors for the KL (it
prints the old policy, whose KL vanishes at the first update).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paradiff.diffusion import model as model_lib
from paradiff.diffusion import settings
from paradiff.rl import rows as rows_lib
from paradiff.rl import score as score_lib

ANCHORS = ("ref", "old", "none")
ESTIMATORS = ("exact", "k1", "k2", "k3")
METRICS = ("entropy", "kl", "ratio", "clip_fraction")


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
  """Settings of the objective.

  Attributes:
    clip_low: the ratio's lower bound is 1 - clip_low.
    clip_high: its upper bound is 1 + clip_high.
    kl_anchor: "ref", the policy that training began with; "old", the one that
      rolled out; "none".
    kl_estimator: "exact", over all ids at each scored position; or from the
      scored tokens alone, with d = log pi_anchor - log pi: "k1", -d; "k2",
      d^2 / 2; "k3", exp(d) - 1 - d. In the mean over drawn tokens k1 has no
      gradient (it is for watching), k2 that of KL(policy || anchor), k3 that
      of KL(anchor || policy).
    aggregation: how tokens weigh. "paper_sum", the mean within a unit, summed
      over units and group; "step_mean", the mean of those; "token_mean",
      every token alike; "per_modality_mean", text and picture of a unit
      alike; "sequence", one ratio a unit, the geometric mean of its tokens'
      (arXiv 2507.18071).
    score_set: "committed", the tokens that a unit committed (the paper);
      "candidates", all that its step proposed, kept or not, with which the
      gradient is exact where confidence decides what is kept.
    chunk_len: positions that pass the head at once.

  Raises:
    ValueError: if a value leaves its range.
  """

  clip_low: float = 0.2
  clip_high: float = 0.28
  kl_anchor: str = "ref"
  kl_estimator: str = "exact"
  aggregation: str = "per_modality_mean"
  score_set: str = "committed"
  chunk_len: int = 4096

  def __post_init__(self) -> None:
    for name, allowed in (
      ("kl_anchor", ANCHORS),
      ("kl_estimator", ESTIMATORS),
      ("aggregation", rows_lib.AGGREGATIONS),
      ("score_set", rows_lib.SCORE_SETS),
    ):
      if getattr(self, name) not in allowed:
        raise ValueError(
          f"{name} must be one of {allowed}, got {getattr(self, name)!r}"
        )
    if not (0.0 < self.clip_low <= 1.0 and self.clip_high > 0.0):
      raise ValueError(
        "clip_low must lie in (0, 1] and clip_high be positive, got "
        f"{self.clip_low=} {self.clip_high=}"
      )
    if self.chunk_len < 1:
      raise ValueError(f"chunk_len must be positive, got {self.chunk_len}")


def old_logp(
  sampler_config: settings.SamplerConfig,
  model: model_lib.Model,
  params: Any,
  rows: Mapping[str, jax.Array],
  modalities: tuple[score_lib.Span, ...],
  *,
  chunk_len: int,
) -> dict[str, jax.Array]:
  """Return the log-probabilities under `params`, by the forward of training.

  Values that the sampler kept would do in exact arithmetic only: another
  batch shape or kernel makes ratios differ from 1. Only with several updates
  a rollout are they needed at all.

  Returns:
    "old_text" and "old_image" float32[n, K], to be added to the rows.
  """
  found = score_lib.gather(sampler_config, model, params, rows, modalities)
  return {
    f"old_{span.name}": score_lib.score(
      sampler_config,
      model,
      params,
      span,
      found[span.name],
      chunk_len=chunk_len,
    ).logp
    for span in modalities
  }


def surrogate(
  ratio: jax.Array, advantage: jax.Array, *, low: float, high: float
) -> jax.Array:
  """Return min(r A, clip(r, 1 - low, 1 + high) A), all float32[...]."""
  clipped = jnp.clip(ratio, 1.0 - low, 1.0 + high)
  return jnp.minimum(ratio * advantage, clipped * advantage)


def kl_of(estimator: str, scores: score_lib.Scores) -> jax.Array:
  """Return the KL to the anchor at each position, float32[n, K]."""
  difference = scores.anchor_logp - scores.logp
  match estimator:
    case "exact":
      return scores.kl
    case "k1":
      return -difference
    case "k2":
      return 0.5 * jnp.square(difference)
    case "k3":
      return jnp.exp(difference) - 1.0 - difference
    case _:
      raise ValueError(
        f"estimator must be one of {ESTIMATORS}, got {estimator!r}"
      )


def loss(
  config: ObjectiveConfig,
  sampler_config: settings.SamplerConfig,
  model: model_lib.Model,
  params: Any,
  rows: Mapping[str, jax.Array],
  modalities: tuple[score_lib.Span, ...],
  *,
  anchor: Any,
  kl_coef: jax.Array | float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Score rows and return the loss, to be minimised.

  Args:
    config: the settings.
    sampler_config: of the rollouts.
    model: the network, its layout and ids.
    params: the policy's parameters.
    rows: from `rows.add_weights`, all of a batch or a part of it; with
      `old_logp`'s where several updates are made of a rollout, else the
      ratio is 1 and has the gradient of the policy.
    modalities: from `score.spans`.
    anchor: parameters of the policy that the KL is taken to. None with the
      anchor "old" is the policy itself, whose KL is 0 at the first update.
    kl_coef: float32[], weight of the KL.

  Returns:
    The loss float32[] and metrics float32[], all means over rows.

  Raises:
    ValueError: if the anchor "ref" is not given.
  """
  found = score_lib.gather(sampler_config, model, params, rows, modalities)
  anchors = _anchors(
    config, sampler_config, model, params, rows, modalities, found, anchor
  )
  parts = []
  for span in modalities:
    part = found[span.name]
    scores = score_lib.score(
      sampler_config,
      model,
      params,
      span,
      part,
      anchor=anchors.get(span.name),
      chunk_len=config.chunk_len,
    )
    old = rows.get(f"old_{span.name}", jax.lax.stop_gradient(scores.logp))
    weight = jnp.take_along_axis(
      rows["weight"][:, np.asarray(span.index)], part.place, axis=1
    )
    kl = kl_of(config.kl_estimator, scores)
    parts.append((span, part, scores, scores.logp - old, weight, kl))
  log_ratio = [part[3] for part in parts]
  if config.aggregation == "sequence":
    # The weights of a row add up to a multiple of 1, whatever its length.
    total = sum(part[4].sum(axis=1) for part in parts)
    mean = sum((part[4] * part[3]).sum(axis=1) for part in parts)
    mean = mean / jnp.where(total > 0.0, total, 1.0)
    log_ratio = [jnp.broadcast_to(mean[:, None], x.shape) for x in log_ratio]
  value = jnp.zeros(rows["canvas"].shape[0], jnp.float32)
  penalty = jnp.zeros_like(value)
  metrics: dict[str, jax.Array] = {}
  for logs, (span, part, scores, _, weight, kl) in zip(
    log_ratio, parts, strict=True
  ):
    ratio = jnp.exp(logs)
    advantage = rows["advantage"][:, None]
    gain = surrogate(
      ratio, advantage, low=config.clip_low, high=config.clip_high
    )
    value += (weight * gain).sum(axis=1)
    penalty += (weight * kl).sum(axis=1)
    is_clipped = gain != ratio * advantage
    values = (scores.entropy, kl, ratio, is_clipped.astype(jnp.float32))
    metrics |= _metrics(rows, span.name, part.is_real, values)
  policy_loss, kl_value = -value.mean(), penalty.mean()
  metrics |= {"rl/policy_loss": policy_loss, "rl/kl": kl_value}
  return policy_loss + kl_coef * kl_value, metrics


def _anchors(
  config: ObjectiveConfig,
  sampler_config: settings.SamplerConfig,
  model: model_lib.Model,
  params: Any,
  rows: Mapping[str, jax.Array],
  modalities: tuple[score_lib.Span, ...],
  found: Mapping[str, score_lib.Gathered],
  anchor: Any,
) -> dict[str, tuple[Any, dict[str, jax.Array]]]:
  """Return the anchor's parameters and hidden states of each modality."""
  if config.kl_anchor == "none":
    return {}
  if config.kl_anchor == "ref" and anchor is None:
    raise ValueError('anchor must be given where kl_anchor is "ref", got None')
  there = found
  if anchor is not None:
    there = score_lib.gather(sampler_config, model, anchor, rows, modalities)
  fixed = jax.lax.stop_gradient(params if anchor is None else anchor)
  return {
    name: (fixed, jax.lax.stop_gradient(part.hidden))
    for name, part in there.items()
  }


def _metrics(
  rows: Mapping[str, jax.Array],
  modality: str,
  is_real: jax.Array,
  values: tuple[jax.Array, ...],
) -> dict[str, jax.Array]:
  """Return the means of a modality, over all its tokens and by bucket."""
  column = score_lib.MODALITIES.index(modality)
  metrics = {}
  for name, value in zip(METRICS, values, strict=True):
    row = jnp.where(is_real, jax.lax.stop_gradient(value), 0.0).sum(axis=1)
    metrics[f"rl/{name}_{modality}"] = (row * rows["overall"][:, column]).mean()
    for number, bucket in enumerate(rows_lib.BUCKETS):
      here = jnp.where(rows["bucket"] == number, row, 0.0)
      metrics[f"rl/{name}_{modality}_{bucket}"] = (
        here * rows["share"][:, column]
      ).mean()
  return metrics
