"""Pictures to codes and back: the image tokenizer's public face.

`encode` turns a picture into a short raster sequence of integers, `decode`
turns the sequence into a picture. The network between is `vqgan`; latents
become codes by their signs (`magvit2`, arXiv 2310.05737) or by the nearest row
of a table (`codebook`, arXiv 2401.01808), as the config says. Pictures are
channels last, float32 in the config's pixel range: [-1, 1] or [0, 1];
`to_float` and `to_uint8` convert from and to bytes. Sides may differ.
"""

from collections.abc import Mapping
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp

from paradiff.models import codebook as codebook_lib
from paradiff.models import image_tokenizer_config
from paradiff.models import magvit2
from paradiff.models import vqgan

Params = Mapping[str, Any]

ImageTokenizerConfig = image_tokenizer_config.ImageTokenizerConfig
MAGVITV2 = image_tokenizer_config.MAGVITV2
AMUSED = image_tokenizer_config.AMUSED


@flax.struct.dataclass
class Reconstruction:
  """What the train-time forward pass gives.

  Attributes:
    pictures: float32[B, H, W, 3], about the config's pixel range.
    latents: float32[B, h, w, latent_size], the encoder's output.
    quantised: float32[B, h, w, latent_size], straight-through: -1 and 1, or
      rows of the codebook.
  """

  pictures: jax.Array
  latents: jax.Array
  quantised: jax.Array


def _encoder(config: ImageTokenizerConfig) -> vqgan.Encoder:
  return vqgan.Encoder(
    channels=config.encoder_channels,
    num_blocks=config.encoder_blocks,
    latent_channels=config.latent_size,
    norm_groups=config.norm_groups,
    mid_attention=config.mid_attention,
  )


def _decoder(config: ImageTokenizerConfig) -> vqgan.Decoder:
  return vqgan.Decoder(
    channels=config.decoder_channels,
    num_blocks=config.decoder_blocks,
    latent_channels=config.latent_size,
    norm_groups=config.norm_groups,
    mid_attention=config.mid_attention,
  )


def init(config: ImageTokenizerConfig, key: jax.Array) -> dict[str, Any]:
  """Draw the parameters.

  Args:
    config: the sizes.
    key: a PRNG key.

  Returns:
    {"encoder": ..., "decoder": ...}, nested dicts of float32 arrays, and
    "codebook": float32[num_codes, latent_channels] where there is one.
  """
  encoder_key, decoder_key = jax.random.split(key)
  side = config.factor  # the parameters do not depend on the picture's size
  pictures = jnp.zeros((1, side, side, 3), jnp.float32)
  latents = jnp.zeros((1, 1, 1, config.latent_size), jnp.float32)
  params: dict[str, Any] = {
    "encoder": _encoder(config).init(encoder_key, pictures)["params"],
  }
  if config.quantiser == "codebook":
    decoder_key, codebook_key = jax.random.split(decoder_key)
    params["codebook"] = codebook_lib.init(
      codebook_key,
      num_codes=config.num_codes,
      latent_channels=config.latent_channels,
    )
  params["decoder"] = _decoder(config).init(decoder_key, latents)["params"]
  return params


def logical_axes(config: ImageTokenizerConfig) -> dict[str, Any]:
  """Return the parameters' tree with a tuple of axis names at each leaf.

  Every axis is None, replicated: the tokenizer is small beside the
  transformer.
  """
  shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
  return jax.tree.map(lambda leaf: (None,) * leaf.ndim, shapes)


def encode_latents(
  config: ImageTokenizerConfig, params: Params, pictures: jax.Array
) -> jax.Array:
  """Return float32[B, h, w, latent_size] latents before quantisation.

  Args:
    config: the sizes.
    params: as `init` gives them.
    pictures: float32[B, H, W, 3] in the pixel range; H and W any multiples of
      the down-sampling.

  Returns:
    the encoder's output, h = H / factor and w = W / factor.

  Raises:
    ValueError: if the pictures have another shape.
  """
  shape, factor = pictures.shape, config.factor
  if (
    len(shape) != 4 or shape[-1] != 3 or shape[1] % factor or shape[2] % factor
  ):
    raise ValueError(
      "pictures must be [B, H, W, 3] with H and W multiples of "
      f"{factor}, got {shape}"
    )
  if not jnp.issubdtype(pictures.dtype, jnp.floating):
    low, high = _pixel_range(config)
    raise ValueError(
      f"pictures must be floats in [{low:g}, {high:g}] (to_float), got "
      f"{pictures.dtype}"
    )
  latents = _encoder(config).apply({"params": params["encoder"]}, pictures)
  return cast(jax.Array, latents)


def decode_latents(
  config: ImageTokenizerConfig, params: Params, quantised: jax.Array
) -> jax.Array:
  """Return float32[B, H, W, 3] for quantised float32[B, h, w, latent_size]."""
  pictures = _decoder(config).apply({"params": params["decoder"]}, quantised)
  return cast(jax.Array, pictures)


def reconstruct(
  config: ImageTokenizerConfig, params: Params, pictures: jax.Array
) -> Reconstruction:
  """Encode, quantise straight-through and decode: the train-time forward.

  Args:
    config: the sizes.
    params: as `init` gives them.
    pictures: float32[B, H, W, 3] in the pixel range.

  Returns:
    the reconstruction with what the losses need.

  Source: arXiv 2310.05737, section 3.1; arXiv 1711.00937, section 3.2.
  """
  latents = encode_latents(config, params, pictures)
  if config.quantiser == "codebook":
    quantised = codebook_lib.quantise(latents, params["codebook"])
  else:
    quantised = magvit2.quantise(latents)
  return Reconstruction(
    pictures=decode_latents(config, params, quantised),
    latents=latents,
    quantised=quantised,
  )


def encode(
  config: ImageTokenizerConfig, params: Params, pictures: jax.Array
) -> jax.Array:
  """Return the codes of pictures.

  Args:
    config: the sizes.
    params: as `init` gives them.
    pictures: float32[B, H, W, 3] in the pixel range; H and W any multiples of
      the down-sampling.

  Returns:
    int32[B, N] in [0, codebook_size), raster order.

  Raises:
    ValueError: if the pictures have another shape.
  """
  latents = encode_latents(config, params, pictures)
  if config.quantiser == "codebook":
    codes = codebook_lib.nearest(latents, params["codebook"])
  else:
    codes = magvit2.latents_to_codes(latents)
  return codes.reshape(codes.shape[0], -1)


def decode(
  config: ImageTokenizerConfig,
  params: Params,
  codes: jax.Array,
  *,
  grid: tuple[int, int] | None = None,
) -> jax.Array:
  """Return the pictures of codes.

  Args:
    config: the sizes.
    params: as `init` gives them.
    codes: int32[B, N] in [0, codebook_size), raster order.
    grid: rows and columns of codes; the square of `picture_size` if None.

  Returns:
    float32[B, H, W, 3], about the pixel range: not clipped, `to_uint8` does
    it.

  Raises:
    ValueError: if N is not rows times columns.
  """
  height, width = grid or (config.grid_size, config.grid_size)
  if codes.ndim != 2 or codes.shape[1] != height * width:
    raise ValueError(
      f"codes must be [B, {height * width}] for a grid of {height}x{width}, "
      f"got {codes.shape}"
    )
  if config.quantiser == "codebook":
    quantised = codebook_lib.lookup(codes, params["codebook"])
  else:
    quantised = magvit2.codes_to_bits(codes, code_bits=config.code_bits)
  shape = (codes.shape[0], height, width, config.latent_size)
  return decode_latents(config, params, quantised.reshape(shape))


def _pixel_range(config: ImageTokenizerConfig) -> tuple[float, float]:
  return image_tokenizer_config.PIXEL_RANGES[config.pixel_range]


def to_float(config: ImageTokenizerConfig, pictures: jax.Array) -> jax.Array:
  """Return float32[...] in the pixel range for uint8[...] pictures."""
  low, high = _pixel_range(config)
  return jnp.asarray(pictures, jnp.float32) / (255.0 / (high - low)) + low


def to_uint8(config: ImageTokenizerConfig, pictures: jax.Array) -> jax.Array:
  """Return uint8[...] for float32[...] pictures, clipped to the pixel range.

  Rounds to nearest, half to even; a config that `truncates` rounds down, as
  MMaDA-Parallel-M publishes it, and then some bytes that went through
  `to_float` come back one lower.
  """
  low, high = _pixel_range(config)
  scaled = (jnp.clip(pictures, low, high) - low) * (255.0 / (high - low))
  if not config.truncates:
    scaled = jnp.round(scaled)
  return scaled.astype(jnp.uint8)
