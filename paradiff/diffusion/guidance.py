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
import jax.numpy as jnp

from paradiff import layout as layout_lib
from paradiff import sequence as sequence_lib
from paradiff import vocab as vocab_lib

BRANCHES = ("text", "image", "both")


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
    return tuple(name for name in BRANCHES if getattr(self, name) != 0.0)


def without(
  layout: layout_lib.Layout,
  vocab: vocab_lib.Vocab,
  condition: sequence_lib.Condition,
  answer: jax.Array,
  *,
  branch: str,
  overwrite: bool = False,
) -> tuple[sequence_lib.Condition, jax.Array]:
  """Return prefix and answer of the unconditional sequence of a branch.

  Args:
    layout: the sizes.
    vocab: the ids.
    condition: prefix int32[B, P].
    answer: int32[B, A].
    branch: one of BRANCHES, what is left out.
    overwrite: write the unconditional prefix over the first tokens of the
      conditional sequence, as MMaDA-Parallel-A does; all must be valid.
  """
  null = sequence_lib.drop(
    layout,
    vocab,
    condition,
    text=branch in ("text", "both"),
    image=branch in ("image", "both"),
  )
  if not overwrite:
    return null, answer
  prefix_len = condition.prefix.shape[1]
  whole = jnp.concatenate([condition.prefix, answer], axis=1)
  whole = whole.at[:, : null.prefix.shape[1]].set(null.prefix)
  patched = dataclasses.replace(condition, prefix=whole[:, :prefix_len])
  return patched, whole[:, prefix_len:]


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
