"""From pictures to the pixels that CLIP's picture tower reads, under jit.

The resampling repeats Pillow's to the level, because CLIP's scores are
compared with published ones: each axis by itself, weights in fixed point,
whole clipped levels after each. Sharp edges overshoot more without the last.
"""

import jax
import jax.numpy as jnp
import numpy as np

# OpenAI's constants, a channel, for levels in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

_WEIGHT_BITS = 22  # after the point, as in Pillow
_LOW_BITS = 11


def _weights(num_in: int, num_out: int) -> np.ndarray:
  """Return the bicubic weights int64[num_out, num_in] in fixed point.

  Keys' kernel with a = -1/2, widened by the factor of a reduction; rows sum up
  to one and leave out what lies beyond the border.
  """
  scale = num_in / num_out
  centres = (np.arange(num_out)[:, None] + 0.5) * scale
  offsets = np.arange(num_in)[None] + 0.5 - centres
  x = np.abs(offsets / max(scale, 1.0))
  inner = (1.5 * x - 2.5) * x * x + 1.0
  outer = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
  weights = np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))
  weights = weights / weights.sum(axis=1, keepdims=True)
  return np.rint(weights * 2**_WEIGHT_BITS).astype(np.int64)


def _resample(levels: jax.Array, subscripts: str, num_out: int) -> jax.Array:
  """Return whole levels float32 with one axis of `num_out` places.

  A weight is split into two halves whose sums of products with levels fit into
  float32 exactly, up to reductions by 16: a matrix product gives integers.

  Args:
    levels: float32[B, H, W, 3], whole, in [0, 255].
    subscripts: of the product of levels with weights [num_out, num_in].
    num_out: places of the new axis.
  """
  axis = subscripts.index(subscripts.split(",")[1][1])
  weights = _weights(levels.shape[axis], num_out)
  high = (weights + 2 ** (_LOW_BITS - 1)) >> _LOW_BITS
  low = weights - (high << _LOW_BITS)
  sums = [
    jnp.einsum(
      subscripts,
      levels,
      jnp.asarray(part, jnp.float32),
      precision=jax.lax.Precision.HIGHEST,
    ).astype(jnp.int32)
    for part in (high, low)
  ]
  half = 2 ** (_WEIGHT_BITS - 1)
  total = (sums[0] << _LOW_BITS) + sums[1] + half
  return jnp.clip(total >> _WEIGHT_BITS, 0, 255).astype(jnp.float32)


def preprocess(
  pictures: jax.Array,
  *,
  size: int,
  mean: tuple[float, float, float] = MEAN,
  std: tuple[float, float, float] = STD,
) -> jax.Array:
  """Resize, crop and normalise pictures the way CLIP's processor does.

  The short side becomes `size` (bicubic, antialiased), then the centred
  square is cut out.

  Args:
    pictures: uint8[B, H, W, 3], or float[B, H, W, 3] in [0, 1], which is
      clipped and gives what the nearest uint8 picture gives.
    size: side of the result.
    mean: of each channel, for levels in [0, 1].
    std: likewise, positive.

  Returns:
    float32[B, size, size, 3].

  Raises:
    ValueError: if the shape, the dtype, the size or `std` is another.

  Differs from upstream: columns are always resampled before rows. Newer
  Pillows begin with the rows where a picture is more than twice as tall as
  wide, older ones do not, and the order shows in sharp edges.

  Source: transformers `CLIPImageProcessor`; Pillow `Resample.c`.
  """
  shape = pictures.shape
  if len(shape) != 4 or shape[-1] != 3 or min(shape[1:3]) < 1:
    raise ValueError(f"pictures must be [B, H, W, 3], got {shape}")
  if size < 1 or min(std) <= 0:
    raise ValueError(f"size and std must be positive, got {size=} {std=}")
  if pictures.dtype == jnp.uint8:
    x = pictures.astype(jnp.float32)
  elif jnp.issubdtype(pictures.dtype, jnp.floating):
    scaled = jnp.clip(pictures.astype(jnp.float32), 0.0, 1.0) * 255.0
    x = jnp.round(scaled)
  else:
    raise ValueError(f"pictures must be uint8 or floats, got {pictures.dtype}")
  tall, wide = (size * side // min(shape[1:3]) for side in shape[1:3])
  x = _resample(x, "bhwc,vw->bhvc", wide)
  x = _resample(x, "bhwc,vh->bvwc", tall)
  top, left = (tall - size) // 2, (wide - size) // 2
  x = x[:, top : top + size, left : left + size] / 255.0
  centre, spread = (jnp.asarray(v)[None, None, None] for v in (mean, std))
  return (x - centre) / spread
