"""Rollouts cut into rows to score: one for each unit of each rollout.

The state before a unit is rebuilt from final tokens and commit steps. A row
carries the weights of its tokens, which hold the normalisers of the whole
batch, so that losses and metrics are means over rows, however they are split.

Source: arXiv 2511.09611 eq. 3; arXiv 2505.15809 (random masks).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from paradiff import sequence as sequence_lib
from paradiff.diffusion import model as model_lib
from paradiff.diffusion import settings
from paradiff.diffusion import trajectory as trajectory_lib
from paradiff.rl import rollout as rollout_lib
from paradiff.rl import units as units_lib

AGGREGATIONS = (
  "paper_sum",
  "step_mean",
  "token_mean",
  "per_modality_mean",
  "sequence",
)
SCORE_SETS = ("committed", "candidates")
BUCKETS = ("early", "middle", "late")  # thirds of the clock


def check(score_set: str, units: units_lib.UnitsConfig) -> None:
  """Check that the units can be scored so.

  Raises:
    ValueError: if candidates of several steps would be scored at once.
  """
  if score_set == "candidates" and units.kind not in units_lib.ISOLATED:
    raise ValueError(
      "candidates must be scored at isolated steps, kinds "
      f"{units_lib.ISOLATED}, got kind {units.kind!r}"
    )


def _masked_finals(
  model: model_lib.Model,
  trajectory: trajectory_lib.Trajectory,
  num: int,
  key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Mask finished answers at random rates: canvas and scored [B, num, A]."""
  key_rate, key_mask = jax.random.split(key)
  tokens = trajectory.tokens
  shape = (tokens.shape[0], num, tokens.shape[1])
  rate = jax.random.uniform(key_rate, shape[:2])
  drawn = jax.random.uniform(key_mask, shape) < rate[..., None]
  was_masked = trajectory.commit_step >= 0
  hidden = drawn & was_masked[:, None]
  canvas = jnp.where(hidden, model.vocab.mask_id, tokens[:, None])
  scored = hidden & rollout_lib.chosen(model, trajectory)[:, None]
  return canvas, scored


def make_rows(
  sampler_config: settings.SamplerConfig,
  model: model_lib.Model,
  condition: sequence_lib.Condition,
  rollout: rollout_lib.Rollout,
  *,
  units_config: units_lib.UnitsConfig,
  units: units_lib.Units,
  score_set: str,
  key: jax.Array,
) -> dict[str, jax.Array]:
  """Cut rollouts into rows, one for each unit of each: n = B R, units inside.

  Args:
    sampler_config: of the rollouts.
    model: the network, its layout and ids.
    condition: prefix int32[B, P].
    rollout: from `rollout.rollout`, predicted at the points of `units`.
    units_config: what is scored.
    units: drawn by `units.draw`.
    score_set: one of SCORE_SETS.
    key: typed PRNG key, of the random masks of kind "masked".

  Returns:
    prefix int32[n, P], prefix_valid bool[n, P], canvas int32[n, A] before the
    unit, target int32[n, A], scored bool[n, A] and bucket int32[n] in [0, 3),
    the third of the clock that the unit begins in.
  """
  check(score_set, units_config)
  trajectory, vocab = rollout.trajectory, model.vocab
  batch_size, answer_len = trajectory.tokens.shape
  num = units.start.shape[0]
  shape = (batch_size, num, answer_len)
  target = jnp.broadcast_to(trajectory.tokens[:, None], shape)
  if units_config.kind == "masked":
    canvas, scored = _masked_finals(model, trajectory, num, key)
  else:
    canvas = rollout_lib.committed_at(
      trajectory, units.start, mask_id=vocab.mask_id
    )
    when = trajectory.commit_step[:, None]
    start, stop = units.start[None, :, None], units.stop[None, :, None]
    scored = (when >= start) & (when < stop)
    scored &= rollout_lib.chosen(model, trajectory)[:, None]
  if score_set == "candidates":
    target = rollout.predicted[:, :num]
    scored = rollout_lib.candidates_at(
      sampler_config,
      model,
      canvas.reshape(-1, answer_len),
      start=jnp.tile(units.start, batch_size),
    ).reshape(shape)
  bucket = len(BUCKETS) * units.start // trajectory.num_steps
  each = lambda x: jnp.repeat(x, num, axis=0)  # noqa: E731
  return {
    "prefix": each(condition.prefix),
    "prefix_valid": each(condition.valid),
    "canvas": canvas.reshape(-1, answer_len),
    "target": target.reshape(-1, answer_len),
    "scored": scored.reshape(-1, answer_len),
    "bucket": jnp.tile(bucket, batch_size),
  }


def add_weights(
  aggregation: str,
  model: model_lib.Model,
  rows: Mapping[str, jax.Array],
  advantages: jax.Array,
  *,
  num_groups: int,
) -> dict[str, jax.Array]:
  """Add advantages and the normalisers of the whole batch to its rows.

  Args:
    aggregation: one of AGGREGATIONS.
    model: the network, its layout and ids.
    rows: from `make_rows`.
    advantages: float32[B, R].
    num_groups: P, prompts in the batch.

  Returns:
    The rows with advantage float32[n], weight float32[n, A], and what a token
    of text or picture counts in the metrics, float32[n, 2] each: `overall`, and
    `share` among those of the same bucket.

  Raises:
    ValueError: if the aggregation is unknown.
  """
  scored, num_rows = rows["scored"], rows["scored"].shape[0]
  per_modality = [
    scored[:, index].sum(axis=1)
    for index in (model.layout.text_index, model.layout.image_index)
  ]
  counts = jnp.stack(per_modality, axis=1).astype(jnp.float32)  # [n, 2]
  total = counts.sum(axis=1)
  num_used = jnp.maximum((total > 0).sum(), 1).astype(jnp.float32)
  within = 1.0 / jnp.maximum(total, 1.0)
  match aggregation:
    case "paper_sum":
      row_weight = num_rows / num_groups * within
    case "step_mean" | "sequence":
      row_weight = num_rows / num_used * within
    case "token_mean":
      row_weight = (
        num_rows / jnp.maximum(total.sum(), 1.0) * jnp.ones_like(within)
      )
    case "per_modality_mean":
      present = jnp.maximum((counts > 0).sum(axis=1), 1)
      row_weight = num_rows / num_used / present
    case _:
      raise ValueError(
        f"aggregation must be one of {AGGREGATIONS}, got {aggregation!r}"
      )
  weight = jnp.zeros(scored.shape, jnp.float32)
  for column, index in enumerate(
    (model.layout.text_index, model.layout.image_index)
  ):
    value = row_weight
    if aggregation == "per_modality_mean":
      value = row_weight / jnp.maximum(counts[:, column], 1.0)
    weight = weight.at[:, index].set(value[:, None])
  buckets = jax.nn.one_hot(rows["bucket"], len(BUCKETS))  # [n, 3]
  in_bucket = jnp.einsum("nb,nm->bm", buckets, counts)
  share = num_rows / jnp.maximum(buckets @ in_bucket, 1.0)
  overall = num_rows / jnp.maximum(counts.sum(axis=0), 1.0)
  return {
    **rows,
    "advantage": advantages.reshape(num_rows),
    "weight": jnp.where(scored, weight, 0.0),
    "share": share,
    "overall": jnp.broadcast_to(overall[None], share.shape),
  }
