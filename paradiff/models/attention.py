"""Attention in both directions: one function, plain or by a fused kernel.

The plain one forms all scores, float32[B, H, L, L], and is what the fused ones
are held to. Those never write the scores: on TPU splash attention, on GPU
cuDNN's, both of which ship with JAX.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu import splash_attention

from paradiff import sharding
from paradiff.models import layers

KINDS = ("plain", "fused")
_RESIDUALS = "attention_residuals"
# What a backward pass may keep of attention, by `jax.ad_checkpoint` name.
NAMES = ("mixed", _RESIDUALS)
_LANES = 128  # of a TPU's vector unit; its kernel takes multiples
_BLOCK = 512  # most rows of queries and of keys that meet at once


def plain(
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
  scores = layers.wide_einsum("blhk,bmhk->bhlm", query, key)
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
  mixed = layers.wide_einsum(
    "bhlm,bmhk->blhk", weights.astype(value.dtype), value
  )
  return (mixed / total.transpose(0, 2, 1)[..., None]).astype(query.dtype)


def attend(
  kind: str,
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  valid_mask: jax.Array,
  *,
  key_bias: jax.Array | None = None,
) -> jax.Array:
  """Attend in both directions over the valid tokens.

  Args:
    kind: "plain", or "fused": splash attention on TPU, cuDNN's on GPU, and
      the plain one elsewhere.
    query: float[B, L, H, K].
    key: float[B, L, H, K].
    value: float[B, L, H, K].
    valid_mask: bool[B, L]; rows of invalid queries hold no meaning.
    key_bias: as `plain` takes it; None if fused.

  Returns:
    float[B, L, H, K].

  Raises:
    ValueError: if the kind is unknown or has no `key_bias`.
  """
  if kind not in KINDS:
    raise ValueError(f"attention must be one of {KINDS}, got {kind!r}")
  if kind == "plain":
    mixed = plain(query, key, value, valid_mask, key_bias=key_bias)
    return checkpoint_name(mixed, "mixed")
  if key_bias is not None:
    raise ValueError("key_bias must be None for fused attention, got one")
  if jax.default_backend() == "gpu":
    # Not by the platform of the lowering: it refuses while it is traced where
    # there is no cuDNN.
    mixed = library(query, key, value, valid_mask, implementation="cudnn")
  else:
    mixed = jax.lax.platform_dependent(
      query, key, value, valid_mask, tpu=splash, default=plain
    )
  return checkpoint_name(mixed, "mixed")


def library(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  valid_mask: jax.Array,
  *,
  implementation: Literal["cudnn", "xla"],
) -> jax.Array:
  """Attend by `jax.nn.dot_product_attention`; as `attend`, without a bias.

  Args:
    query: float[B, L, H, K]; for cuDNN bfloat16 or float16, K at most 128.
    key: float[B, L, H, K].
    value: float[B, L, H, K].
    valid_mask: bool[B, L].
    implementation: "cudnn" or "xla".
  """
  mask = valid_mask[:, None, None, :]
  return jax.nn.dot_product_attention(
    query,
    key,
    value,
    mask=jnp.broadcast_to(
      mask, (*mask.shape[:2], query.shape[1], mask.shape[3])
    ),
    implementation=implementation,
  )


def splash(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  valid_mask: jax.Array,
  *,
  interpret: bool = False,
) -> jax.Array:
  """Attend by the splash kernel; as `attend`, without a bias.

  Lengths and head sizes that the kernel has no tiles for are filled up. On a
  mesh each device attends for its own rows and heads.

  Args:
    query: float[B, L, H, K].
    key: float[B, L, H, K].
    value: float[B, L, H, K].
    valid_mask: bool[B, L].
    interpret: whether to run the kernel's program where there is no TPU.

  Source: `jax.experimental.pallas.ops.tpu.splash_attention`.
  """
  attend_rows = functools.partial(_splash_rows, interpret=interpret)
  if jax.sharding.get_abstract_mesh().empty:
    return attend_rows(query, key, value, valid_mask)
  heads = sharding.spec(("batch", None, "heads", None))
  rows = sharding.spec(("batch", None))
  return jax.shard_map(
    attend_rows,
    in_specs=(heads, heads, heads, rows),
    out_specs=heads,
    check_vma=False,  # a kernel does not say over which axes it varies
  )(query, key, value, valid_mask)


def _splash_rows(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  valid_mask: jax.Array,
  *,
  interpret: bool,
) -> jax.Array:
  """Attend with all that one device has."""
  _, length, num_heads, head_size = query.shape
  padded = -(-length // _LANES) * _LANES
  fill = (0, padded - length), (0, -head_size % _LANES)

  def tiles(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), fill[0], (0, 0), fill[1])).transpose(0, 2, 1, 3)

  kernel = splash_attention.make_splash_mha(
    splash_attention.MultiHeadMask(
      [splash_attention.FullMask((padded, padded))] * num_heads
    ),
    block_sizes=_block_sizes(padded),
    head_shards=1,
    q_seq_shards=1,
    residual_checkpoint_name=_RESIDUALS,
    interpret=interpret,
  )
  # A token meets those of its own segment: the valid ones each other.
  segments = jnp.pad(valid_mask.astype(jnp.int32), ((0, 0), fill[0]))
  mixed = jax.vmap(kernel)(
    tiles(query * head_size**-0.5),
    tiles(key),
    tiles(value),
    splash_attention.SegmentIds(q=segments, kv=segments),
  )
  return mixed.transpose(0, 2, 1, 3)[:, :length, :, :head_size]


def _block_sizes(length: int) -> splash_attention.BlockSizes:
  """Return the largest blocks that cut `length`, a multiple of `_LANES`."""
  size = next(
    n for n in range(min(_BLOCK, length), 0, -_LANES) if not length % n
  )
  return splash_attention.BlockSizes(
    block_q=size,
    block_kv=size,
    block_kv_compute=size,
    block_q_dkv=size,
    block_kv_dkv=size,
    block_kv_dkv_compute=size,
    block_q_dq=size,
    block_kv_dq=size,
  )
