"""Pictures to codes and back: the image tokenizer's public face.

`encode` turns a picture into a short raster sequence of integers, `decode`
turns the sequence into a picture; the network between is `magvit2` (MAGVITv2,
arXiv 2310.05737). Pictures are channels last, float32 in [-1, 1]; `to_float`
and `to_uint8` convert from and to bytes.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp

from paradiff.models import magvit2

Params = Mapping[str, Any]

_CONV_AXES = ("kernel_height", "kernel_width", "channel_in", "channel_out")


@dataclasses.dataclass(frozen=True)
class ImageTokenizerConfig:
  """Sizes of the image tokenizer; the defaults are MAGVITv2 as published.

  Attributes:
    picture_size: side of the pictures in pixels, a multiple of `factor`.
    code_bits: bits of a code, in [1, 16]; the codebook has 2**code_bits.
    base_channels: channels that the multipliers multiply.
    encoder_multipliers: one a level, finest first. The number of levels sets
      the down-sampling: it is 2**(levels - 1).
    encoder_blocks: residual blocks of every encoder level.
    decoder_multipliers: one a level, finest first too.
    decoder_blocks: residual blocks of every decoder level.
    norm_groups: groups of every norm; divides every level's channels.
    mid_attention: whether the lowest resolution has an attention block.

  Raises:
    ValueError: if the sizes contradict each other.
  """

  picture_size: int = 256
  code_bits: int = 13
  base_channels: int = 128
  encoder_multipliers: tuple[int, ...] = (1, 2, 2, 4, 4)
  encoder_blocks: tuple[int, ...] = (4, 3, 4, 3, 4)
  decoder_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
  decoder_blocks: tuple[int, ...] = (4, 4, 3, 4, 3)
  norm_groups: int = 32
  mid_attention: bool = True

  def __post_init__(self) -> None:
    lengths = {}
    for name in (
      "encoder_multipliers",
      "encoder_blocks",
      "decoder_multipliers",
      "decoder_blocks",
    ):
      values = tuple(getattr(self, name))  # lists come from json and configs
      object.__setattr__(self, name, values)
      lengths[name] = len(values)
      if any(not isinstance(v, int) or v < 1 for v in values):
        raise ValueError(f"{name} must be integers >= 1, got {values}")
    if len(set(lengths.values())) != 1 or not self.encoder_multipliers:
      raise ValueError(
        f"each level needs an entry in every tuple, got {lengths}"
      )
    for name, low, high in (
      ("code_bits", 1, 16),
      ("base_channels", 1, math.inf),
      ("norm_groups", 1, math.inf),
    ):
      value = getattr(self, name)
      if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}], got {value}")
    uneven = [
      c
      for c in self.encoder_channels + self.decoder_channels
      if c % self.norm_groups
    ]
    if uneven:
      raise ValueError(
        "norm_groups must divide the channels of every level, got "
        f"{self.norm_groups=} and levels of {uneven} channels"
      )
    if self.picture_size < 1 or self.picture_size % self.factor:
      raise ValueError(
        "picture_size must be a multiple of the down-sampling "
        f"{self.factor}, got {self.picture_size}"
      )

  @property
  def factor(self) -> int:
    """Pixels a code covers, a side."""
    return 2 ** (len(self.encoder_multipliers) - 1)

  @property
  def grid_size(self) -> int:
    """Codes a side of a picture of `picture_size`."""
    return self.picture_size // self.factor

  @property
  def num_tokens(self) -> int:
    """Codes a picture of `picture_size`: N."""
    return self.grid_size**2

  @property
  def codebook_size(self) -> int:
    """Number of distinct codes: C."""
    return 2**self.code_bits

  @property
  def encoder_channels(self) -> tuple[int, ...]:
    """Channels of the encoder's levels, finest first."""
    return tuple(self.base_channels * m for m in self.encoder_multipliers)

  @property
  def decoder_channels(self) -> tuple[int, ...]:
    """Channels of the decoder's levels, finest first."""
    return tuple(self.base_channels * m for m in self.decoder_multipliers)


@flax.struct.dataclass
class Reconstruction:
  """What the train-time forward pass gives.

  Attributes:
    pictures: float32[B, H, W, 3], about [-1, 1].
    latents: float32[B, h, w, code_bits], the encoder's output.
    quantised: float32[B, h, w, code_bits] of -1 and 1, straight-through.
  """

  pictures: jax.Array
  latents: jax.Array
  quantised: jax.Array


def _encoder(config: ImageTokenizerConfig) -> magvit2.Encoder:
  return magvit2.Encoder(
    channels=config.encoder_channels,
    num_blocks=config.encoder_blocks,
    code_bits=config.code_bits,
    norm_groups=config.norm_groups,
    mid_attention=config.mid_attention,
  )


def _decoder(config: ImageTokenizerConfig) -> magvit2.Decoder:
  return magvit2.Decoder(
    channels=config.decoder_channels,
    num_blocks=config.decoder_blocks,
    code_bits=config.code_bits,
    norm_groups=config.norm_groups,
    mid_attention=config.mid_attention,
  )


def init(config: ImageTokenizerConfig, key: jax.Array) -> dict[str, Any]:
  """Draw the parameters.

  Args:
    config: the sizes.
    key: a PRNG key.

  Returns:
    {"encoder": ..., "decoder": ...}, nested dicts of float32 arrays.
  """
  encoder_key, decoder_key = jax.random.split(key)
  side = config.factor  # the parameters do not depend on the picture's size
  pictures = jnp.zeros((1, side, side, 3), jnp.float32)
  latents = jnp.zeros((1, 1, 1, config.code_bits), jnp.float32)
  return {
    "encoder": _encoder(config).init(encoder_key, pictures)["params"],
    "decoder": _decoder(config).init(decoder_key, latents)["params"],
  }


def logical_axes(config: ImageTokenizerConfig) -> dict[str, Any]:
  """Return the parameters' tree with a tuple of axis names at each leaf.

  Every axis is replicated: the tokenizer is small beside the transformer.
  """
  shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
  return jax.tree.map(
    lambda leaf: _CONV_AXES if leaf.ndim == 4 else _CONV_AXES[-1:], shapes
  )


def encode_latents(
  config: ImageTokenizerConfig, params: Params, pictures: jax.Array
) -> jax.Array:
  """Return float32[B, h, w, code_bits] latents before quantisation.

  Args:
    config: the sizes.
    params: as `init` gives them.
    pictures: float32[B, H, W, 3] in [-1, 1]; H and W multiples of the
      down-sampling.

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
    raise ValueError(
      f"pictures must be floats in [-1, 1] (to_float), got {pictures.dtype}"
    )
  latents = _encoder(config).apply({"params": params["encoder"]}, pictures)
  return cast(jax.Array, latents)


def decode_latents(
  config: ImageTokenizerConfig, params: Params, quantised: jax.Array
) -> jax.Array:
  """Return float32[B, H, W, 3] for float32[B, h, w, code_bits] of -1 and 1."""
  pictures = _decoder(config).apply({"params": params["decoder"]}, quantised)
  return cast(jax.Array, pictures)


def reconstruct(
  config: ImageTokenizerConfig, params: Params, pictures: jax.Array
) -> Reconstruction:
  """Encode, quantise straight-through and decode: the train-time forward.

  Args:
    config: the sizes.
    params: as `init` gives them.
    pictures: float32[B, H, W, 3] in [-1, 1].

  Returns:
    the reconstruction with what the losses need.

  Source: arXiv 2310.05737, section 3.1.
  """
  latents = encode_latents(config, params, pictures)
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
    pictures: float32[B, H, W, 3] in [-1, 1].

  Returns:
    int32[B, N] in [0, codebook_size), raster order.
  """
  latents = encode_latents(config, params, pictures)
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
    float32[B, H, W, 3], about [-1, 1]: not clipped, `to_uint8` does it.

  Raises:
    ValueError: if N is not rows times columns.
  """
  height, width = grid or (config.grid_size, config.grid_size)
  if codes.ndim != 2 or codes.shape[1] != height * width:
    raise ValueError(
      f"codes must be [B, {height * width}] for a grid of {height}x{width}, "
      f"got {codes.shape}"
    )
  bits = magvit2.codes_to_bits(codes, code_bits=config.code_bits)
  bits = bits.reshape(codes.shape[0], height, width, config.code_bits)
  return decode_latents(config, params, bits)


def to_float(pictures: jax.Array) -> jax.Array:
  """Return float32[...] in [-1, 1] for uint8[...] pictures."""
  return jnp.asarray(pictures, jnp.float32) / 127.5 - 1.0


def to_uint8(pictures: jax.Array) -> jax.Array:
  """Return uint8[...] for float32[...] pictures, clipped to [-1, 1]."""
  scaled = jnp.round((jnp.clip(pictures, -1.0, 1.0) + 1.0) * 127.5)
  return scaled.astype(jnp.uint8)
