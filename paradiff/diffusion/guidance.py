"""Classifier-free guidance over true unconditional sequences.

  logits = c + sum over branches q of scale_q (c - u_q)

where u_q comes from the same answer behind a prefix that lacks the prompt,
the input picture, or both. Only branches with a scale other than 0 are built.

Source: Lumina-DiMOO `image_generation_generator.py` (the additive form);
arXiv 2207.12598. Differs from upstream: MMaDA-Parallel-A overwrites the first
tokens of the conditional sequence, which leaves the picture in place.
"""

import dataclasses
from collections.abc import Mapping

import jax

from paradiff import layout as layout_lib
from paradiff import vocab as vocab_lib


@dataclasses.dataclass(frozen=True)
class Guidance:
  """Guidance scales by what the unconditional sequence lacks; 0 is off.

  Attributes:
    text: scale of the branch without the prompt.
    image: scale of the branch without the input picture.
    both: scale of the branch without either.
  """

  text: float = 0.0
  image: float = 0.0
  both: float = 0.0

  @property
  def branches(self) -> tuple[str, ...]:
    """Names of the branches in use."""
    names = ("text", "image", "both")
    return tuple(name for name in names if getattr(self, name) != 0.0)


def conditions(
  layout: layout_lib.Layout,
  vocab: vocab_lib.Vocab,
  condition: layout_lib.Condition,
  *,
  branches: tuple[str, ...],
) -> dict[str, layout_lib.Condition]:
  """Return the unconditional prefix of each named branch."""
  return {
    name: layout_lib.drop(
      layout,
      vocab,
      condition,
      text=name in ("text", "both"),
      image=name in ("image", "both"),
    )
    for name in branches
  }


def guide(
  conditional: jax.Array,
  unconditional: Mapping[str, jax.Array],
  scales: Guidance,
) -> jax.Array:
  """Combine logits float32[..., V] of the branches that `scales` uses."""
  guided = conditional
  for name in scales.branches:
    difference = conditional - unconditional[name]
    guided = guided + getattr(scales, name) * difference
  return guided
