"""How several rewards become one number: each by its `Term`, then a sum.

The paper's map is that of "paper_clip" at k = `clip_at` = 1:

  R = 1/2 (1 + clip((c - mean) / std, -k, k) / k)

Worked example, mean = 0.3, std = 0.1, k = 1: c = 0.3, 0.4, 0.35 and 0.9 give
R = 0.5, 1, 0.75 and 1; the second and the last are saturated.

Source: arXiv 2511.09611, equation 4; arXiv 2601.05242, normalisation of each
reward in its group before the sum ("group").
"""

import dataclasses
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

NORMALISATIONS = ("none", "paper_clip", "zscore", "per_step", "group")
MIN_STD = 1e-4  # below it a spread is rounding: every score counts as the mean


@dataclasses.dataclass(frozen=True)
class Term:
  """One reward's part of the sum.

  Attributes:
    name: of the reward.
    weight: its factor in the sum; negative for a cost.
    normalise: one of NORMALISATIONS. "none" takes it as it is; "paper_clip"
      is the map of the module's text, with fixed `mean` and `std`; "zscore"
      takes mean and std of all points seen so far, "per_step" of those in the
      same bucket of the clock; "group" of this point over the group.
    mean: of the reward over the training data, for "paper_clip".
    std: likewise; positive.
    clip_at: k, in standard deviations, for "paper_clip"; None does not clip:
      R = 1/2 (1 + (c - mean) / std).
    output_only: the value of the finished answer stands at every point.

  Raises:
    ValueError: if a setting is unknown, missing or out of range.
  """

  name: str
  weight: float = 1.0
  normalise: str = "none"
  mean: float | None = None
  std: float | None = None
  clip_at: float | None = 1.0
  output_only: bool = False

  def __post_init__(self) -> None:
    if not self.name:
      raise ValueError(f"name must not be empty, got {self.name!r}")
    if self.normalise not in NORMALISATIONS:
      raise ValueError(
        f"normalise must be one of {NORMALISATIONS}, got {self.normalise!r}"
      )
    if not math.isfinite(self.weight) or self.weight == 0.0:
      raise ValueError(f"weight must be finite and not 0, got {self.weight}")
    if self.mean is not None and not math.isfinite(self.mean):
      raise ValueError(f"mean must be finite, got {self.mean}")
    if self.std is not None and not 0.0 < self.std < math.inf:
      raise ValueError(f"std must be positive and finite, got {self.std}")
    if self.normalise == "paper_clip" and None in (self.mean, self.std):
      raise ValueError(
        f"paper_clip must have mean and std, got {self.mean=} {self.std=}"
      )
    if self.clip_at is not None and not 0.0 < self.clip_at < math.inf:
      raise ValueError(
        f"clip_at must be None or positive and finite, got {self.clip_at}"
      )


@flax.struct.dataclass
class Stats:
  """Running moments of K rewards, apart for every bucket of the clock.

  Attributes:
    count: float32[K, num_buckets], scores seen.
    mean: float32[K, num_buckets].
    m2: float32[K, num_buckets], summed squared distance from the mean.
  """

  count: jax.Array
  mean: jax.Array
  m2: jax.Array


def init_stats(num_terms: int, num_buckets: int) -> Stats:
  """Return statistics of nothing.

  Args:
    num_terms: K.
    num_buckets: parts of the clock; 1 unless a term is "per_step".

  Raises:
    ValueError: if one of them is not positive.
  """
  if num_terms < 1 or num_buckets < 1:
    raise ValueError(
      f"both numbers must be positive, got {num_terms=} {num_buckets=}"
    )
  zeros = jnp.zeros((num_terms, num_buckets), jnp.float32)
  return Stats(count=zeros, mean=zeros, m2=zeros)


def update(stats: Stats, scores: jax.Array, *, bucket: jax.Array) -> Stats:
  """Return the statistics of what was seen before and of a batch.

  Args:
    stats: of what was seen before.
    scores: float32[B, R, K].
    bucket: int32[R] in [0, num_buckets), the part of the clock of each point.

  Returns:
    The same as of all scores at once, in any order, up to rounding.

  Source: Chan, Golub and LeVeque (1979), the parallel update.
  """
  # Sums over rows stay apart for the points until they are scattered.
  shape = stats.count.T.shape
  num = jnp.zeros(shape, jnp.float32).at[bucket].add(float(scores.shape[0]))
  total = jnp.zeros(shape, jnp.float32).at[bucket].add(scores.sum(0))
  mean = (total / jnp.maximum(num, 1.0)).T
  off = jnp.square(scores - mean.T[bucket][None])
  m2 = jnp.zeros(shape, jnp.float32).at[bucket].add(off.sum(0)).T
  num = num.T
  count = stats.count + num
  shift = mean - stats.mean
  share = num / jnp.maximum(count, 1.0)
  return Stats(
    count=count,
    mean=stats.mean + shift * share,
    m2=stats.m2 + m2 + jnp.square(shift) * stats.count * share,
  )


def _merged(stats: Stats) -> tuple[jax.Array, jax.Array]:
  """Return mean and std float32[K] over all buckets."""
  count = jnp.maximum(stats.count.sum(1), 1.0)
  mean = (stats.count * stats.mean).sum(1) / count
  between = stats.count * jnp.square(stats.mean - mean[:, None])
  return mean, jnp.sqrt((stats.m2 + between).sum(1) / count)


def _zscore(scores: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
  """Return (scores - mean) / std, and 0 where there is no spread."""
  has_spread = std >= MIN_STD
  return jnp.where(
    has_spread, (scores - mean) / jnp.where(has_spread, std, 1.0), 0.0
  )


def _normalise(
  term: Term,
  scores: jax.Array,
  *,
  moments: tuple[jax.Array, jax.Array],
  step_moments: tuple[jax.Array, jax.Array],
  group_size: int,
) -> jax.Array:
  """Return float32[B, R], what `term` makes of its scores.

  Args:
    term: says how.
    scores: float32[B, R].
    moments: mean and std float32[], of all points seen.
    step_moments: mean and std float32[R], of the bucket of each point.
    group_size: G.
  """
  if term.normalise == "none":
    return scores
  if term.normalise == "paper_clip":
    off, limit = _standardised(term, scores), term.clip_at
    if limit is None:
      return 0.5 * (1.0 + off)
    return 0.5 * (1.0 + jnp.clip(off, -limit, limit) / limit)
  if term.normalise == "zscore":
    return _zscore(scores, *moments)
  if term.normalise == "per_step":
    return _zscore(scores, *(moment[None] for moment in step_moments))
  groups = scores.reshape(-1, group_size, scores.shape[1])
  mean = groups.mean(1, keepdims=True)
  return _zscore(groups, mean, groups.std(1, keepdims=True)).reshape(
    scores.shape
  )


def _standardised(term: Term, scores: jax.Array) -> jax.Array:
  """Return c_hat float32[B, R] by the term's own mean and std."""
  return (scores - np.float32(term.mean)) / np.float32(term.std)


def combine(
  terms: tuple[Term, ...],
  raw: jax.Array,
  stats: Stats,
  *,
  bucket: jax.Array,
  group_size: int,
) -> tuple[jax.Array, Stats, dict[str, jax.Array]]:
  """Map every reward by its term and add up.

  The running statistics that a batch is normalised by include the batch, so
  that the first one has some. All spreads are those of a population.

  Args:
    terms: K of them, static.
    raw: float32[B, R, K], of `reward.evaluate`, groups contiguous.
    stats: of what was seen before, K rewards.
    bucket: int32[R] in [0, num_buckets), the part of the clock of each point.
    group_size: G, static; divides B.

  Returns:
    The sum float32[B, R]; the statistics with this batch; metrics float32[],
    `reward/{name}` the mean at the last point as the reward gave it,
    `reward/{name}_steps` over all points, `reward/{name}_saturated` the share
    that the map "paper_clip" cuts, and `reward/total` of the sum at the last
    point.

  Raises:
    ValueError: if names repeat or sizes do not agree.
  """
  names = [term.name for term in terms]
  if not names or len(set(names)) != len(names):
    raise ValueError(f"terms must exist and differ in name, got {names}")
  if raw.ndim != 3 or raw.shape[2] != len(terms):
    raise ValueError(f"raw must be [B, R, {len(terms)}], got {raw.shape}")
  if stats.count.shape[0] != len(terms) or bucket.shape != raw.shape[1:2]:
    raise ValueError(
      f"stats must be of {len(terms)} terms and bucket [{raw.shape[1]}], got "
      f"{stats.count.shape[0]} and {list(bucket.shape)}"
    )
  if group_size < 1 or raw.shape[0] % group_size:
    raise ValueError(
      f"group_size must divide the rows, got {group_size=} {raw.shape[0]=}"
    )
  is_final = np.array([term.output_only for term in terms])[None, None]
  scores = jnp.where(is_final, raw[:, -1:], raw)
  stats = update(stats, scores, bucket=bucket)
  mean, std = _merged(stats)
  step_mean = stats.mean[:, bucket]
  step_std = jnp.sqrt(stats.m2 / jnp.maximum(stats.count, 1.0))[:, bucket]
  total = jnp.zeros(raw.shape[:2], jnp.float32)
  metrics = {}
  for k, term in enumerate(terms):
    mapped = _normalise(
      term,
      scores[..., k],
      moments=(mean[k], std[k]),
      step_moments=(step_mean[k], step_std[k]),
      group_size=group_size,
    )
    total = total + term.weight * mapped
    metrics[f"reward/{term.name}"] = raw[:, -1, k].mean()
    metrics[f"reward/{term.name}_steps"] = raw[..., k].mean()
    if term.normalise == "paper_clip" and term.clip_at is not None:
      off = jnp.abs(_standardised(term, scores[..., k]))
      metrics[f"reward/{term.name}_saturated"] = (off >= term.clip_at).mean()
  metrics["reward/total"] = total[:, -1].mean()
  return total, stats, metrics
