"""What is known of each family of published checkpoints and not in its files.

The text vocabulary begins with the ordinary words; from `<|startoftext|>` on,
ids are in a fixed order in all families, so each id without a name is so many
places behind it. Worked example: `<|startoftext|>` is 126080 as published, so
`<|soi|>`, 4 places behind, is 126084.
"""

import dataclasses
from collections.abc import Mapping

BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
MASK = "<|mdm_mask|>"
MASK_PLACE = 256  # behind BOS
_TURN_END = {"<|eot_id|>": 268}  # ends what one side says in a chat


@dataclasses.dataclass(frozen=True)
class Family:
  """A kind of published checkpoint.

  Attributes:
    name: what we call it.
    model_types: what its `config.json` may call itself.
    image_tokenizer: "amused", "magvitv2", or None without pictures.
    named: special tokens that the tokenizer file must know, each one id.
    placed: special tokens by their place behind BOS. In brackets where the
      published code has a name for it that the tokenizer file lacks.
    last_named: the special token that ends the text ids, if one must.
  """

  name: str
  model_types: tuple[str, ...]
  image_tokenizer: str | None
  named: tuple[str, ...]
  placed: Mapping[str, int]
  last_named: str | None = None


def _dimoo(name: str) -> Family:
  return Family(
    name=name,
    model_types=("llada",),
    image_tokenizer="amused",
    named=(
      "<system>",
      "</system>",
      "<user>",
      "</user>",
      "<uncondition>",
      "<answer>",
      "</answer>",
    ),
    placed={"newline": 4, "pad": 259, "boi": 269, "eoi": 270},
    last_named="</answer>",
  )


def _mmada(name: str) -> Family:
  places = (
    "<|soi|>",
    "<|eoi|>",
    "<|sov|>",
    "<|eov|>",
    "<|t2i|>",
    "<|mmu|>",
    "<|t2v|>",
    "<|v2v|>",
    "<|lvg|>",
    "[iPAD]",
    "<|r2i|>",
    "<|interleave|>",
    "<|t2it|>",
  )
  return Family(
    name=name,
    model_types=("mmada",),
    image_tokenizer="magvitv2",
    named=(),
    placed={token: 4 + i for i, token in enumerate(places)} | _TURN_END,
  )


FAMILIES = {
  family.name: family
  for family in (
    _dimoo("parallel_a"),
    _dimoo("lumina_dimoo"),
    _mmada("parallel_m"),
    _mmada("mmada"),
    Family("llada", ("llada",), None, (), _TURN_END),
  )
}


def find(name: str) -> Family:
  """Return a family by name.

  Raises:
    ValueError: if there is none of that name.
  """
  if name not in FAMILIES:
    raise ValueError(f"family must be in {list(FAMILIES)}, got {name!r}")
  return FAMILIES[name]
