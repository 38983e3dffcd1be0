"""The pieces of the transformer: norm, rotary embedding, sinusoids, sums."""

import jax
import jax.numpy as jnp
import numpy as np

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


def sinusoids(grid: tuple[int, ...], width: int) -> np.ndarray:
  """Return float64[points of the grid, width], rows of length about 1.

  Each axis has its share of the width: sines and cosines of the coordinate,
  with wavelengths from 2 pi to 200 pi.

  Source: arXiv 1706.03762 section 3.5.
  """
  points = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1)
  parts = []
  for axis, columns in enumerate(np.array_split(np.arange(width), len(grid))):
    num_waves = -(-len(columns) // 2)
    rate = 100.0 ** -(np.arange(num_waves) / num_waves)
    angle = points[..., axis].reshape(-1, 1) * rate
    waves = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    parts.append(waves[:, : len(columns)])
  return np.concatenate(parts, axis=1) * (2.0 / width) ** 0.5
