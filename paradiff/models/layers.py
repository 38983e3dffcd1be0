"""The pieces of the transformer block: norm, rotary embedding, attention."""

import jax
import jax.numpy as jnp

# Before, the CPU has no product of bfloat16 numbers that is summed in float32.
_HAS_WIDE_SUM = jax.__version_info__ >= (0, 10)


def wide_einsum(
  subscripts: str, left: jax.Array, right: jax.Array
) -> jax.Array:
  """Multiply numbers of any float dtype and sum in float32.

  Args:
    subscripts: as `jnp.einsum` takes them.
    left: float[...].
    right: float[...], of the same dtype.

  Returns:
    float32[...].
  """

  def narrow(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(
      subscripts, left, right, preferred_element_type=jnp.float32
    )

  def widened(left: jax.Array, right: jax.Array) -> jax.Array:
    # The same sum: a bfloat16 is a float32.
    return narrow(left.astype(jnp.float32), right.astype(jnp.float32))

  if _HAS_WIDE_SUM or left.dtype == jnp.float32:
    return narrow(left, right)
  return jax.lax.platform_dependent(left, right, cpu=widened, default=narrow)


def rms_norm(x: jax.Array, gain: jax.Array, *, eps: float) -> jax.Array:
  """Normalise by the root mean square over the last axis.

  The statistic is float32, the result is cast back to the input's dtype and
  only then multiplied by the gain: the order of the published checkpoints.

  Args:
    x: float[B, L, D].
    gain: float[D].
    eps: added to the mean square.

  Source: arXiv 1910.07467; LLaDA `modeling_llada.py`, RMSLayerNorm.
  """
  x32 = x.astype(jnp.float32)
  scale = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
  return (x32 * scale).astype(x.dtype) * gain.astype(x.dtype)[None, None, :]


def rope_tables(
  positions: jax.Array, *, head_size: int, theta: float
) -> tuple[jax.Array, jax.Array]:
  """Return cos and sin of the rotary angles.

  Args:
    positions: int32[B, L].
    head_size: even.
    theta: base of the geometric sequence of wavelengths.

  Returns:
    Two float32[B, L, head_size / 2].
  """
  exponent = jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size
  inverse = theta**-exponent
  angles = positions.astype(jnp.float32)[..., None] * inverse[None, None, :]
  return jnp.cos(angles), jnp.sin(angles)


def apply_rope(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotate the two halves of each head (half-rotation, NeoX style).

  Args:
    x: float[B, L, H, K].
    cos: float32[B, L, K / 2].
    sin: float32[B, L, K / 2].

  Source: arXiv 2104.09864; computed in float32 as `rope_full_precision`.
  """
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  cos, sin = cos[:, :, None, :], sin[:, :, None, :]
  rotated = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  valid_mask: jax.Array,
  *,
  key_bias: jax.Array | None = None,
) -> jax.Array:
  """Attend in both directions over the valid tokens.

  Scores and softmax are float32. The division by the row sum comes after the
  product with the values: it touches K numbers a row instead of L.

  Args:
    query: float[B, L, H, K].
    key: float[B, L, H, K].
    value: float[B, L, H, K].
    valid_mask: bool[B, L]; at least one True a row.
    key_bias: float32[B, L] added to the scores of each key, or None.

  Returns:
    float[B, L, H, K].
  """
  scores = wide_einsum("blhk,bmhk->bhlm", query, key)
  scores = scores * query.shape[-1] ** -0.5
  if key_bias is not None:
    scores = scores + key_bias[:, None, None, :]
  # The lowest finite number, not -inf: a fully masked row stays NaN-free.
  lowest = jnp.finfo(jnp.float32).min
  scores = jnp.where(valid_mask[:, None, None, :], scores, lowest)
  # The maximum cancels in the quotient: no gradient needs to pass it.
  top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
  weights = jnp.exp(scores - top)
  total = weights.sum(axis=-1)  # float32[B, H, L]
  mixed = wide_einsum("bhlm,bmhk->blhk", weights.astype(value.dtype), value)
  return (mixed / total.transpose(0, 2, 1)[..., None]).astype(query.dtype)
