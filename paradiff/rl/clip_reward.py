"""The reward of ParaRL: does the picture of a step go with its text?

arXiv 2511.09611, equation 4: c = CLIP(text(tau(t)), image(tau(t))), the cosine
of the embeddings of what stands there after step t. The text is what has been
committed, the picture what is predicted of the clean one.

The paper does not say what becomes of a text that is longer than the tower
reads. Worked example, for a tower of three words: of "a b c d e", "truncate"
scores "a b c", "chunk_mean" gives the mean of the scores of "a b c" and "d e",
and of "a b. c. d." "last_sentences" scores "c. d." (a full stop being part of
its word here).
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from paradiff.models import clip
from paradiff.models import clip_config
from paradiff.models import clip_pictures
from paradiff.rl import reward

TEXT_MODES = ("truncate", "chunk_mean", "last_sentences", "instruction")
Ids = tuple[int, ...]

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclasses.dataclass(frozen=True)
class Options:
  """What of a rollout is scored, and how.

  Attributes:
    text_view: "committed", as published, or "predicted", with the proposals
      for what is still masked.
    text_mode: "truncate" cuts a text where the tower ends, as CLIP is
      published; "chunk_mean" gives the mean of the scores of consecutive
      pieces of that length; "last_sentences" reads as many of the last
      sentences as fit, of a longer last one its end; "instruction" reads the
      prompt instead of the text, cut likewise.
    batch_size: texts, or pictures, that one run of a tower takes.

  Raises:
    ValueError: if an option is unknown or the batch empty.
  """

  text_view: str = "committed"
  text_mode: str = "truncate"
  batch_size: int = 32

  def __post_init__(self) -> None:
    for name, allowed in (
      ("text_view", reward.TEXT_VIEWS),
      ("text_mode", TEXT_MODES),
    ):
      value = getattr(self, name)
      if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
    if self.batch_size < 1:
      raise ValueError(f"batch_size must be positive, got {self.batch_size=}")


DEFAULTS = Options()


@functools.partial(jax.jit, static_argnames="config")
def _text_embeds(
  config: clip_config.ClipConfig, params: Any, ids: jax.Array, mask: jax.Array
) -> jax.Array:
  return clip.text_embeds(config, params, ids, attention_mask=mask)


@functools.partial(jax.jit, static_argnames="config")
def _image_embeds(
  config: clip_config.ClipConfig, params: Any, pictures: jax.Array
) -> jax.Array:
  pixels = clip_pictures.preprocess(pictures, size=config.image_size)
  return clip.image_embeds(config, params, pixels)


@dataclasses.dataclass(frozen=True, eq=False)
class ClipReward:
  """The cosine of text and picture, for every rollout at every point.

  A text without words is scored as what CLIP makes of an empty text, start
  and end alone: early points differ by their pictures then. Equal texts and
  equal pictures go through a tower once.

  Attributes:
    config: the sizes of the CLIP.
    params: its parameters.
    encode: a text to CLIP's ids, any number of them, without start and end
      and without special ones.
    start_id: stands before a text.
    end_id: stands behind it.
    options: what is scored, and how.

  Raises:
    ValueError: if `end_id` does not end a text for this CLIP, or the tower
      has no room for a word.
  """

  config: clip_config.ClipConfig
  params: Any
  encode: Callable[[str], Sequence[int]]
  start_id: int
  end_id: int
  options: Options = DEFAULTS

  def __post_init__(self) -> None:
    legacy = self.config.eos_id == clip_config.LEGACY_EOS_ID
    if not legacy and self.end_id != self.config.eos_id:
      raise ValueError(
        f"end_id must be the config's {self.config.eos_id}, got {self.end_id}"
      )
    for name in ("start_id", "end_id"):
      self._check(name, [getattr(self, name)])
    if self.config.max_text_len < 3:
      raise ValueError(
        "max_text_len must be at least 3, for start, word and end, got "
        f"{self.config.max_text_len}"
      )

  def __call__(self, context: reward.Context, /) -> np.ndarray:
    """Return the cosines float32[B, R], in [-1, 1].

    Args:
      context: B rollouts at R points each.
    """
    pieces = [
      [self._pieces(words) for words in row] for row in self._texts(context)
    ]
    flat = [piece for row in pieces for cell in row for piece in cell]
    texts = dict(zip(flat, self._embed_texts(flat), strict=True))
    # The mean of cosines with one picture is the cosine's with the mean.
    text = np.stack(
      [
        np.stack([np.mean([texts[p] for p in cell], axis=0) for cell in row])
        for row in pieces
      ]
    )
    image = self._embed_pictures(context.pictures)
    return np.einsum("brp,brp->br", text, image).astype(np.float32)

  def _texts(self, context: reward.Context) -> Iterable[Sequence[str]]:
    """Return the texts to score, B rows of R."""
    if self.options.text_mode == "instruction":
      return [(prompt,) * len(context.steps) for prompt in context.prompts]
    return context.viewed(self.options.text_view)

  def _pieces(self, words: str) -> list[Ids]:
    """Return the ids of the one or more pieces that a text is read in."""
    room = self.config.max_text_len - 2
    if self.options.text_mode == "last_sentences":
      return [self._last_sentences(words, room)]
    ids = self._encode(words)
    if self.options.text_mode == "chunk_mean" and ids:
      return [ids[i : i + room] for i in range(0, len(ids), room)]
    return [ids[:room]]

  def _last_sentences(self, words: str, room: int) -> Ids:
    """Return the ids of as many of the last sentences as there is room for."""
    sentences = _SENTENCE_END.split(words.strip())
    kept = self._encode(sentences[-1])[-room:]
    for first in range(len(sentences) - 2, -1, -1):
      longer = self._encode(" ".join(sentences[first:]))
      if len(longer) > room:
        break
      kept = longer
    return kept

  def _encode(self, words: str) -> Ids:
    ids = tuple(int(i) for i in self.encode(words))
    self._check("ids of a text", ids)
    return ids

  def _check(self, what: str, ids: Iterable[int]) -> None:
    wrong = [i for i in ids if not 0 <= i < self.config.vocab_size]
    if wrong:  # they would be read as another word without a sound
      raise ValueError(
        f"{what} must be in [0, {self.config.vocab_size}), got {wrong}"
      )

  def _embed_texts(self, pieces: Sequence[Ids]) -> np.ndarray:
    """Return float32[len(pieces), P]; each distinct piece is read once."""
    places: dict[Ids, int] = {}
    index = [places.setdefault(piece, len(places)) for piece in pieces]
    ids = np.full((len(places), self.config.max_text_len), self.end_id)
    lengths = np.array([len(piece) + 2 for piece in places])
    ids[:, 0] = self.start_id
    for row, piece in zip(ids, places, strict=True):
      row[1 : len(piece) + 1] = piece
    mask = np.arange(ids.shape[1])[None] < lengths[:, None]
    return self._batched(_text_embeds, ids.astype(np.int32), mask)[index]

  def _embed_pictures(self, pictures: np.ndarray) -> np.ndarray:
    """Return float32[B, R, P]; each distinct picture is looked at once."""
    flat = pictures.reshape(-1, *pictures.shape[2:])
    firsts, index = reward.distinct(flat)
    embeds = self._batched(_image_embeds, flat[firsts])[index]
    return embeds.reshape(*pictures.shape[:2], -1)

  def _batched(self, tower: Any, *arrays: np.ndarray) -> np.ndarray:
    """Run a tower over rows, in one program: the last batch is filled up."""
    num_rows, size = len(arrays[0]), self.options.batch_size
    embeds = []
    for start in range(0, num_rows, size):
      parts = [array[start : start + size] for array in arrays]
      filled = [
        np.pad(p, [(0, size - len(p)), *[(0, 0)] * (p.ndim - 1)], mode="edge")
        for p in parts
      ]
      found = jax.device_get(tower(self.config, self.params, *filled))
      embeds.append(found[: len(parts[0])])
    return np.concatenate(embeds)
