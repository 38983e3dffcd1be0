"""CLIP: a text and a picture tower that meet in one space.

Radford et al. 2021 (arXiv 2103.00020), as Hugging Face publishes it. Both
towers are pre-norm transformers with biases: the text tower attends backwards
only and is read at the end of the text, the picture tower attends everywhere
and is read at a class token. Layers are stacked on a leading axis and scanned.
"""

from typing import Any

import jax
import jax.numpy as jnp

from paradiff import sharding
from paradiff.models import clip_config
from paradiff.models import layers

Params = dict[str, Any]


def _normal(
  shape: tuple[int, ...], axes: sharding.Names, std: float
) -> tuple[Any, ...]:
  return shape, axes, 0.0, std


def _constant(
  shape: tuple[int, ...], axes: sharding.Names, value: float
) -> tuple[Any, ...]:
  return shape, axes, value, 0.0


def _tower_entries(tower: clip_config.TowerConfig) -> dict[str, Any]:
  """Return {name: (shape, logical axes, mean, std)} of the stacked blocks."""
  n, d, f = tower.num_layers, tower.width, tower.mlp_width
  h, k = tower.num_heads, tower.head_size
  thin = d**-0.5 * (2 * n) ** -0.5  # 2n branches add up in the residual
  gain = _constant((n, d), (None, None), 1.0)
  bias = _constant((n, d), (None, None), 0.0)
  inward = _normal((n, d, h, k), (None, "embed", "heads", None), thin)
  inward_bias = _constant((n, h, k), (None, "heads", None), 0.0)
  outward = (None, "heads", None, "embed")
  return {
    "attn_norm": gain,
    "attn_norm_bias": bias,
    "q_proj": inward,
    "q_bias": inward_bias,
    "k_proj": inward,
    "k_bias": inward_bias,
    "v_proj": inward,
    "v_bias": inward_bias,
    "attn_out": _normal((n, h, k, d), outward, d**-0.5),
    "attn_out_bias": bias,
    "ff_norm": gain,
    "ff_norm_bias": bias,
    "up": _normal((n, d, f), (None, "embed", "mlp"), (2 * d) ** -0.5),
    "up_bias": _constant((n, f), (None, "mlp"), 0.0),
    "down": _normal((n, f, d), (None, "mlp", "embed"), thin),
    "down_bias": bias,
  }


def _entries(config: clip_config.ClipConfig) -> dict[str, Any]:
  """Return the tree of (shape, logical axes, mean, std)."""
  t, v = config.text.width, config.vision.width
  p, side = config.embed_width, config.patch_size
  rows = config.grid_size**2 + 1

  def norm(name: str, width: int) -> dict[str, Any]:
    return {
      name: _constant((width,), (None,), 1.0),
      f"{name}_bias": _constant((width,), (None,), 0.0),
    }

  return {
    "text": {
      "embed": _normal((config.vocab_size, t), ("vocab", "embed"), 0.02),
      "positions": _normal((config.max_text_len, t), (None, "embed"), 0.02),
      "blocks": _tower_entries(config.text),
      **norm("final_norm", t),
      "project": _normal((t, p), ("embed", None), t**-0.5),
    },
    "vision": {
      "class_embed": _normal((v,), ("embed",), v**-0.5),
      "patch": _normal((side, side, 3, v), (None, None, None, "embed"), 0.02),
      "positions": _normal((rows, v), (None, "embed"), 0.02),
      **norm("input_norm", v),
      "blocks": _tower_entries(config.vision),
      **norm("final_norm", v),
      "project": _normal((v, p), ("embed", None), v**-0.5),
    },
    "logit_scale": _constant((), (), config.initial_logit_scale),
  }


def _is_entry(node: Any) -> bool:
  return isinstance(node, tuple)


def logical_axes(config: clip_config.ClipConfig) -> Params:
  """Return the tree of parameters with logical axis names for leaves."""
  return jax.tree.map(lambda e: e[1], _entries(config), is_leaf=_is_entry)


def init(config: clip_config.ClipConfig, key: jax.Array) -> Params:
  """Draw parameters: normal, gains one, biases zero.

  Args:
    config: the sizes.
    key: a typed PRNG key.

  Returns:
    A tree of float32 arrays; block parameters lead with the layer axis.

  Source: transformers `modeling_clip.py`, `_init_weights`.
  """
  entries, structure = jax.tree.flatten(_entries(config), is_leaf=_is_entry)
  keys = jax.random.split(key, len(entries))
  arrays = [
    mean + std * jax.random.normal(key, shape, jnp.float32)
    if std
    else jnp.full(shape, mean, jnp.float32)
    for (shape, _, mean, std), key in zip(entries, keys, strict=True)
  ]
  return jax.tree.unflatten(structure, arrays)


def _layer_norm(
  params: Params, name: str, x: jax.Array, eps: float
) -> jax.Array:
  """Normalise x float[B, L, D] over D with float32 statistics."""
  x32 = x.astype(jnp.float32)
  centred = x32 - x32.mean(axis=-1, keepdims=True)
  variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
  gain, bias = params[name], params[f"{name}_bias"]
  y = centred * jax.lax.rsqrt(variance + eps) * gain[None, None, :]
  return (y + bias[None, None, :]).astype(x.dtype)


def _activate(x: jax.Array, activation: str) -> jax.Array:
  """Apply one of clip_config.ACTIVATIONS."""
  if activation == "quick_gelu":
    return x * jax.nn.sigmoid(1.702 * x)
  return jax.nn.gelu(x, approximate=False)


def _block(
  tower: clip_config.TowerConfig,
  x: jax.Array,
  block: Params,
  *,
  mask: jax.Array | None,
) -> jax.Array:
  """Apply one block to x float[B, L, D]; mask is bool[B, 1, L, L]."""
  cast = {name: array.astype(x.dtype) for name, array in block.items()}
  h = _layer_norm(block, "attn_norm", x, tower.norm_eps)
  query, key, value = (
    jnp.einsum("bld,dhk->blhk", h, cast[f"{name}_proj"])
    + cast[f"{name}_bias"][None, None]
    for name in "qkv"
  )
  mixed = jax.nn.dot_product_attention(query, key, value, mask=mask)
  x = x + jnp.einsum("blhk,hkd->bld", mixed, cast["attn_out"])
  x = x + cast["attn_out_bias"][None, None]
  x = sharding.constrain(x, ("batch", None, None))
  h = _layer_norm(block, "ff_norm", x, tower.norm_eps)
  h = jnp.einsum("bld,df->blf", h, cast["up"]) + cast["up_bias"][None, None]
  h = _activate(h, tower.activation)
  x = x + jnp.einsum("blf,fd->bld", h, cast["down"])
  x = x + cast["down_bias"][None, None]
  return sharding.constrain(x, ("batch", None, None))


def _run_blocks(
  tower: clip_config.TowerConfig,
  blocks: Params,
  x: jax.Array,
  *,
  mask: jax.Array | None,
) -> jax.Array:
  """Apply all blocks to x float[B, L, D]."""
  x = sharding.constrain(x, ("batch", None, None))
  x, _ = jax.lax.scan(
    lambda x, block: (_block(tower, x, block, mask=mask), None), x, blocks
  )
  return x


def _embeds(params: Params, pooled: jax.Array, eps: float) -> jax.Array:
  """Norm, project and scale to length 1: float[B, D] to float32[B, P]."""
  # A text tower norms every position before it is pooled: the same.
  x = _layer_norm(params, "final_norm", pooled[:, None], eps)[:, 0]
  embeds = layers.wide_einsum("bd,dp->bp", x, params["project"].astype(x.dtype))
  return embeds / jnp.linalg.norm(embeds, axis=-1, keepdims=True)


def text_embeds(
  config: clip_config.ClipConfig,
  params: Params,
  input_ids: jax.Array,
  *,
  attention_mask: jax.Array,
) -> jax.Array:
  """Return the embeddings of texts, scaled to length 1.

  Args:
    config: the sizes.
    params: from `init`.
    input_ids: int32[B, T] in [0, vocab_size), T at most `max_text_len`; each
      text holds an end. Where it holds none the first position is read, as
      upstream does.
    attention_mask: bool[B, T], or integers of which 0 is False; False for
      padding, which is never attended to.

  Returns:
    float32[B, P].

  Raises:
    ValueError: if a shape is another.
  """
  shape = input_ids.shape
  if len(shape) != 2 or not 1 <= shape[1] <= config.max_text_len:
    raise ValueError(
      f"input_ids must be [B, T] with T in [1, {config.max_text_len}], got "
      f"{shape}"
    )
  if attention_mask.shape != shape:
    raise ValueError(
      f"attention_mask must have the shape of input_ids {shape}, got "
      f"{attention_mask.shape}"
    )
  dtype = jnp.dtype(config.compute_dtype)
  text = params["text"]
  x = text["embed"][input_ids] + text["positions"][None, : shape[1]]
  causal = jnp.tril(jnp.ones((shape[1], shape[1]), bool))[None, None]
  mask = causal & attention_mask.astype(bool)[:, None, None, :]
  x = _run_blocks(config.text, text["blocks"], x.astype(dtype), mask=mask)
  is_end = input_ids == config.eos_id  # padding may bear the same id
  legacy = config.eos_id == clip_config.LEGACY_EOS_ID
  end = jnp.argmax(input_ids if legacy else is_end, axis=1)
  pooled = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
  return _embeds(text, pooled, config.text.norm_eps)


def image_embeds(
  config: clip_config.ClipConfig, params: Params, pixels: jax.Array
) -> jax.Array:
  """Return the embeddings of pictures, scaled to length 1.

  Args:
    config: the sizes.
    params: from `init`.
    pixels: float32[B, image_size, image_size, 3], normalised as
      `clip_pictures.preprocess` does.

  Returns:
    float32[B, P].

  Raises:
    ValueError: if the pictures have another shape or are integers.
  """
  shape, side, grid = pixels.shape, config.patch_size, config.grid_size
  if len(shape) != 4 or shape[1:] != (config.image_size,) * 2 + (3,):
    raise ValueError(
      f"pixels must be [B, {config.image_size}, {config.image_size}, 3], got "
      f"{shape}"
    )
  if not jnp.issubdtype(pixels.dtype, jnp.floating):
    raise ValueError(f"pixels must be normalised floats, got {pixels.dtype}")
  dtype = jnp.dtype(config.compute_dtype)
  vision = params["vision"]
  patches = pixels.reshape(shape[0], grid, side, grid, side, 3).astype(dtype)
  x = jnp.einsum("bmunvc,uvcd->bmnd", patches, vision["patch"].astype(dtype))
  x = x.reshape(shape[0], grid * grid, -1)
  first = jnp.broadcast_to(vision["class_embed"], (shape[0], 1, x.shape[-1]))
  x = jnp.concatenate([first.astype(dtype), x], axis=1)
  x = x + vision["positions"].astype(dtype)[None]
  x = _layer_norm(vision, "input_norm", x, config.vision.norm_eps)
  x = _run_blocks(config.vision, vision["blocks"], x, mask=None)
  return _embeds(vision, x[:, 0], config.vision.norm_eps)


def similarity(
  config: clip_config.ClipConfig,
  params: Params,
  text: jax.Array,
  image: jax.Array,
) -> jax.Array:
  """Return the scaled cosines of all pairs, `logits_per_image`.

  Args:
    config: the sizes.
    params: from `init`.
    text: float32[M, P] from `text_embeds`.
    image: float32[B, P] from `image_embeds`.

  Returns:
    float32[B, M]: exp(logit_scale) times the cosines.

  Raises:
    ValueError: if the embeddings are of another width.
  """
  if {text.shape[-1], image.shape[-1]} != {config.embed_width}:
    raise ValueError(
      f"embeddings must be [.., {config.embed_width}], got text {text.shape} "
      f"and image {image.shape}"
    )
  return jnp.exp(params["logit_scale"]) * jnp.einsum("bp,mp->bm", image, text)
