"""Checkpoints of random weights in the published formats, of any size.

For tests, for measurements and to try a conversion without the real weights.
The text vocabulary is that of the families shrunk: fewer ordinary words, then
every special token where it belongs behind `<|startoftext|>`. Weights are drawn
and written a tensor at a time, so a folder may be larger than memory.
"""

import dataclasses
import json
import pathlib
import zlib
from collections.abc import Mapping

import jax
import numpy as np

from paradiff import pretrained
from paradiff.convert import export
from paradiff.convert import facts as facts_lib
from paradiff.convert import families
from paradiff.convert import picture_tokenizers
from paradiff.convert import plan as plan_lib
from paradiff.convert import rules
from paradiff.models import image_tokenizer as image_tokenizer_lib
from paradiff.models import transformer as transformer_lib

_SENTENCES = (
  "Make the sky red and leave everything else as it is.",
  "The picture shows a star beside two blue circles.",
  "Generate an image according to the text prompt.",
  "Generate an image applying the following editing instruction based on the "
  "original image.",
)
# Behind BOS, of names that the tokenizer files know.
_BASE_NAMES = {
  0: families.BOS,
  1: families.EOS,
  2: "[CLS]",
  3: "[gMASK]",
  families.MASK_PLACE: families.MASK,
  266: "<|start_header_id|>",
  267: "<|end_header_id|>",
  268: "<|eot_id|>",
}
_DIMOO_NAMES = {
  17: "<system>",
  18: "</system>",
  19: "<user>",
  20: "</user>",
  271: "<uncondition>",
  274: "<answer>",
  275: "</answer>",
}
_CHUNK = 1 << 20  # numbers drawn at a time


@dataclasses.dataclass(frozen=True)
class Sizes:
  """How large a synthetic checkpoint is.

  Attributes:
    num_words: ordinary tokens; None is what a few sentences give.
    width: of the backbone, and so on as in its config.
    num_layers: blocks.
    num_heads: attention heads.
    mlp_width: hidden width of the gated MLP.
    num_shards: files that the backbone is spread over.
    spare_rows: rows of embedding and head behind the picture codes.
    dtype: of the backbone, in safetensors' words.
    image_tokenizer: sizes of the image tokenizer; None takes small ones.
  """

  num_words: int | None = None
  width: int = 32
  num_layers: int = 2
  num_heads: int = 4
  mlp_width: int = 64
  num_shards: int = 2
  spare_rows: int = 3
  dtype: str = "BF16"
  image_tokenizer: image_tokenizer_lib.ImageTokenizerConfig | None = None


def build(
  folder: str | pathlib.Path,
  family: str,
  *,
  sizes: Sizes = Sizes(),
  seed: int = 0,
) -> None:
  """Write a checkpoint of random weights.

  Args:
    folder: created; an aMUSEd tokenizer is in `vqvae/`, a MAGVITv2 in
      `image_tokenizer/`, which is not where a family's own files have one.
    family: a name in `families.FAMILIES`.
    sizes: how large.
    seed: decides the weights.
  """
  known = families.find(family)
  root = pathlib.Path(folder)
  root.mkdir(parents=True, exist_ok=True)
  text_size, ids = _build_tokenizer(root, known, sizes.num_words)
  pictures = _pictures(known, sizes)
  codebook_size = 0 if pictures is None else pictures.codebook_size
  facts = facts_lib.Facts(
    family=family,
    transformer=transformer_lib.TransformerConfig(
      vocab_size=text_size + codebook_size + sizes.spare_rows,
      width=sizes.width,
      num_layers=sizes.num_layers,
      num_heads=sizes.num_heads,
      mlp_width=sizes.mlp_width,
    ),
    image_tokenizer=pictures,
    text_size=text_size,
    codebook_size=codebook_size,
    special_ids=ids,
  )
  config = facts_lib.to_config(facts)
  (root / facts_lib.CONFIG).write_text(export.to_text(config))
  entries = _entries(
    rules.BACKBONE,
    jax.eval_shape(
      lambda: transformer_lib.init(facts.transformer, jax.random.key(0))
    ),
    sizes.dtype,
  )
  _write(root, entries, "model", sizes.num_shards, seed=seed)
  if pictures is None or known.image_tokenizer is None:
    return
  kind = known.image_tokenizer
  inside = root / (picture_tokenizers.SUBFOLDERS[kind] or "image_tokenizer")
  inside.mkdir()
  entries = _entries(
    picture_tokenizers.RULES[kind],
    jax.eval_shape(
      lambda: image_tokenizer_lib.init(pictures, jax.random.key(0))
    ),
    "F32",
  )
  if kind == "amused":
    text = export.to_text(picture_tokenizers.to_config(pictures))
    (inside / facts_lib.CONFIG).write_text(text)
    _write(inside, entries, "diffusion_pytorch_model", 1, seed=seed)
  else:
    bits = pictures.code_bits
    entries["quantize.embedding"] = ("F32", (2**bits, bits))
    entries["quantize.power_vals"] = ("I64", (bits,))
    _write(inside, entries, "model", 1, seed=seed)


def _pictures(
  family: families.Family, sizes: Sizes
) -> image_tokenizer_lib.ImageTokenizerConfig | None:
  """Return the image tokenizer's sizes; small ones by default."""
  if family.image_tokenizer is None or sizes.image_tokenizer is not None:
    return sizes.image_tokenizer
  if family.image_tokenizer == "amused":
    return dataclasses.replace(
      image_tokenizer_lib.AMUSED,
      base_channels=32,
      encoder_multipliers=(1, 2),
      encoder_blocks=(1, 1),
      decoder_multipliers=(1, 2),
      decoder_blocks=(2, 2),
      num_codes=64,
      latent_channels=8,
    )
  return dataclasses.replace(
    image_tokenizer_lib.MAGVITV2,
    picture_size=512,
    code_bits=6,
    base_channels=32,
    encoder_multipliers=(1, 2),
    encoder_blocks=(2, 1),
    decoder_multipliers=(1, 2),
    decoder_blocks=(1, 2),
  )


def _entries(
  rule_set: tuple[rules.Rule, ...], shapes: object, dtype: str
) -> dict[str, export.Entry]:
  plan = plan_lib.expected(rule_set, shapes)
  return {
    source: (dtype, leaf.published_shape)
    for leaf in plan.leaves
    for source in leaf.sources
  }


def _write(
  folder: pathlib.Path,
  entries: export.Entries,
  stem: str,
  num_shards: int,
  *,
  seed: int,
) -> None:
  """Write random tensors as shards of about equal size."""
  total = sum(map(export.nbytes, entries.values()))
  shards: list[dict[str, export.Entry]] = [{} for _ in range(num_shards)]
  before = 0
  for name, entry in sorted(entries.items()):
    shards[before * num_shards // total][name] = entry
    before += export.nbytes(entry)
  export.write_shards(
    folder,
    [shard for shard in shards if shard],
    lambda name: _draw(name, entries[name], seed=seed),
    stem=stem,
  )


def _draw(name: str, entry: export.Entry, *, seed: int) -> np.ndarray:
  """Draw one tensor by its name: gains about 1, matrices of unit gain."""
  dtype, shape = entry
  rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
  result = np.empty(int(np.prod(shape)), pretrained.DTYPES[dtype])
  scale = 0.1 if len(shape) == 1 else float(np.prod(shape[1:])) ** -0.5
  shift = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
  for start in range(0, len(result), _CHUNK):
    part = result[start : start + _CHUNK]
    part[...] = rng.standard_normal(len(part), np.float32) * scale + shift
  return result.reshape(shape)


def _build_tokenizer(
  folder: pathlib.Path, family: families.Family, num_words: int | None
) -> tuple[int, dict[str, int]]:
  """Write a byte-level BPE tokenizer; return its length and special ids."""
  import tokenizers
  from tokenizers import decoders
  from tokenizers import models
  from tokenizers import pre_tokenizers
  from tokenizers import trainers

  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=300,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(_SENTENCES, trainer)
  start = tokenizer.get_vocab_size()
  if num_words is not None:
    # Words that no text has, so that ids reach the published ones.
    data = json.loads(tokenizer.to_str())
    for i in range(start, num_words):
      data["model"]["vocab"][f"\N{MIDDLE DOT}{i}"] = i
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(data))
    start = tokenizer.get_vocab_size()
  names, length = dict(_BASE_NAMES), 269
  if family.image_tokenizer == "amused":
    names |= _DIMOO_NAMES
    length = 276
  special = [
    names.get(place, f"<|reserved_token_{place}|>") for place in range(length)
  ]
  tokenizer.add_special_tokens(
    [tokenizers.AddedToken(name, special=True) for name in special]
  )
  tokenizer.save(str(folder / "tokenizer.json"))
  marks: Mapping[str, str] = {
    "bos_token": families.BOS,
    "eos_token": families.EOS,
    "pad_token": families.EOS,
  }
  words = {"tokenizer_class": "PreTrainedTokenizerFast", **marks}
  for name, text in (
    ("tokenizer_config", words),
    ("special_tokens_map", marks),
  ):
    (folder / f"{name}.json").write_text(export.to_text(text))
  ids = {name: start + place for place, name in names.items()}
  return start + length, ids
