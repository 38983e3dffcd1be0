"""The facts of a published model, from its own files.

Sizes come from `config.json`, `vqvae/config.json`, the tokenizer and the
headers of the weights. Whatever would change the mathematics must be as this
library computes it; a config that says otherwise is of another model.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from paradiff.convert import families
from paradiff.convert import tensors
from paradiff.data import text
from paradiff.models import image_tokenizer as image_tokenizer_lib
from paradiff.models import transformer as transformer_lib

CONFIG = "config.json"
EMBED = "model.transformer.wte.weight"
HEAD = "model.transformer.ff_out.weight"
# What a config must say, in words it must have and in words it may have.
REQUIRED: Mapping[str, tuple[Any, ...]] = {
  "block_type": ("llama",),
  "activation_type": ("silu",),
  "layer_norm_type": ("rms",),
  "rope": (True,),
  "include_bias": (False,),
  "weight_tying": (False,),
}
OPTIONAL: Mapping[str, tuple[Any, ...]] = {
  "alibi": (False,),
  "attention_layer_norm": (False,),
  "bias_for_layer_norm": (False, None),
  "block_group_size": (1,),
  "clip_qkv": (None,),
  "include_qkv_bias": (False, None),
  "input_emb_norm": (False,),
  "layer_norm_with_affine": (True,),
  "multi_query_attention": (False, None),
  "rope_full_precision": (True,),
  "scale_logits": (False,),
}
_SIZES = ("d_model", "n_layers", "n_heads", "mlp_hidden_size")


@dataclasses.dataclass(frozen=True)
class Facts:
  """What a published model is, without its weights.

  Attributes:
    family: a name in `families.FAMILIES`.
    transformer: the backbone.
    image_tokenizer: of the pictures; None for a model of text alone.
    text_size: text ids, special ones included; picture code c is token
      `text_size + c`.
    codebook_size: picture codes; 0 for a model of text alone.
    special_ids: ids of special tokens, by the token's own string; by a plain
      word (newline, boi, eoi, pad) where no file has one.
  """

  family: str
  transformer: transformer_lib.TransformerConfig
  image_tokenizer: image_tokenizer_lib.ImageTokenizerConfig | None
  text_size: int
  codebook_size: int
  special_ids: Mapping[str, int]


def to_dict(facts: Facts) -> dict[str, Any]:
  """Return the facts as plain data for a json file."""
  return dataclasses.asdict(facts)


def from_dict(data: Mapping[str, Any]) -> Facts:
  """Rebuild the facts from `to_dict`'s data.

  Raises:
    ValueError: if a field is missing or unknown, naming it.
  """
  try:
    fields = dict(data)
    fields["transformer"] = transformer_lib.TransformerConfig(
      **fields["transformer"]
    )
    if fields["image_tokenizer"] is not None:
      fields["image_tokenizer"] = image_tokenizer_lib.ImageTokenizerConfig(
        **fields["image_tokenizer"]
      )
    return Facts(**fields)
  except (KeyError, TypeError) as error:
    raise ValueError(
      f"facts must have the fields of {Facts.__name__}, got {error}"
    ) from error


def read(
  folder: str | os.PathLike[str],
  family: str,
  *,
  checkpoint: tensors.Checkpoint | None = None,
  image_tokenizer: image_tokenizer_lib.ImageTokenizerConfig | None = None,
  tokenizer: str | os.PathLike[str] | None = None,
) -> Facts:
  """Read and check the facts of a published folder; no tensor is read.

  Args:
    folder: with `config.json`, weights and, unless `tokenizer` says where, a
      tokenizer.
    family: a name in `families.FAMILIES`.
    checkpoint: the opened weights; default: those of the folder.
    image_tokenizer: of the pictures; required where the family has them.
    tokenizer: folder of the tokenizer.

  Returns:
    The facts.

  Raises:
    FileNotFoundError: naming the file that is missing.
    ValueError: naming the file, what it must say and what it says.
  """
  known = families.find(family)
  root = tensors.local_folder(folder)
  path = root / CONFIG
  config = tensors.read_json(path)
  check_config(config, known, path)
  if (known.image_tokenizer is None) != (image_tokenizer is None):
    raise ValueError(
      f"{family} must have {known.image_tokenizer or 'no image tokenizer'}, "
      f"got {image_tokenizer}"
    )
  words = tensors.local_folder(tokenizer or root)
  fast = text.TextTokenizer.load(words).fast
  text_size = size(config, "text_vocab_size", path, default=len(fast))
  ids = _special_ids(
    known, fast, config, text_size=text_size, words=words, config_path=path
  )
  checkpoint = checkpoint or tensors.Checkpoint.open(root)
  # Before names are made of the layers: a config may say anything.
  if config["n_layers"] > len(checkpoint):
    raise ValueError(
      f"{path} must have n_layers of at most the {len(checkpoint)} tensors "
      f"there are, got {config['n_layers']}"
    )
  codebook_size = 0
  if image_tokenizer is not None:
    codes = image_tokenizer.codebook_size
    codebook_size = size(config, "codebook_size", path, default=codes)
    if codebook_size != codes:
      raise ValueError(
        f"{path} must have the image tokenizer's codebook_size, {codes}, got "
        f"{codebook_size}"
      )
  return Facts(
    family=family,
    transformer=_transformer(
      config, checkpoint, path=path, needed=text_size + codebook_size
    ),
    image_tokenizer=image_tokenizer,
    text_size=text_size,
    codebook_size=codebook_size,
    special_ids=ids,
  )


def to_config(facts: Facts) -> dict[str, Any]:
  """Return the `config.json` of a model that has none of its own."""
  family = families.find(facts.family)
  config = facts.transformer
  words = {**REQUIRED, **OPTIONAL, "model_type": family.model_types}
  pictures = {
    "codebook_size": facts.codebook_size,
    "text_vocab_size": facts.text_size,
  }
  return {
    **{key: allowed[0] for key, allowed in words.items()},
    **(pictures if facts.codebook_size else {}),
    "d_model": config.width,
    "n_layers": config.num_layers,
    "n_heads": config.num_heads,
    "n_kv_heads": config.num_heads,
    "mlp_hidden_size": config.mlp_width,
    "vocab_size": config.vocab_size,
    "embedding_size": config.vocab_size,
    "rms_norm_eps": config.norm_eps,
    "rope_theta": config.rope_theta,
    "max_sequence_length": 4096,
    "mask_token_id": facts.special_ids[families.MASK],
    "eos_token_id": facts.special_ids[families.EOS],
    "pad_token_id": facts.special_ids[families.EOS],
  }


def check_words(
  config: Mapping[str, Any],
  wanted: Mapping[str, tuple[Any, ...]],
  path: pathlib.Path,
  *,
  required: bool,
) -> None:
  """Refuse a config that says something else than wanted, naming the key."""
  for key, allowed in wanted.items():
    if key not in config and not required:
      continue
    found = config.get(key, "no such key")
    # True is 1 to Python, not to a config.
    if not any(type(found) is type(w) and found == w for w in allowed):
      raise ValueError(
        f"{path} must have {key} {' or '.join(map(repr, allowed))}, got "
        f"{found!r}: it is of another model"
      )


def check_config(
  config: Mapping[str, Any], family: families.Family, path: pathlib.Path
) -> None:
  """Refuse the config of a model with other mathematics, naming the key."""
  kind = {"model_type": family.model_types}
  check_words(config, kind, path, required=True)
  check_words(config, REQUIRED, path, required=True)
  check_words(config, OPTIONAL, path, required=False)
  for key in _SIZES:
    size(config, key, path)
  heads = config["n_heads"]
  check_words(config, {"n_kv_heads": (heads, None)}, path, required=False)


def size(
  config: Mapping[str, Any],
  key: str,
  path: pathlib.Path,
  *,
  default: int | None = None,
) -> int:
  """Return a size that a config must have, or raise naming file and key."""
  value = config.get(key, default)
  if type(value) is not int or value < 1:
    raise ValueError(f"{path} must have {key}, an integer >= 1, got {value!r}")
  return value


def _number(
  config: Mapping[str, Any],
  key: str,
  path: pathlib.Path,
  *,
  default: float | None = None,
) -> float:
  value = config.get(key, default)
  if type(value) not in (int, float) or not 0 < value < math.inf:
    raise ValueError(f"{path} must have {key}, a number > 0, got {value!r}")
  return float(value)


def _special_ids(
  family: families.Family,
  fast: Any,
  config: Mapping[str, Any],
  *,
  text_size: int,
  words: pathlib.Path,
  config_path: pathlib.Path,
) -> dict[str, int]:
  """Look up the special tokens, and count to those without a name."""
  path = words / "tokenizer.json"
  named = (families.BOS, families.EOS, *family.named)
  split = {
    token: ids
    for token in named
    if len(ids := fast.encode(token, add_special_tokens=False)) != 1
  }
  if split:
    raise ValueError(
      f"{path} must have each special token of {family.name} as one id, got "
      + ", ".join(f"{token} as {len(ids)} ids" for token, ids in split.items())
    )
  ids = {
    token: int(fast.encode(token, add_special_tokens=False)[0])
    for token in named
  }
  start = ids[families.BOS]
  ids |= {token: start + place for token, place in family.placed.items()}
  ids[families.MASK] = start + families.MASK_PLACE
  known = fast.get_vocab().get(families.MASK, ids[families.MASK])
  told = size(config, "mask_token_id", config_path, default=known)
  if not ids[families.MASK] == known == told:
    raise ValueError(
      f"{path} must have {families.MASK} {families.MASK_PLACE} places behind "
      f"{families.BOS}, at {ids[families.MASK]}, and {config_path.name} the "
      f"same mask_token_id, got {known} and {told}"
    )
  outside = {token: i for token, i in ids.items() if i >= text_size}
  if outside:
    raise ValueError(
      f"{path} must have the special tokens of {family.name} among its "
      f"{text_size} ids, got {outside}"
    )
  if family.last_named and ids[family.last_named] != text_size - 1:
    raise ValueError(
      f"{path} must end with {family.last_named}, behind which the picture "
      f"codes begin, got it at {ids[family.last_named]} of {text_size} ids; if "
      f"more tokens follow, {config_path.name} must have text_vocab_size"
    )
  return ids


def _transformer(
  config: Mapping[str, Any],
  checkpoint: tensors.Checkpoint,
  *,
  path: pathlib.Path,
  needed: int,
) -> transformer_lib.TransformerConfig:
  """Return the backbone's sizes, its rows as the weights have them."""
  lacking = [name for name in (EMBED, HEAD) if name not in checkpoint]
  if lacking:
    raise ValueError(
      f"{checkpoint.folder} must hold {' and '.join(lacking)}, got "
      f"{len(checkpoint)} tensors without"
    )
  embed, head = checkpoint[EMBED], checkpoint[HEAD]
  for tensor in (embed, head):
    if len(tensor.shape) != 2 or tensor.shape[0] < needed:
      raise ValueError(
        f"{tensor.path}: {tensor.name} must have at least {needed} rows, one a "
        f"text id and one a picture code, got {list(tensor.shape)}"
      )
  if embed.shape != head.shape:
    raise ValueError(
      f"{head.path}: {head.name} must have the shape of {embed.name}, "
      f"{list(embed.shape)}, got {list(head.shape)}"
    )
  return transformer_lib.TransformerConfig(
    vocab_size=embed.shape[0],
    width=config["d_model"],
    num_layers=config["n_layers"],
    num_heads=config["n_heads"],
    mlp_width=config["mlp_hidden_size"],
    norm_eps=_number(config, "rms_norm_eps", path, default=1e-5),
    rope_theta=_number(config, "rope_theta", path),
    compute_dtype="bfloat16" if embed.dtype == "BF16" else "float32",
  )
