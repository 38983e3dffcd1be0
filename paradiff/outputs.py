"""From finished or unfinished tokens to words and pictures."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from paradiff import layout as layout_lib
from paradiff import sequence
from paradiff import variants
from paradiff.data import text as text_lib
from paradiff.diffusion import trajectory
from paradiff.models import image_tokenizer

_BLANK_GREY = 251  # where nothing is proposed yet
Decode = Callable[[np.ndarray, layout_lib.Grid], np.ndarray]


@functools.partial(jax.jit, static_argnums=(0, 3))
def to_pictures(
  config: image_tokenizer.ImageTokenizerConfig,
  params: Any,
  codes: Any,
  grid: layout_lib.Grid,
) -> jax.Array:
  """Decode codes int32[B, N] of a grid to pictures uint8[B, H, W, 3]."""
  floats = image_tokenizer.decode(config, params, codes, grid=grid)
  return image_tokenizer.to_uint8(config, floats)


@dataclasses.dataclass(frozen=True)
class Output:
  """What the model made of one request.

  Attributes:
    text: the reasoning or answer, up to its end; empty where none was asked.
    picture: uint8[H, W, 3]; None where none was asked.
  """

  text: str
  picture: Any


@dataclasses.dataclass(frozen=True)
class Canvas:
  """One request while it is denoised.

  Attributes:
    step: steps done, in [0, num_steps].
    num_steps: S.
    words: the text position by position up to the first committed end of
      text; None where masked.
    picture: uint8[H, W, 3], with the current proposal where masked; None
      where none was asked.
    masked: bool[h, w], which picture tokens are not yet committed; None
      without a picture.
    has_own_spaces: whether words bring the spaces between them.
  """

  step: int
  num_steps: int
  words: tuple[str | None, ...]
  picture: Any
  masked: Any
  has_own_spaces: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
  """What answers are read with.

  Attributes:
    variant: the model as data.
    text_tokenizer: ids to words.
    decode: codes int32[B, N] and their grid to pictures uint8[B, H, W, 3].
  """

  variant: variants.Variant
  text_tokenizer: text_lib.TextTokenizer
  decode: Decode

  def outputs(
    self, tokens: np.ndarray, layout: layout_lib.Layout
  ) -> list[Output]:
    """Turn answers int32[B, A] into texts and pictures.

    Text that stayed masked, or that is no text, is left out.
    """
    pictures: Sequence[Any] = [None] * len(tokens)
    if layout.grid is not None:
      codes = self._codes(tokens, layout)
      pictures = list(self.decode(codes, layout.grid))
    return [
      Output(text=text, picture=picture)
      for text, picture in zip(
        self.texts(tokens, layout), pictures, strict=True
      )
    ]

  def texts(self, tokens: np.ndarray, layout: layout_lib.Layout) -> list[str]:
    """Return the texts of finished or unfinished answers int32[B, A].

    What is still masked, or is no text, is left out.
    """
    vocab, texts = self.variant.vocab, []
    for answer in tokens:
      ids = sequence.text_of(layout, vocab, answer)
      known = [i for i in ids if i < vocab.text_size and i != vocab.mask_id]
      texts.append(self.text_tokenizer.decode(known))
    return texts

  def pictures(
    self, predicted: np.ndarray, layout: layout_lib.Layout
  ) -> np.ndarray:
    """Return pictures uint8[B, H, W, 3] of predicted answers int32[B, A].

    Where nothing is proposed yet they are blank.
    """
    if layout.grid is None:
      raise ValueError(f"an answer must have a picture, got {layout.answer}")
    pictures = self.decode(self._codes(predicted, layout), layout.grid)
    is_blank = predicted[:, layout.image_index] == self.variant.vocab.mask_id
    cell = np.ones((1, *(self.variant.pictures.factor,) * 2), np.bool_)
    blank = np.kron(is_blank.reshape(-1, *layout.grid), cell)[..., None]
    return np.where(blank, np.uint8(_BLANK_GREY), pictures)

  def _codes(self, tokens: np.ndarray, layout: layout_lib.Layout) -> np.ndarray:
    """Return codes of answers int32[B, A]; code 0 where still masked."""
    codes = self.variant.vocab.token_to_code(tokens[:, layout.image_index])
    return np.clip(codes, 0, self.variant.vocab.codebook_size - 1)

  def canvas(
    self,
    state: trajectory.State,
    layout: layout_lib.Layout,
    *,
    step: int,
    num_steps: int,
  ) -> Canvas:
    """Read the first row of a run back to the host."""
    vocab = self.variant.vocab
    tokens, predicted = np.asarray(state.tokens), np.asarray(state.predicted)
    # What is no text leaves no trace, as an end of text does.
    ids = [
      i if i < vocab.text_size else vocab.eos_id
      for i in sequence.text_of(layout, vocab, tokens[0])
    ]
    canvas = Canvas(
      step,
      num_steps,
      self.text_tokenizer.pieces(
        [None if i == vocab.mask_id else i for i in ids]
      ),
      picture=None,
      masked=None,
      has_own_spaces=self.text_tokenizer.has_own_spaces,
    )
    if layout.grid is None:
      return canvas
    masked = tokens[0, layout.image_index] == vocab.mask_id
    return dataclasses.replace(
      canvas,
      picture=self.pictures(predicted, layout)[0],
      masked=masked.reshape(layout.grid),
    )
