"""CLIP from and to a folder in Hugging Face format, and the reward of one."""

import os
from collections.abc import Iterator
from typing import Any

import jax
import safetensors.numpy
from etils import epath

from paradiff import sharding
from paradiff.convert import export
from paradiff.convert import facts
from paradiff.convert import load
from paradiff.convert import plan
from paradiff.convert import rules
from paradiff.convert import tensors
from paradiff.data import images
from paradiff.data import text
from paradiff.models import clip
from paradiff.models import clip_config
from paradiff.rl import clip_reward


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


def to_config(config: clip_config.ClipConfig) -> dict[str, Any]:
  """Return the contents of `config.json` that state these sizes.

  The inverse of `clip_config.config_from_dict`, but for `compute_dtype`, which
  is not a fact about the weights.
  """

  def tower(record: clip_config.TowerConfig) -> dict[str, Any]:
    return {
      "hidden_size": record.width,
      "num_hidden_layers": record.num_layers,
      "num_attention_heads": record.num_heads,
      "intermediate_size": record.mlp_width,
      "hidden_act": record.activation,
      "layer_norm_eps": record.norm_eps,
      "projection_dim": config.embed_width,
    }

  return {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": config.embed_width,
    "logit_scale_init_value": config.initial_logit_scale,
    "text_config": {
      **tower(config.text),
      "vocab_size": config.vocab_size,
      "max_position_embeddings": config.max_text_len,
      "eos_token_id": config.eos_id,
    },
    "vision_config": {
      **tower(config.vision),
      "image_size": config.image_size,
      "patch_size": config.patch_size,
      "num_channels": 3,
    },
  }


def write(
  folder: epath.PathLike, config: clip_config.ClipConfig, params: Any
) -> None:
  """Write both towers such that `read` and transformers read them.

  Args:
    folder: created if need be.
    config: the sizes.
    params: tree of arrays on this process's devices, as `clip.init` gives it.
  """
  reader = export.Reader(RULES, params)
  published = {
    name: reader(name).reshape(shape)  # a contiguous scalar gets an axis
    for name, (_, shape) in sorted(reader.entries().items())
  }
  data = safetensors.numpy.save(published, metadata={"format": "pt"})
  root = epath.Path(folder)
  images.write_atomically(root / "model.safetensors", data)
  words = export.to_text(to_config(config)).encode()
  images.write_atomically(root / facts.CONFIG, words)


def load_reward(
  folder: str | os.PathLike[str],
  *,
  options: clip_reward.Options = clip_reward.DEFAULTS,
) -> clip_reward.ClipReward:
  """Load the reward of a CLIP: a published one, or one trained on scenes.

  Args:
    folder: local, with `config.json`, safetensors and `tokenizer.json`.
    options: what of a rollout is scored, and how.

  Raises:
    FileNotFoundError: naming what must lie in the folder, and what does not.
    ValueError: naming the file that is damaged or of another model, or if the
      tokenizer is not that of the CLIP.
  """
  root = epath.Path(folder)
  wanted = {
    facts.CONFIG: (root / facts.CONFIG).exists(),
    "*.safetensors": root.exists() and any(root.glob("*.safetensors")),
    "tokenizer.json": (root / "tokenizer.json").exists(),
  }
  missing = [name for name, found in wanted.items() if not found]
  if missing:
    raise FileNotFoundError(
      f"a folder with a CLIP must hold {', '.join(wanted)}, got "
      f"{os.fspath(folder)!r} without {', '.join(missing)}; one in Hugging "
      "Face's format does, and experiments.clip trains one"
    )
  tokenizer = text.TextTokenizer.load(root)
  config, params = read(folder)
  start, end = tokenizer.fast.bos_token_id, tokenizer.fast.eos_token_id
  if start is None or end is None:
    raise ValueError(
      f"the tokenizer in {os.fspath(folder)!r} must name the start and the "
      f"end of a text in tokenizer_config.json, got {start=} {end=}"
    )
  marks = set(tokenizer.ids.values())

  def encode(words: str) -> list[int]:
    if not words.strip():
      return []
    try:
      ids = tokenizer.encode_marked(words)
    except Exception:  # a closed vocabulary raises a bare exception
      ids = tokenizer.encode(words)  # raises, naming the words
    return [i for i in ids if i not in marks]

  return clip_reward.ClipReward(
    config=config,
    params=params,
    encode=encode,
    start_id=start,
    end_id=end,
    options=options,
  )
