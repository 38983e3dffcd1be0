"""The backbone: a bidirectional pre-norm transformer over one vocabulary.

Llama's block without the causal mask, as in LLaDA, MMaDA and Lumina-DiMOO:
RMSNorm, rotary attention over all valid tokens, SwiGLU, no biases, an untied
head; row i of the logits predicts token i. Layers are stacked on a leading
axis and scanned, so compile time does not grow with depth.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from paradiff import sharding
from paradiff.models import attention
from paradiff.models import layers
from paradiff.models import transformer_config as config_lib

Params = dict[str, Any]
TransformerConfig = config_lib.TransformerConfig


def _shapes(config: TransformerConfig) -> dict[str, Any]:
  """Return {name: (shape, logical axes, fan_in or None for gains)}."""
  v, d, f = config.vocab_size, config.width, config.mlp_width
  h, k, n = config.num_heads, config.head_size, config.num_layers
  gain = ((n, d), (None, None), None)
  inward = ((n, d, h, k), (None, "embed", "heads", None), d)
  places = ((config.num_places, d), (None, "embed"), d)
  return {
    **({"places": places} if config.place_grids else {}),
    "embed": ((v, d), ("vocab", "embed"), d),
    "blocks": {
      "attn_norm": gain,
      "q_proj": inward,
      "k_proj": inward,
      "v_proj": inward,
      "attn_out": ((n, h, k, d), (None, "heads", None, "embed"), d),
      "ff_norm": gain,
      "gate": ((n, d, f), (None, "embed", "mlp"), d),
      "up": ((n, d, f), (None, "embed", "mlp"), d),
      "down": ((n, f, d), (None, "mlp", "embed"), f),
    },
    "final_norm": ((d,), (None,), None),
    "head": ((v, d), ("vocab", "embed"), d),
  }


def matrix_axes(config: TransformerConfig) -> Params:
  """Return the tree of parameters with (input, output) axes for leaves.

  Only the matrices inside the blocks have them; other leaves are None. Their
  leading axis, the layers, is in neither.
  """
  inward = ((1,), (2, 3))
  dense = ((1,), (2,))
  matrices = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), inward),
    "attn_out": ((1, 2), (3,)),
    **dict.fromkeys(("gate", "up", "down"), dense),
  }
  axes: Params = dict.fromkeys(_shapes(config))
  axes["blocks"] = {
    name: matrices.get(name) for name in _shapes(config)["blocks"]
  }
  return axes


def _is_entry(node: Any) -> bool:
  return isinstance(node, tuple)


def logical_axes(config: TransformerConfig) -> Params:
  """Return the tree of parameters with logical axis names for leaves."""
  return jax.tree.map(lambda e: e[1], _shapes(config), is_leaf=_is_entry)


def init(config: TransformerConfig, key: jax.Array) -> Params:
  """Draw parameters.

  Truncated normal at 3 sigma with sigma = 1/sqrt(fan in); the two projections
  back into the residual stream are divided by sqrt(2 (layer + 1)). Places
  begin as sinusoids of their coordinates, in which a step is one linear map
  wherever it is made; from random rows each pair is learned by itself.

  Args:
    config: the sizes.
    key: a typed PRNG key.

  Returns:
    A tree of float32 arrays; block parameters lead with the layer axis.

  Source: LLaDA `modeling_llada.py`, init_fn "mitchell".
  """
  entries, structure = jax.tree.flatten(_shapes(config), is_leaf=_is_entry)
  keys = jax.tree.unflatten(
    structure, list(jax.random.split(key, len(entries)))
  )

  def draw(entry: Any, key: jax.Array) -> jax.Array:
    shape, _, fan_in = entry
    if fan_in is None:
      return jnp.ones(shape, jnp.float32)
    x = jax.random.truncated_normal(key, -3.0, 3.0, shape, jnp.float32)
    return x * fan_in**-0.5

  params = jax.tree.map(draw, _shapes(config), keys, is_leaf=_is_entry)
  depth = jnp.sqrt(2.0 * (jnp.arange(config.num_layers) + 1.0))
  blocks = params["blocks"]
  blocks["attn_out"] = blocks["attn_out"] / depth[:, None, None, None]
  blocks["down"] = blocks["down"] / depth[:, None, None]
  if config.place_grids:
    tables = [
      layers.sinusoids(grid, config.width) for grid in config.place_grids
    ]
    params["places"] = jnp.asarray(np.concatenate(tables), jnp.float32)
  return params


def _matmul(
  subscripts: str, x: jax.Array, block: Params, name: str
) -> jax.Array:
  """Return x W, and x A B more where `lora.attach` has put an adapter."""
  y = jnp.einsum(subscripts, x, block[name])
  if name not in block.get("lora", ()):
    return y
  a, b = block["lora"][name]["a"], block["lora"][name]["b"]
  return y + jnp.tensordot(jnp.tensordot(x, a, a.ndim - 1), b, 1)


def _block(
  config: TransformerConfig,
  x: jax.Array,
  block: Params,
  *,
  rope: tuple[jax.Array, jax.Array],
  valid_mask: jax.Array,
  key_bias: jax.Array | None,
) -> jax.Array:
  """Apply one block to x float[B, L, D]."""
  cast = jax.tree.map(lambda array: array.astype(x.dtype), block)
  h = layers.rms_norm(x, block["attn_norm"], eps=config.norm_eps)
  query, key, value = (
    checkpoint_name(_matmul("bld,dhk->blhk", h, cast, f"{name[0]}_proj"), name)
    for name in ("query", "key", "value")
  )
  mixed = attention.attend(
    config.attention,
    layers.apply_rope(query, *rope),
    layers.apply_rope(key, *rope),
    value,
    valid_mask,
    key_bias=key_bias,
  )
  attended = _matmul("blhk,hkd->bld", mixed, cast, "attn_out")
  x = x + checkpoint_name(attended, "attn_out")
  x = sharding.constrain(x, ("batch", None, None))
  h = layers.rms_norm(x, block["ff_norm"], eps=config.norm_eps)
  gate, up = (
    checkpoint_name(_matmul("bld,df->blf", h, cast, name), name)
    for name in ("gate", "up")
  )
  x = x + _matmul("blf,fd->bld", jax.nn.silu(gate) * up, cast, "down")
  return sharding.constrain(x, ("batch", None, None))


def trunk(
  config: TransformerConfig,
  params: Params,
  tokens: jax.Array,
  *,
  valid_mask: jax.Array,
  places: np.ndarray | None = None,
) -> jax.Array:
  """Run the blocks and the final norm.

  Positions count valid tokens only and invalid tokens are never attended to,
  so a padded sequence gives its valid tokens the values of the unpadded one.

  Args:
    config: the sizes.
    params: from `init`.
    tokens: int32[B, L], in [0, vocab_size).
    valid_mask: bool[B, L]; rows of invalid tokens hold no meaning.
    places: int32[L, n], the rows of the table of places that each column of
      the sequence adds up; for a model without places it has no effect.

  Returns:
    Hidden states in the compute dtype, [B, L, D].

  Raises:
    ValueError: if the model has places and is not told them.
  """
  dtype = jnp.dtype(config.compute_dtype)
  key_bias = None
  if config.padding != "left_out":
    if config.padding == "added":
      key_bias = valid_mask.astype(jnp.float32)
    valid_mask = jnp.ones_like(valid_mask)
  positions = jnp.cumsum(valid_mask.astype(jnp.int32), axis=1) - 1
  rope = layers.rope_tables(
    positions, head_size=config.head_size, theta=config.rope_theta
  )
  # Gathered before the cast: gradients of a row add up in float32.
  x = params["embed"][tokens].astype(dtype)
  if config.place_grids:
    if places is None or len(places) != tokens.shape[1]:
      raise ValueError(
        f"places must be given for {tokens.shape[1]} tokens, got "
        f"{None if places is None else len(places)}"
      )
    x = x + params["places"][places].sum(axis=1).astype(dtype)[None]
  x = sharding.constrain(x, ("batch", None, None))
  apply: Callable[..., jax.Array] = functools.partial(
    _block, config, rope=rope, valid_mask=valid_mask, key_bias=key_bias
  )
  kept = config_lib.REMATS[config.remat]
  if kept is not None:
    policy = jax.checkpoint_policies.save_only_these_names(*kept)
    apply = jax.checkpoint(apply, policy=policy)
  x, _ = jax.lax.scan(
    lambda x, block: (apply(x, block), None),
    x,
    params["blocks"],
    unroll=config.scan_unroll,
  )
  return layers.rms_norm(x, params["final_norm"], eps=config.norm_eps)


def head(
  config: TransformerConfig,
  params: Params,
  hidden: jax.Array,
  *,
  columns: tuple[int, int],
) -> jax.Array:
  """Return the logits of a range of token ids.

  Args:
    config: the sizes.
    params: from `init`.
    hidden: float[..., D], any subset of positions.
    columns: half-open range of token ids within [0, vocab_size).

  Returns:
    float32[..., stop - start].

  Raises:
    ValueError: if the range is empty or leaves the vocabulary.
  """
  start, stop = columns
  if not 0 <= start < stop <= config.vocab_size:
    raise ValueError(
      f"columns must be a range within [0, {config.vocab_size}), got {columns=}"
    )
  rows = params["head"][start:stop].astype(hidden.dtype)
  return layers.wide_einsum("...d,vd->...v", hidden, rows)
