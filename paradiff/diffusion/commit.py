"""Propose a token for every masked position and commit the surest ones.

A committed token is fixed for good: commitment never reverses, so the final
tokens and the step at which each was committed describe the whole run.
"""

import jax
import jax.numpy as jnp

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


def propose(
  logits: jax.Array, uniform: jax.Array | None, *, temperature: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Propose one token a row.

  Args:
    logits: float32[..., V], suppressed columns at the lowest number.
    uniform: float32[...] in [0, 1), or None when `temperature` is 0.
    temperature: divides the logits; 0 takes the most probable token.

  Returns:
    column int32[...]; logp float32[...], its log-probability under the
    distribution drawn from (under softmax(logits) for temperature 0);
    confidence float32[...], its log-probability under softmax(logits).
  """
  if temperature == 0.0:
    column = logits.argmax(axis=-1).astype(jnp.int32)
    logp = masked.token_logp(logits, column)
    return column, logp, logp
  if uniform is None:
    raise ValueError(f"uniform must be given where {temperature=} is not 0")
  column = categorical(logits / temperature, uniform)
  logp = masked.token_logp(logits / temperature, column)
  return column, logp, masked.token_logp(logits, column)


def commit_k(
  eligible: jax.Array, confidence: jax.Array, num_commits: jax.Array
) -> jax.Array:
  """Select exactly the `num_commits` surest eligible positions of each row.

  Ties go to the earlier position. `eligible = [T, F, T, T]`, `confidence =
  [-3., 0., -1., -3.]` and 2 commits select `[T, F, T, F]`.

  Args:
    eligible: bool[B, n].
    confidence: float32[B, n], finite.
    num_commits: int32[B], at most the number of eligible positions.

  Returns:
    bool[B, n].
  """
  score = jnp.where(eligible, confidence, -jnp.inf)
  rank = masked.descending_rank(score)
  return eligible & (rank < num_commits[:, None])
