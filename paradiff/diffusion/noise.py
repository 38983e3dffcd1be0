"""The random numbers of a sampler step, apart from what is done with them."""

import flax.struct
import jax
import jax.numpy as jnp

from paradiff.diffusion import model as model_lib
from paradiff.diffusion import settings


@flax.struct.dataclass
class Noise:
  """The random numbers of one step, an argument so that runs can be replayed.

  Attributes:
    text: float32[B, T] uniform in [0, 1), for the text draw; or Gumbel numbers
      float32[B, T, columns], one for each id that could be drawn.
    image: the same for the picture, float32[B, N] or float32[B, N, C].
    text_confidence: float32[B, T] Gumbel, for the order of text commits.
    image_confidence: float32[B, N] Gumbel or normal, for that of the picture.
  """

  text: jax.Array
  image: jax.Array
  text_confidence: jax.Array
  image_confidence: jax.Array


def text_columns(
  config: settings.SamplerConfig, model: model_lib.Model
) -> tuple[int, int]:
  """Return the range of ids that the text is drawn from."""
  vocab = model.vocab
  return (0, vocab.size) if config.quirks.any_text_id else vocab.text_columns


def draw(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  batch_size: int,
  key: jax.Array,
) -> Noise:
  """Draw the random numbers of one step from its key."""
  quirks = config.quirks
  keys = jax.random.split(key, 4)
  text = (batch_size, model.layout.text_len)
  image = (batch_size, model.layout.image_len)
  if quirks.gumbel_draws:
    start, stop = text_columns(config, model)
    dtype = jnp.bfloat16 if quirks.bfloat16_noise else jnp.float32
    text_noise = coarse_gumbel(keys[0], (*text, stop - start), dtype=dtype)
    codes = model.vocab.codebook_size
    image_noise = jax.random.gumbel(keys[1], (*image, codes))
  else:
    text_noise = jax.random.uniform(keys[0], text)
    image_noise = jax.random.uniform(keys[1], image)
  order = jax.random.normal if quirks.normal_image_noise else jax.random.gumbel
  return Noise(
    text=text_noise,
    image=image_noise,
    text_confidence=jax.random.gumbel(keys[2], text),
    image_confidence=order(keys[3], image),
  )


def coarse_gumbel(
  key: jax.Array, shape: tuple[int, ...], *, dtype: jnp.dtype
) -> jax.Array:
  """Draw Gumbel numbers float32[...] that are computed in `dtype`.

  In bfloat16 they take some 500 values only and never exceed 5.54, which
  misses the far tail that large vocabularies need. They are computed as on the
  accelerators that the published program runs on: a float32 uniform number is
  rounded, and what rounds to 1 becomes 0.
  """
  bits = jnp.finfo(dtype)

  def coarse(x: jax.Array) -> jax.Array:
    # Not a cast: a compiler may leave out casts to and fro.
    return jax.lax.reduce_precision(
      x, exponent_bits=bits.nexp, mantissa_bits=bits.nmant
    )

  tiny = coarse(jnp.float32(1e-10))
  uniform = coarse(jax.random.uniform(key, shape))
  uniform = jnp.where(uniform < 1.0, uniform, 0.0)
  rate = coarse(tiny - coarse(jnp.log(coarse(uniform + tiny))))
  return -coarse(jnp.log(rate))
