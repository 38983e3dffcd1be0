"""Convolution blocks of the image tokenizers, channels last (NHWC).

The parts of a VQGAN (Esser et al. 2021, section 3.1) as MAGVITv2 and aMUSEd
use them: residual blocks, single-head attention over all positions, resampling
by two. Submodules bear the names of MAGVITv2's published tensors, so that a
path such as `down_0/block_0/norm1/scale` follows from the published name by
rule.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

NORM_EPSILON = 1e-6


def conv(num_channels: int, *, kernel_size: int = 3, name: str) -> nn.Conv:
  """Return a convolution with bias that keeps the picture's size."""
  pad = kernel_size // 2
  return nn.Conv(
    num_channels,
    (kernel_size, kernel_size),
    padding=((pad, pad), (pad, pad)),
    name=name,
  )


def group_norm(num_groups: int, *, name: str) -> nn.GroupNorm:
  """Return a group norm with gain and bias, two-pass variance as in torch."""
  return nn.GroupNorm(
    num_groups=num_groups,
    epsilon=NORM_EPSILON,
    use_fast_variance=False,
    name=name,
  )


class ResidualBlock(nn.Module):
  """x + conv2(silu(norm2(conv1(silu(norm1(x)))))), 1x1 shortcut if needed.

  Attributes:
    num_channels: output channels.
    norm_groups: groups of both norms; divides input and output channels.
  """

  num_channels: int
  norm_groups: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Map float32[B, h, w, c] to float32[B, h, w, num_channels]."""
    h = nn.silu(group_norm(self.norm_groups, name="norm1")(x))
    h = conv(self.num_channels, name="conv1")(h)
    h = nn.silu(group_norm(self.norm_groups, name="norm2")(h))
    h = conv(self.num_channels, name="conv2")(h)
    if x.shape[-1] != self.num_channels:
      x = conv(self.num_channels, kernel_size=1, name="nin_shortcut")(x)
    return x + h


class AttentionBlock(nn.Module):
  """Residual single-head attention among all positions of a picture."""

  norm_groups: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Map float32[B, h, w, c] to float32[B, h, w, c]."""
    batch_size, height, width, num_channels = x.shape
    h = group_norm(self.norm_groups, name="norm")(x)
    query, key, value = (
      conv(num_channels, kernel_size=1, name=name)(h).reshape(
        batch_size, height * width, num_channels
      )
      for name in ("q", "k", "v")
    )
    scores = jnp.einsum("bnd,bmd->bnm", query, key) * num_channels**-0.5
    weights = jax.nn.softmax(scores, axis=-1)
    h = jnp.einsum("bnm,bmd->bnd", weights, value).reshape(x.shape)
    return x + conv(num_channels, kernel_size=1, name="proj_out")(h)


class Downsample(nn.Module):
  """Halve the sides: 3x3 convolution of stride 2, padded right and bottom."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Map float32[B, 2h, 2w, c] to float32[B, h, w, c]."""
    return nn.Conv(
      x.shape[-1],
      (3, 3),
      strides=(2, 2),
      padding=((0, 1), (0, 1)),
      name="conv",
    )(x)


class Upsample(nn.Module):
  """Double the sides: nearest neighbour, then a 3x3 convolution."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Map float32[B, h, w, c] to float32[B, 2h, 2w, c]."""
    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return conv(x.shape[-1], name="conv")(x)


class MidBlock(nn.Module):
  """Two residual blocks at the lowest resolution, attention between them.

  Attributes:
    norm_groups: groups of every norm.
    has_attention: whether the attention block is there.
  """

  norm_groups: int
  has_attention: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Map float32[B, h, w, c] to float32[B, h, w, c]."""
    num_channels = x.shape[-1]
    x = ResidualBlock(num_channels, self.norm_groups, name="block_1")(x)
    if self.has_attention:
      x = AttentionBlock(self.norm_groups, name="attn_1")(x)
    return ResidualBlock(num_channels, self.norm_groups, name="block_2")(x)
