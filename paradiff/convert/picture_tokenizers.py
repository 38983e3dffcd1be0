"""Sizes of the two published image tokenizers, from their own files."""

import collections
import dataclasses
import pathlib
import re
from typing import Any

from paradiff.convert import facts as facts_lib
from paradiff.convert import rules
from paradiff.convert import tensors
from paradiff.models import image_tokenizer as image_tokenizer_lib

RULES = {"amused": rules.AMUSED, "magvitv2": rules.MAGVITV2}
# Where a family's checkpoint folder has its image tokenizer, if it has one.
SUBFOLDERS = {"amused": "vqvae", "magvitv2": None}
_PICTURE_SIZE = 512
_AMUSED_WORDS: dict[str, tuple[Any, ...]] = {
  "_class_name": ("VQModel",),
  "act_fn": ("silu",),
  "in_channels": (3,),
  "out_channels": (3,),
  "lookup_from_codebook": (True,),
  "mid_block_add_attention": (False,),
  "norm_type": ("group",),
}
_AMUSED_SIZES = (
  "latent_channels",
  "layers_per_block",
  "norm_num_groups",
  "num_vq_embeddings",
)


def read(
  kind: str, folder: pathlib.Path, checkpoint: tensors.Checkpoint
) -> image_tokenizer_lib.ImageTokenizerConfig:
  """Return the sizes of the image tokenizer in a folder; reads no tensor.

  Args:
    kind: "amused", which has a `config.json`, or "magvitv2", whose sizes are
      in the shapes of its tensors.
    folder: the folder.
    checkpoint: its weights.

  Raises:
    FileNotFoundError: if `config.json` is wanted and missing.
    ValueError: naming the file, if it is of another model.
  """
  if kind == "amused":
    return _amused(folder / facts_lib.CONFIG, len(checkpoint))
  return _magvitv2(checkpoint)


def to_config(
  config: image_tokenizer_lib.ImageTokenizerConfig,
) -> dict[str, Any]:
  """Return the `config.json` of an aMUSEd tokenizer without one of its own."""
  num_levels = len(config.encoder_multipliers)
  return {
    **{key: allowed[0] for key, allowed in _AMUSED_WORDS.items()},
    "block_out_channels": list(config.encoder_channels),
    "down_block_types": ["DownEncoderBlock2D"] * num_levels,
    "up_block_types": ["UpDecoderBlock2D"] * num_levels,
    "latent_channels": config.latent_channels,
    "layers_per_block": config.encoder_blocks[0],
    "norm_num_groups": config.norm_groups,
    "num_vq_embeddings": config.num_codes,
    "sample_size": config.grid_size,
    "scaling_factor": 0.18215,
    "vq_embed_dim": None,
  }


def _amused(
  path: pathlib.Path, num_tensors: int
) -> image_tokenizer_lib.ImageTokenizerConfig:
  config = tensors.read_json(path)
  facts_lib.check_words(config, _AMUSED_WORDS, path, required=True)
  channels = config.get("block_out_channels")
  if (
    not isinstance(channels, list)
    or not channels
    or any(type(c) is not int or c < 1 or c % channels[0] for c in channels)
  ):
    raise ValueError(
      f"{path} must have block_out_channels, multiples of the first, got "
      f"{channels!r}"
    )
  for key in _AMUSED_SIZES:
    facts_lib.size(config, key, path)
  # Before names are made of the blocks: a config may say anything.
  if config["layers_per_block"] > num_tensors:
    raise ValueError(
      f"{path} must have layers_per_block of at most the {num_tensors} tensors "
      f"there are, got {config['layers_per_block']}"
    )
  latent_channels = config["latent_channels"]
  num_levels = len(channels)
  wanted: dict[str, tuple[Any, ...]] = {
    "down_block_types": (["DownEncoderBlock2D"] * num_levels,),
    "up_block_types": (["UpDecoderBlock2D"] * num_levels,),
  }
  facts_lib.check_words(config, wanted, path, required=True)
  facts_lib.check_words(
    config, {"vq_embed_dim": (None, latent_channels)}, path, required=False
  )
  multipliers = tuple(c // channels[0] for c in channels)
  num_blocks = config["layers_per_block"]
  return dataclasses.replace(
    image_tokenizer_lib.AMUSED,
    picture_size=_PICTURE_SIZE,
    base_channels=channels[0],
    encoder_multipliers=multipliers,
    encoder_blocks=(num_blocks,) * num_levels,
    decoder_multipliers=multipliers,
    decoder_blocks=(num_blocks + 1,) * num_levels,
    norm_groups=config["norm_num_groups"],
    num_codes=config["num_vq_embeddings"],
    latent_channels=latent_channels,
  )


def _magvitv2(
  checkpoint: tensors.Checkpoint,
) -> image_tokenizer_lib.ImageTokenizerConfig:
  """Read the sizes off the shapes; the groups of the norms are constants."""
  first, last = "encoder.conv_in.weight", "encoder.conv_out.weight"
  for name in (first, last):
    if name not in checkpoint or len(checkpoint[name].shape) != 4:
      raise ValueError(
        f"{checkpoint.folder} must hold MAGVITv2, with {name}, a convolution, "
        f"got {len(checkpoint)} tensors, {sorted(checkpoint)[:3]} ..."
      )
  base = checkpoint[first].shape[0]
  levels: dict[str, dict[int, dict[int, int]]] = {
    stage: collections.defaultdict(dict) for stage in ("down", "up")
  }
  pattern = re.compile(
    r"\w+\.(down|up)\.([0-9]+)\.block\.([0-9]+)\.conv1\.weight"
  )
  for name, tensor in checkpoint.items():
    if found := pattern.fullmatch(name):
      blocks = levels[found[1]][int(found[2])]
      blocks[int(found[3])] = tensor.shape[0] if tensor.shape else 0

  def per_level(stage: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    of_stage = levels[stage]
    multipliers = tuple(
      max(of_stage[level].values()) // base for level in sorted(of_stage)
    )
    return multipliers, tuple(len(of_stage[i]) for i in sorted(of_stage))

  encoder, decoder = per_level("down"), per_level("up")
  try:
    return dataclasses.replace(
      image_tokenizer_lib.MAGVITV2,
      picture_size=_PICTURE_SIZE,
      code_bits=checkpoint[last].shape[0],
      base_channels=base,
      encoder_multipliers=encoder[0],
      encoder_blocks=encoder[1],
      decoder_multipliers=decoder[0],
      decoder_blocks=decoder[1],
      mid_attention="encoder.mid.attn_1.q.weight" in checkpoint,
    )
  except ValueError as error:
    raise ValueError(
      f"{checkpoint.folder} must hold MAGVITv2, got {error}"
    ) from error
