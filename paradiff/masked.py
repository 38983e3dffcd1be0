"""Reductions, ranks and log-probabilities over masked arrays.

`mask` is boolean and True means "take part". Every function is exact where
nothing takes part: means are 0 there, never NaN.
"""

import jax
import jax.numpy as jnp


def masked_mean(
  x: jax.Array, mask: jax.Array, *, axis: int | None = None
) -> jax.Array:
  """Average `x` where `mask`; 0 where nothing takes part.

  Args:
    x: float[...].
    mask: bool[...], the shape of `x`.
    axis: the axis to reduce; default: all.
  """
  total = jnp.where(mask, x, 0.0).sum(axis)
  return total / jnp.maximum(mask.sum(axis), 1)


def descending_rank(x: jax.Array) -> jax.Array:
  """Rank along the last axis: 0 for the largest, ties by position.

  Args:
    x: float32[..., n].

  Returns:
    int32[..., n], a permutation of 0 ... n-1. `[3., 7., 3.] -> [1, 0, 2]`.
  """
  order = jnp.argsort(-x, axis=-1, stable=True)
  return jnp.argsort(order, axis=-1, stable=True).astype(jnp.int32)


def token_logp(logits: jax.Array, tokens: jax.Array) -> jax.Array:
  """Return log softmax(logits)[tokens] without forming the log-softmax.

  Args:
    logits: float32[..., V].
    tokens: int32[...], in [0, V).

  Returns:
    float32[...], natural log.
  """
  picked = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
  return picked - jax.nn.logsumexp(logits, axis=-1)
