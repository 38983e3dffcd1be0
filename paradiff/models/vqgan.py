"""The convolutional encoder and decoder that every image tokenizer shares.

A VQGAN (Esser et al. 2021, arXiv 2012.09841): levels of residual blocks, each
but the coarsest halving the sides, a middle block, and the mirror image of it.
MAGVITv2 and aMUSEd are this network with other numbers; how its latents become
codes is the quantiser's matter (`magvit2`, `codebook`).
"""

import flax.linen as nn
import jax

from paradiff.models import vq_layers


class DownLevel(nn.Module):
  """Residual blocks at one resolution, then halve it unless it is the last."""

  num_channels: int
  num_blocks: int
  norm_groups: int
  is_last: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Map float32[B, h, w, c] to float32[B, h or h/2, ..., num_channels]."""
    for i in range(self.num_blocks):
      x = vq_layers.ResidualBlock(
        self.num_channels, self.norm_groups, name=f"block_{i}"
      )(x)
    return x if self.is_last else vq_layers.Downsample(name="downsample")(x)


class UpLevel(nn.Module):
  """Residual blocks at one resolution, then double it unless the finest."""

  num_channels: int
  num_blocks: int
  norm_groups: int
  is_last: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Map float32[B, h, w, c] to float32[B, h or 2h, ..., num_channels]."""
    for i in range(self.num_blocks):
      x = vq_layers.ResidualBlock(
        self.num_channels, self.norm_groups, name=f"block_{i}"
      )(x)
    return x if self.is_last else vq_layers.Upsample(name="upsample")(x)


class Encoder(nn.Module):
  """Pictures to latents.

  Attributes:
    channels: channels of every level, finest first.
    num_blocks: residual blocks of every level, finest first.
    latent_channels: output channels.
    norm_groups: groups of every norm.
    mid_attention: whether the middle block attends.
  """

  channels: tuple[int, ...]
  num_blocks: tuple[int, ...]
  latent_channels: int
  norm_groups: int
  mid_attention: bool

  @nn.compact
  def __call__(self, pictures: jax.Array) -> jax.Array:
    """Map float32[B, H, W, 3] to float32[B, h, w, latent_channels]."""
    x = vq_layers.conv(self.channels[0], name="conv_in")(pictures)
    num_levels = len(self.channels)
    for level in range(num_levels):
      x = DownLevel(
        self.channels[level],
        self.num_blocks[level],
        self.norm_groups,
        is_last=level == num_levels - 1,
        name=f"down_{level}",
      )(x)
    x = vq_layers.MidBlock(self.norm_groups, self.mid_attention, name="mid")(x)
    x = nn.silu(vq_layers.group_norm(self.norm_groups, name="norm_out")(x))
    x = vq_layers.conv(self.latent_channels, name="conv_out")(x)
    return vq_layers.conv(
      self.latent_channels, kernel_size=1, name="quant_conv"
    )(x)


class Decoder(nn.Module):
  """Quantised latents to pictures; levels are numbered from the finest.

  Attributes: as `Encoder`, `channels` and `num_blocks` finest first too.
  """

  channels: tuple[int, ...]
  num_blocks: tuple[int, ...]
  latent_channels: int
  norm_groups: int
  mid_attention: bool

  @nn.compact
  def __call__(self, quantised: jax.Array) -> jax.Array:
    """Map float32[B, h, w, latent_channels] to float32[B, H, W, 3]."""
    x = vq_layers.conv(
      self.latent_channels, kernel_size=1, name="post_quant_conv"
    )(quantised)
    x = vq_layers.conv(self.channels[-1], name="conv_in")(x)
    x = vq_layers.MidBlock(self.norm_groups, self.mid_attention, name="mid")(x)
    for level in reversed(range(len(self.channels))):
      x = UpLevel(
        self.channels[level],
        self.num_blocks[level],
        self.norm_groups,
        is_last=level == 0,
        name=f"up_{level}",
      )(x)
    x = nn.silu(vq_layers.group_norm(self.norm_groups, name="norm_out")(x))
    return vq_layers.conv(3, name="conv_out")(x)
