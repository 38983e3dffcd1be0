"""Where prompt, input picture, output picture and text stand in a sequence.

A sequence is a prefix that is given and an answer that is denoised:

  prefix  [task] [soi] source codes [eoi] [bos] prompt [eos] padding
  answer  [soi] codes [eoi] [bos] text

which is the order of MMaDA-Parallel-M. Spans are constants of the layout and
never searched for. A prompt is padded with `eos`, which takes part, so every
position has a fixed distance to every other; a picture that is absent (no
input picture, or dropped for guidance) does not take part at all: its columns
are False in `prefix_valid`, or are cut away where all rows lack it.
"""

import dataclasses
import functools
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from paradiff import vocab as vocab_lib


@dataclasses.dataclass(frozen=True)
class Layout:
  """Static sizes of a sequence.

  Attributes:
    grid: rows and columns of picture codes, input and output alike.
    prompt_len: tokens of the prompt with its `eos` and padding.
    text_len: tokens of the answer's text with its `eos` and padding.
  """

  grid: tuple[int, int]
  prompt_len: int
  text_len: int

  def __post_init__(self) -> None:
    if min(*self.grid, self.prompt_len, self.text_len) < 1:
      raise ValueError(f"layout sizes must be positive, got {self}")

  @property
  def image_len(self) -> int:
    """Codes a picture, N."""
    return self.grid[0] * self.grid[1]

  @property
  def prefix_len(self) -> int:
    """Tokens before the answer, P."""
    return self.image_len + self.prompt_len + 4

  @property
  def answer_len(self) -> int:
    """Tokens of the answer, A."""
    return self.image_len + self.text_len + 3

  @property
  def source_span(self) -> slice:
    """Prefix columns of the input picture with its `soi` and `eoi`."""
    return slice(1, self.image_len + 3)

  @property
  def prompt_span(self) -> slice:
    """Prefix columns of the prompt with `eos` and padding."""
    return slice(self.image_len + 4, self.prefix_len)

  @functools.cached_property
  def columns_without_source(self) -> np.ndarray:
    """int32[P - N - 2]: prefix columns of a sequence without input picture."""
    span = self.source_span
    kept = np.r_[0 : span.start, span.stop : self.prefix_len]
    return kept.astype(np.int32)

  @property
  def place_grids(self) -> tuple[tuple[int, ...], ...]:
    """Grids of places: codes, prompt, text, and the four parts."""
    return (self.grid, (self.prompt_len,), (self.text_len,), (4,))

  @functools.cached_property
  def places(self) -> np.ndarray:
    """int32[P + A, 2]: where each token stands, as points of `place_grids`.

    A code stands at its point of the picture, input and output alike, a word
    at its number in its text; the second column is the part: input picture,
    prompt, output picture, text. Marks stand at their part alone.
    """
    codes = np.arange(self.image_len)
    prompt = self.image_len + np.arange(self.prompt_len)
    text = prompt[-1] + 1 + np.arange(self.text_len)
    source, asked, output, told = text[-1] + 1 + np.arange(4)
    parts = (
      ([asked], [asked]),
      ([source, *codes, source], [source] * (self.image_len + 2)),
      ([asked, *prompt], [asked] * (self.prompt_len + 1)),
      ([output, *codes, output], [output] * (self.image_len + 2)),
      ([told, *text], [told] * (self.text_len + 1)),
    )
    columns = np.concatenate([np.stack(part, axis=1) for part in parts])
    return columns.astype(np.int32)

  @functools.cached_property
  def image_index(self) -> np.ndarray:
    """int32[N]: answer columns of the picture, raster order."""
    return np.arange(1, self.image_len + 1, dtype=np.int32)

  @functools.cached_property
  def text_index(self) -> np.ndarray:
    """int32[T]: answer columns of the text."""
    start = self.image_len + 3
    return np.arange(start, self.answer_len, dtype=np.int32)


def counterparts(layout: Layout, other: Layout) -> np.ndarray:
  """Map each point of `layout.place_grids` to the one of `other` that it means.

  A code maps to the code of the other grid that shows the same part of the
  picture, the n-th word of a text to the n-th word or the last. From a 2x2
  grid to a 1x1 grid all four codes map to the one.

  Args:
    layout: sizes of the sequence.
    other: sizes of the other sequence.

  Returns:
    int32[points of all `layout.place_grids`], in the points of `other`'s.
  """
  rows, columns = (
    np.arange(own) * theirs // own
    for own, theirs in zip(layout.grid, other.grid, strict=True)
  )
  codes = rows[:, None] * other.grid[1] + columns[None, :]
  prompt = np.minimum(np.arange(layout.prompt_len), other.prompt_len - 1)
  text = np.minimum(np.arange(layout.text_len), other.text_len - 1)
  first = other.image_len + other.prompt_len
  return np.concatenate(
    [
      codes.reshape(-1),
      other.image_len + prompt,
      first + text,
      first + other.text_len + np.arange(4),
    ]
  ).astype(np.int32)


@flax.struct.dataclass
class Condition:
  """What an answer is conditioned on.

  Attributes:
    prefix: int32[B, P], token ids.
    valid: bool[B, P], which of them take part.
  """

  prefix: jax.Array
  valid: jax.Array


def _padded(
  ids: Sequence[int], *, length: int, vocab: vocab_lib.Vocab, what: str
) -> list[int]:
  """Return `ids` + eos + padding, exactly `length` long."""
  if len(ids) + 1 > length:
    raise ValueError(
      f"{what} must have at most {length - 1} tokens, got {len(ids)}"
    )
  return [*ids, *[vocab.eos_id] * (length - len(ids))]


def _code_tokens(
  layout: Layout, vocab: vocab_lib.Vocab, codes: np.ndarray
) -> np.ndarray:
  codes = np.asarray(codes)
  if codes.shape != (layout.image_len,):
    raise ValueError(
      f"a picture must have {layout.image_len} codes, got {codes.shape=}"
    )
  if codes.min() < 0 or codes.max() >= vocab.codebook_size:
    raise ValueError(
      f"codes must lie in [0, {vocab.codebook_size}), got "
      f"{codes.min()} ... {codes.max()}"
    )
  return codes + vocab.code_offset


def encode_prefix(
  layout: Layout,
  vocab: vocab_lib.Vocab,
  *,
  prompt_ids: Sequence[int],
  source_codes: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
  """Build one prefix on the host.

  Args:
    layout: the sizes.
    vocab: the ids.
    prompt_ids: text ids, at most `prompt_len - 1`.
    source_codes: int[N] in [0, codebook_size), or None to generate from text.

  Returns:
    prefix int32[P] and prefix_valid bool[P].

  Raises:
    ValueError: if the prompt is too long or the codes do not fit.
  """
  prompt = _padded(
    prompt_ids, length=layout.prompt_len, vocab=vocab, what="a prompt"
  )
  valid = np.ones(layout.prefix_len, np.bool_)
  if source_codes is None:
    task = vocab.generate_id
    picture = np.full(layout.image_len, vocab.mask_id)
    valid[layout.source_span] = False
  else:
    task = vocab.edit_id
    picture = _code_tokens(layout, vocab, source_codes)
  prefix = np.concatenate(
    [[task, vocab.soi_id], picture, [vocab.eoi_id, vocab.bos_id], prompt]
  )
  return prefix.astype(np.int32), valid


def encode_answer(
  layout: Layout,
  vocab: vocab_lib.Vocab,
  *,
  text_ids: Sequence[int] | None = None,
  codes: np.ndarray | None = None,
) -> np.ndarray:
  """Build one answer on the host: int32[A], mask tokens where not given.

  Args:
    layout: the sizes.
    vocab: the ids.
    text_ids: at most `text_len - 1` text ids, or None for masks.
    codes: int[N] in [0, codebook_size), or None for masks.

  Raises:
    ValueError: if the text is too long or the codes do not fit.
  """
  answer = np.full(layout.answer_len, vocab.mask_id, np.int32)
  answer[0] = vocab.soi_id
  answer[layout.image_len + 1] = vocab.eoi_id
  answer[layout.image_len + 2] = vocab.bos_id
  if codes is not None:
    answer[layout.image_index] = _code_tokens(layout, vocab, codes)
  if text_ids is not None:
    answer[layout.text_index] = _padded(
      text_ids, length=layout.text_len, vocab=vocab, what="a text"
    )
  return answer


def text_of(
  layout: Layout, vocab: vocab_lib.Vocab, answer: np.ndarray
) -> list[int]:
  """Return the ids of the answer's text before its first `eos`."""
  ids = [int(i) for i in np.asarray(answer)[layout.text_index]]
  return ids[: ids.index(vocab.eos_id)] if vocab.eos_id in ids else ids


def drop(
  layout: Layout,
  vocab: vocab_lib.Vocab,
  condition: Condition,
  *,
  text: bool,
  image: bool,
) -> Condition:
  """Return the unconditional prefix of every row: a true one, not a patch.

  Without its picture the sequence is shorter and the answer moves up, as it
  does for a prompt that never had a picture.

  Args:
    layout: the sizes.
    vocab: the ids.
    condition: prefix int32[B, P].
    text: leave the prompt out ([bos][eos] and padding remain).
    image: leave the input picture out.

  Returns:
    Prefix int32[B, P'] with P' = P, or P - N - 2 without the picture.
  """
  prefix, valid = condition.prefix, condition.valid
  if text:
    prefix = prefix.at[:, layout.prompt_span].set(vocab.eos_id)
  if image:
    kept = layout.columns_without_source
    prefix, valid = prefix[:, kept], valid[:, kept]
  return Condition(prefix=prefix, valid=valid)


def drop_rows(
  layout: Layout,
  vocab: vocab_lib.Vocab,
  condition: Condition,
  *,
  text: jax.Array,
  image: jax.Array,
) -> Condition:
  """Drop conditions row by row, for training; the shape stays.

  Args:
    layout: the sizes.
    vocab: the ids.
    condition: prefix int32[B, P].
    text: bool[B], rows that lose their prompt.
    image: bool[B], rows that lose their input picture.
  """
  column = np.zeros(layout.prefix_len, np.bool_)
  column[layout.prompt_span] = True
  in_prompt = text[:, None] & jnp.asarray(column)[None, :]
  column = np.zeros(layout.prefix_len, np.bool_)
  column[layout.source_span] = True
  in_image = image[:, None] & jnp.asarray(column)[None, :]
  return Condition(
    prefix=jnp.where(in_prompt, vocab.eos_id, condition.prefix),
    valid=condition.valid & ~in_image,
  )
