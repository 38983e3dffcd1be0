"""Our parameters of CLIP from the tensors of a published one, by name."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paradiff.models import clip
from paradiff.models import clip_config

_BLOCK = (
  *(
    (f"self_attn.{x}_proj.{ending}", f"{x}_{ours}", transform)
    for x in "qkv"
    for ending, ours, transform in (
      ("weight", "proj", "heads_in"),
      ("bias", "bias", "heads_bias"),
    )
  ),
  ("self_attn.out_proj.weight", "attn_out", "heads_out"),
  ("self_attn.out_proj.bias", "attn_out_bias", "same"),
  ("layer_norm1.weight", "attn_norm", "same"),
  ("layer_norm1.bias", "attn_norm_bias", "same"),
  ("layer_norm2.weight", "ff_norm", "same"),
  ("layer_norm2.bias", "ff_norm_bias", "same"),
  ("mlp.fc1.weight", "up", "transpose"),
  ("mlp.fc1.bias", "up_bias", "same"),
  ("mlp.fc2.weight", "down", "transpose"),
  ("mlp.fc2.bias", "down_bias", "same"),
)
# Published name, our path, transform; {layer} counts along the leading axis.
RULES = (
  ("logit_scale", "logit_scale", "same"),
  ("text_projection.weight", "text/project", "transpose"),
  ("visual_projection.weight", "vision/project", "transpose"),
  ("text_model.embeddings.token_embedding.weight", "text/embed", "same"),
  ("text_model.final_layer_norm.weight", "text/final_norm", "same"),
  ("text_model.final_layer_norm.bias", "text/final_norm_bias", "same"),
  ("vision_model.embeddings.class_embedding", "vision/class_embed", "same"),
  ("vision_model.embeddings.patch_embedding.weight", "vision/patch", "conv"),
  ("vision_model.pre_layrnorm.weight", "vision/input_norm", "same"),
  ("vision_model.pre_layrnorm.bias", "vision/input_norm_bias", "same"),
  ("vision_model.post_layernorm.weight", "vision/final_norm", "same"),
  ("vision_model.post_layernorm.bias", "vision/final_norm_bias", "same"),
  *(
    rule
    for tower in ("text", "vision")
    for rule in (
      (
        f"{tower}_model.embeddings.position_embedding.weight",
        f"{tower}/positions",
        "same",
      ),
      # A buffer of older files: 0, 1, 2, ...
      (f"{tower}_model.embeddings.position_ids", None, "same"),
      *(
        (
          f"{tower}_model.encoder.layers.{{layer}}.{name}",
          f"{tower}/blocks/{target}",
          transform,
        )
        for name, target, transform in _BLOCK
      ),
    )
  ),
)


def _to_ours(
  tensor: np.ndarray, shape: tuple[int, ...], transform: str
) -> np.ndarray:
  """Turn one tensor; splitting the heads is what the leaf's shape says."""
  if transform == "conv":
    tensor = tensor.transpose(2, 3, 1, 0)
  elif transform in ("transpose", "heads_in", "heads_out"):
    tensor = tensor.T
  if transform in ("heads_in", "heads_out", "heads_bias"):
    tensor = tensor.reshape(shape)
  assert tensor.shape == shape, (tensor.shape, shape)
  return tensor


def params_from(
  config: clip_config.ClipConfig, tensors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """Return our tree of the tensors of a published CLIP; none may be left."""
  shapes = jax.eval_shape(lambda: clip.init(config, jax.random.key(0)))
  paths, structure = jax.tree_util.tree_flatten_with_path(shapes)
  flat = {"/".join(key.key for key in path): leaf.shape for path, leaf in paths}
  params, used = {}, set()
  for pattern, target, transform in RULES:
    if target is None:
      used.add(pattern)
      continue
    shape, stacked = flat[target], "{layer}" in pattern
    names = (
      [pattern.format(layer=i) for i in range(shape[0])]
      if stacked
      else [pattern]
    )
    part_shape = shape[1:] if stacked else shape
    parts = [_to_ours(tensors[name], part_shape, transform) for name in names]
    assert target not in params, target
    params[target] = jnp.asarray(np.stack(parts) if stacked else parts[0])
    used.update(names)
  assert set(tensors) <= used, set(tensors) - used
  assert params.keys() == flat.keys(), flat.keys() - params.keys()
  leaves = [params[path] for path in flat]
  return jax.tree_util.tree_unflatten(structure, leaves)
