"""A model as the sampler and the losses see it: callables and static facts."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from paradiff import layout as layout_lib
from paradiff import places as places_lib
from paradiff import sequence as sequence_lib
from paradiff import vocab as vocab_lib


class Head(Protocol):
  """Maps hidden float[..., D] to logits float32[..., stop - start]."""

  def __call__(
    self, params: Any, hidden: jax.Array, *, columns: tuple[int, int]
  ) -> jax.Array:
    """Return the logits of token ids [start, stop)."""


@dataclasses.dataclass(frozen=True)
class Denoiser:
  """A network in two functions.

  Attributes:
    trunk: (params, tokens int32[B, L], valid bool[B, L], places int32[L, 2]
      or None) -> float[B, L, D].
    head: (params, hidden, columns=(start, stop)) -> float32 logits.
  """

  trunk: Callable[[Any, jax.Array, jax.Array, np.ndarray | None], jax.Array]
  head: Head


@dataclasses.dataclass(frozen=True)
class Model:
  """Everything static about a model; hashable, so a static argument of jit.

  Attributes:
    layout: where things stand in a sequence.
    vocab: the ids.
    denoiser: the network.
  """

  layout: layout_lib.Layout
  vocab: vocab_lib.Vocab
  denoiser: Denoiser

  def answer_hidden(
    self, params: Any, condition: sequence_lib.Condition, answer: jax.Array
  ) -> jax.Array:
    """Run the trunk over prefix and answer; keep the answer's part.

    Args:
      params: the network's parameters.
      condition: prefix int32[B, P], or what `sequence.drop` leaves of it.
      answer: int32[B, A].

    Returns:
      float[B, A, D].

    Raises:
      ValueError: if a length is not the layout's.
    """
    layout, prefix_len = self.layout, condition.prefix.shape[1]
    lengths = {
      layout.null_prefix_len(text=text, image=image)
      for text in (False, True)
      for image in (False, True)
    }
    if answer.shape[1] != layout.answer_len or prefix_len not in lengths:
      raise ValueError(
        f"an answer must have {layout.answer_len} tokens and a prefix "
        f"{layout.prefix_len}, or as many as are left without prompt or "
        f"picture, {sorted(lengths)}, got {answer.shape[1]} and {prefix_len}"
      )
    here = jnp.ones(answer.shape, jnp.bool_)
    tokens = jnp.concatenate([condition.prefix, answer], axis=1)
    valid = jnp.concatenate([condition.valid, here], axis=1)
    places = places_lib.points(layout)
    if places is not None and prefix_len != layout.prefix_len:
      kept = layout.columns_without_source
      places = np.r_[places[kept], places[layout.prefix_len :]]
    hidden = self.denoiser.trunk(params, tokens, valid, places)
    return hidden[:, prefix_len:]
