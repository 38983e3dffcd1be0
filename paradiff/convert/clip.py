"""CLIP from a folder in Hugging Face format: config.json and safetensors."""

import os
from collections.abc import Iterator
from typing import Any

import jax

from paradiff import sharding
from paradiff.convert import facts
from paradiff.convert import load
from paradiff.convert import plan
from paradiff.convert import rules
from paradiff.convert import tensors
from paradiff.models import clip
from paradiff.models import clip_config


def _norm(pattern: str, target: str) -> Iterator[rules.Rule]:
  yield rules.Rule(f"{pattern}.weight", target)
  yield rules.Rule(f"{pattern}.bias", f"{target}_bias")


def _tower(name: str) -> Iterator[rules.Rule]:
  """Yield the rules of the blocks of a tower, "text" or "vision"."""
  outer, inner = f"{name}_model.encoder.layers.{{layer}}", f"{name}/blocks"
  for x in "qkv":
    pattern = f"{outer}.self_attn.{x}_proj"
    yield rules.Rule(f"{pattern}.weight", f"{inner}/{x}_proj", "heads_in")
    yield rules.Rule(f"{pattern}.bias", f"{inner}/{x}_bias", "heads_bias")
  for pattern, target, transform in (
    ("self_attn.out_proj", "attn_out", "heads_out"),
    ("mlp.fc1", "up", "transpose"),
    ("mlp.fc2", "down", "transpose"),
  ):
    weight, bias = f"{outer}.{pattern}.weight", f"{outer}.{pattern}.bias"
    yield rules.Rule(weight, f"{inner}/{target}", transform)
    yield rules.Rule(bias, f"{inner}/{target}_bias")
  yield from _norm(f"{outer}.layer_norm1", f"{inner}/attn_norm")
  yield from _norm(f"{outer}.layer_norm2", f"{inner}/ff_norm")
  embeddings = f"{name}_model.embeddings"
  yield rules.Rule(
    f"{embeddings}.position_embedding.weight", f"{name}/positions"
  )
  # A buffer of older files: 0, 1, 2, ...
  yield rules.Rule(f"{embeddings}.position_ids", None)


RULES = (
  rules.Rule("logit_scale", "logit_scale"),
  rules.Rule("text_projection.weight", "text/project", "transpose"),
  rules.Rule("visual_projection.weight", "vision/project", "transpose"),
  rules.Rule("text_model.embeddings.token_embedding.weight", "text/embed"),
  rules.Rule("vision_model.embeddings.class_embedding", "vision/class_embed"),
  rules.Rule(
    "vision_model.embeddings.patch_embedding.weight", "vision/patch", "conv"
  ),
  *_norm("text_model.final_layer_norm", "text/final_norm"),
  # The published name is spelt like this.
  *_norm("vision_model.pre_layrnorm", "vision/input_norm"),
  *_norm("vision_model.post_layernorm", "vision/final_norm"),
  *_tower("text"),
  *_tower("vision"),
)


def read(
  folder: str | os.PathLike[str],
  *,
  mesh: jax.sharding.Mesh | None = None,
) -> tuple[clip_config.ClipConfig, Any]:
  """Read both towers of a CLIP.

  Args:
    folder: local, with `config.json` and safetensors.
    mesh: where the parameters go; None is the first device.

  Returns:
    The config and the parameters, in the checkpoint's own dtypes.

  Raises:
    FileNotFoundError: naming the file that is missing.
    ValueError: naming the file that is damaged or of another model.
  """
  root = tensors.local_folder(folder)
  path = root / facts.CONFIG
  try:
    config = clip_config.config_from_dict(tensors.read_json(path))
  except (TypeError, ValueError) as error:
    raise ValueError(f"{path} must be that of a CLIP, got {error}") from error
  key = jax.eval_shape(lambda: jax.random.key(0))
  shapes = jax.eval_shape(lambda key: clip.init(config, key), key)
  if mesh is not None:
    places = sharding.shardings(mesh, clip.logical_axes(config))
    shapes = jax.tree.map(
      lambda leaf, place: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=place
      ),
      shapes,
      places,
    )
  checkpoint = tensors.Checkpoint.open(root)
  found = plan.match(RULES, checkpoint, shapes)
  return config, load.load(checkpoint, found, shapes)
