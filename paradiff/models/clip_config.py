"""Sizes of a CLIP, and how they follow from a Hugging Face `config.json`.

One record serves every CLIP in that format, from ViT-B/32 over L/14-336 to
the `gelu` models of LAION.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

ACTIVATIONS = ("quick_gelu", "gelu")
# The configs first published name this id for the end of a text, wrongly: with
# it, a text ends at its highest id.
LEGACY_EOS_ID = 2

# Hugging Face's names of what a tower is made of, and its defaults.
_TOWER_FIELDS = {
  "width": "hidden_size",
  "num_layers": "num_hidden_layers",
  "num_heads": "num_attention_heads",
  "mlp_width": "intermediate_size",
  "activation": "hidden_act",
  "norm_eps": "layer_norm_eps",
}
_TEXT_DEFAULTS: dict[str, Any] = {
  "hidden_size": 512,
  "num_hidden_layers": 12,
  "num_attention_heads": 8,
  "intermediate_size": 2048,
  "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5,
  "vocab_size": 49408,
  "max_position_embeddings": 77,
  "eos_token_id": 49407,
}
_VISION_DEFAULTS: dict[str, Any] = {
  "hidden_size": 768,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "intermediate_size": 3072,
  "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5,
  "image_size": 224,
  "patch_size": 32,
  "num_channels": 3,
}


def _require_positive(record: Any, names: tuple[str, ...]) -> None:
  """Raise ValueError unless the named fields are integers above zero."""
  for name in names:
    value = getattr(record, name)
    if type(value) is not int or value < 1:
      raise ValueError(f"{name} must be a positive integer, got {value!r}")


@dataclasses.dataclass(frozen=True)
class TowerConfig:
  """Sizes of one transformer of the two.

  Attributes:
    width: residual width D.
    num_layers: blocks.
    num_heads: attention heads H; must divide `width`.
    mlp_width: hidden width F of the MLP.
    activation: "quick_gelu", x sigmoid(1.702 x), or "gelu", the exact one.
    norm_eps: LayerNorm epsilon.

  Raises:
    ValueError: if a size is not positive, the heads do not divide the width,
      or the activation is another.
  """

  width: int
  num_layers: int
  num_heads: int
  mlp_width: int
  activation: str = "quick_gelu"
  norm_eps: float = 1e-5

  def __post_init__(self) -> None:
    _require_positive(self, ("width", "num_layers", "num_heads", "mlp_width"))
    if self.width % self.num_heads:
      raise ValueError(
        f"num_heads must divide width, got {self.num_heads=} {self.width=}"
      )
    if self.activation not in ACTIVATIONS:
      raise ValueError(
        f"activation must be one of {ACTIVATIONS}, got {self.activation!r}"
      )
    if self.norm_eps is None or self.norm_eps <= 0:
      raise ValueError(f"norm_eps must be positive, got {self.norm_eps}")

  @property
  def head_size(self) -> int:
    """Size K of one attention head."""
    return self.width // self.num_heads


@dataclasses.dataclass(frozen=True)
class ClipConfig:
  """Sizes and numerics of both towers.

  Attributes:
    text: the text tower.
    vision: the picture tower.
    vocab_size: rows of the text embedding.
    max_text_len: tokens of the longest text, including start and end.
    eos_id: the id that ends a text, whose first place is pooled; or
      LEGACY_EOS_ID, then the place of the highest id is.
    image_size: side of the pictures in pixels, a multiple of `patch_size`.
    patch_size: side of a patch in pixels.
    embed_width: size P of the space that both towers project into.
    initial_logit_scale: what `init` gives the logarithm of the scale.
    compute_dtype: "float32" or "bfloat16" for activations.

  Raises:
    ValueError: if the sizes contradict each other.
  """

  text: TowerConfig
  vision: TowerConfig
  vocab_size: int = 49408
  max_text_len: int = 77
  eos_id: int = 49407
  image_size: int = 224
  patch_size: int = 32
  embed_width: int = 512
  initial_logit_scale: float = 2.6592
  compute_dtype: str = "float32"

  def __post_init__(self) -> None:
    sizes = ("vocab_size", "max_text_len", "image_size", "patch_size")
    _require_positive(self, (*sizes, "embed_width"))
    if type(self.eos_id) is not int or not 0 <= self.eos_id < self.vocab_size:
      raise ValueError(
        f"eos_id must be one id of [0, {self.vocab_size}), got {self.eos_id!r}"
      )
    if self.image_size % self.patch_size:
      raise ValueError(
        "patch_size must divide image_size, got "
        f"{self.patch_size=} {self.image_size=}"
      )
    if self.compute_dtype not in ("float32", "bfloat16"):
      raise ValueError(
        'compute_dtype must be "float32" or "bfloat16", got '
        f"{self.compute_dtype!r}"
      )

  @property
  def grid_size(self) -> int:
    """Patches a side."""
    return self.image_size // self.patch_size


def _section(hf_config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
  """Return the part of the file that rules, {} where it has none.

  Old files repeat a section as `<name>_dict`; that one wins, and what it
  leaves out takes the default and not the other section's value.
  """
  section = hf_config.get(f"{name}_dict")
  section = hf_config.get(name) if section is None else section
  return {} if section is None else section


def _tower(section: Mapping[str, Any], name: str) -> TowerConfig:
  """Return the tower of a section; errors say which section it was."""
  fields = {ours: section[theirs] for ours, theirs in _TOWER_FIELDS.items()}
  try:
    return TowerConfig(**fields)
  except ValueError as error:
    raise ValueError(f"{name}: {error}") from error


def config_from_dict(
  hf_config: Mapping[str, Any], *, compute_dtype: str = "float32"
) -> ClipConfig:
  """Return the sizes that a Hugging Face CLIP config states.

  Args:
    hf_config: the contents of `config.json`; keys that are missing take
      Hugging Face's defaults, keys that change nothing here are not read.
    compute_dtype: "float32" or "bfloat16" for activations.

  Raises:
    ValueError: if it is the config of another kind of model, or states what
      no CLIP can be.

  Source: transformers `configuration_clip.py`.
  """
  kind = hf_config.get("model_type", "clip")
  if kind != "clip":
    raise ValueError(f'model_type must be "clip", got {kind!r}')
  text = {**_TEXT_DEFAULTS, **_section(hf_config, "text_config")}
  vision = {**_VISION_DEFAULTS, **_section(hf_config, "vision_config")}
  if vision["num_channels"] != 3:
    raise ValueError(f"num_channels must be 3, got {vision['num_channels']}")
  return ClipConfig(
    text=_tower(text, "text_config"),
    vision=_tower(vision, "vision_config"),
    vocab_size=text["vocab_size"],
    max_text_len=text["max_position_embeddings"],
    eos_id=text["eos_token_id"],
    image_size=vision["image_size"],
    patch_size=vision["patch_size"],
    embed_width=hf_config.get("projection_dim", 512),
    initial_logit_scale=hf_config.get("logit_scale_init_value", 2.6592),
    compute_dtype=compute_dtype,
  )
