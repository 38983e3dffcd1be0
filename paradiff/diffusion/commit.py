"""Propose a token for every masked position and commit the surest ones.

A committed token is fixed for good: commitment never reverses, so the final
tokens and the step at which each was committed describe the whole run.
"""

import jax
import jax.numpy as jnp
import numpy as np

from paradiff import masked

_BLOCK = 128  # columns a block of the two-level draw; a TPU lane row


def categorical(logits: jax.Array, uniform: jax.Array) -> jax.Array:
  """Draw from softmax(logits) by inverting the distribution function.

  Two levels, blocks and columns within the block, need one uniform number a
  row instead of one a column as the Gumbel trick does.

  Args:
    logits: float32[..., V]; -inf or very low for impossible columns.
    uniform: float32[...], in [0, 1).

  Returns:
    int32[...], in [0, V). Columns of probability 0 are never drawn.
  """
  size = logits.shape[-1]
  probs = jax.nn.softmax(logits, axis=-1)
  num_blocks = -(-size // _BLOCK)
  pad = [(0, 0)] * (probs.ndim - 1) + [(0, num_blocks * _BLOCK - size)]
  blocks = jnp.pad(probs, pad).reshape(*probs.shape[:-1], num_blocks, _BLOCK)
  block, below = _invert(blocks.sum(axis=-1), uniform)
  row = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)
  row = row[..., 0, :]
  # Uniform within the chosen block again, whatever the block's mass is.
  column, _ = _invert(row, below)
  return block * _BLOCK + column


def _invert(mass: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Return the drawn column and where in it the draw fell, in [0, 1)."""
  cumulative = jnp.cumsum(mass, axis=-1)
  target = uniform * cumulative[..., -1]
  # A parallel sum may grow by a rounding across a column without mass.
  hit = (mass > 0.0) & (cumulative > target[..., None])
  # Rounding may step over the end: fall back to the last possible column.
  last = mass.shape[-1] - 1 - (mass > 0.0)[..., ::-1].argmax(axis=-1)
  column = jnp.where(hit.any(axis=-1), hit.argmax(axis=-1), last)
  picked = jnp.take_along_axis(mass, column[..., None], axis=-1)[..., 0]
  upper = jnp.take_along_axis(cumulative, column[..., None], axis=-1)[..., 0]
  inside = (target - (upper - picked)) / jnp.maximum(picked, 1e-30)
  top = jnp.float32(1.0 - 2.0**-24)
  return column.astype(jnp.int32), jnp.clip(inside, 0.0, top)


def certainty(rule: str, logits: jax.Array, column: jax.Array) -> jax.Array:
  """Return how sure a proposal is, float32[...], larger is surer.

  Args:
    rule: "probability" (its log), "margin" (largest probability minus the
      second largest) or "entropy" (negative, in nats).
    logits: float32[..., V].
    column: int32[...], the proposal.

  Raises:
    ValueError: if the rule is unknown.

  Source: MaskGIT, arXiv 2202.04200; Dream, `generation_utils.py` (margin,
  entropy).
  """
  match rule:
    case "probability":
      return masked.token_logp(logits, column)
    case "margin":
      probs = jax.nn.softmax(logits, axis=-1)
      first, second = jnp.moveaxis(jax.lax.top_k(probs, 2)[0], -1, 0)
      return first - second
    case "entropy":
      logp = jax.nn.log_softmax(logits, axis=-1)
      probs = jnp.exp(logp)
      # A suppressed column has probability 0 and a huge negative log.
      return jnp.where(probs > 0.0, probs * logp, 0.0).sum(axis=-1)
    case _:
      raise ValueError(
        f'rule must be "probability", "margin" or "entropy", got {rule!r}'
      )


def propose(
  logits: jax.Array, noise: jax.Array | None, *, temperature: float
) -> tuple[jax.Array, jax.Array]:
  """Propose one token a row.

  Args:
    logits: float32[..., V], suppressed columns at the lowest number.
    noise: float32[...] uniform in [0, 1), or Gumbel numbers float32[..., V];
      may be None when `temperature` is 0.
    temperature: divides the logits; 0 takes the most probable token.

  Returns:
    column int32[...]; logp float32[...], its log-probability under the
    distribution drawn from (under softmax(logits) for temperature 0).

  Raises:
    ValueError: if there is no noise to draw with.
  """
  if temperature == 0.0:
    column = logits.argmax(axis=-1).astype(jnp.int32)
    return column, masked.token_logp(logits, column)
  if noise is None:
    raise ValueError(f"noise must be given where {temperature=} is not 0")
  if noise.ndim == logits.ndim:
    column = (logits + temperature * noise).argmax(axis=-1).astype(jnp.int32)
  else:
    column = categorical(logits / temperature, noise)
  return column, masked.token_logp(logits / temperature, column)


def commit_k(
  eligible: jax.Array,
  confidence: jax.Array,
  num_commits: jax.Array,
  *,
  block: np.ndarray | None = None,
) -> jax.Array:
  """Select exactly the `num_commits` surest eligible positions of each row.

  Ties go to the earlier position. `eligible = [T, F, T, T]`, `confidence =
  [-3., 0., -1., -3.]` and 2 commits select `[T, F, T, F]`.

  Args:
    eligible: bool[B, n].
    confidence: float32[B, n], finite.
    num_commits: int32[B], at most the number of eligible positions.
    block: int[n], the block of each position; earlier blocks go first,
      however sure the later ones are. One block if None.

  Returns:
    bool[B, n].
  """
  score = jnp.where(eligible, confidence, -jnp.inf)
  if block is None:
    rank = masked.descending_rank(score)
  else:
    late = jnp.where(eligible, jnp.asarray(block)[None], len(block))
    order = jnp.lexsort((-score, late), axis=-1)  # stable: ties by position
    rank = jnp.argsort(order, axis=-1)
  return eligible & (rank < num_commits[:, None])
