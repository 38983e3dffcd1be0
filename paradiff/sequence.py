"""Prefixes and answers as arrays: encode them, drop parts, read them back."""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from paradiff import layout as layout_lib
from paradiff import vocab as vocab_lib

Codes = np.ndarray | Sequence[np.ndarray]


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
  ids: Sequence[int],
  *,
  length: int,
  ends: bool,
  vocab: vocab_lib.Vocab,
  what: str,
) -> tuple[list[int], np.ndarray]:
  """Return `ids` (+ eos) + padding, `length` long, and what is no padding."""
  if len(ids) + ends > length:
    raise ValueError(
      f"{what} must have at most {length - ends} tokens, got {len(ids)}"
    )
  padded = [*ids, *[vocab.eos_id] * (length - len(ids))]
  return padded, np.arange(length) < len(ids) + ends


def _prompt(
  layout: layout_lib.Layout,
  vocab: vocab_lib.Vocab,
  ids: Sequence[int],
  *,
  length: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Return a prompt int32[length] and which of its tokens take part."""
  tokens, own = _padded(
    ids, length=length, ends=layout.prompt_ends, vocab=vocab, what="a prompt"
  )
  takes_part = own | (layout.padding == "attended")
  return np.asarray(tokens, np.int32), takes_part


def _code_tokens(
  grid: layout_lib.Grid, vocab: vocab_lib.Vocab, codes: np.ndarray
) -> np.ndarray:
  codes, num_codes = np.asarray(codes), grid[0] * grid[1]
  if codes.shape != (num_codes,):
    raise ValueError(
      f"a picture must have {num_codes} codes, got {codes.shape=}"
    )
  if codes.min() < 0 or codes.max() >= vocab.codebook_size:
    raise ValueError(
      f"codes must lie in [0, {vocab.codebook_size}), got "
      f"{codes.min()} ... {codes.max()}"
    )
  return codes + vocab.code_offset


def _source(
  layout: layout_lib.Layout, vocab: vocab_lib.Vocab, codes: Codes | None
) -> np.ndarray:
  """Return the tokens of all input pictures with their marks."""
  if codes is None:
    is_absent = layout.null_source == "absent"
    fill = vocab.mask_id if is_absent else 0
    tokens = [np.full(rows * columns, fill) for rows, columns in layout.sources]
  else:
    pictures = [codes] if isinstance(codes, np.ndarray) else list(codes)
    if len(pictures) != len(layout.sources):
      raise ValueError(
        f"there must be codes of {len(layout.sources)} input pictures, got "
        f"{len(pictures)}"
      )
    tokens = [
      _code_tokens(grid, vocab, picture)
      for grid, picture in zip(layout.sources, pictures, strict=True)
    ]
  framed = [
    layout_lib.picture_tokens(layout, vocab, grid, picture)
    for grid, picture in zip(layout.sources, tokens, strict=True)
  ]
  return np.concatenate(framed)


def encode_prefix(
  layout: layout_lib.Layout,
  vocab: vocab_lib.Vocab,
  *,
  prompt_ids: Sequence[int],
  source_codes: Codes | None,
) -> tuple[np.ndarray, np.ndarray]:
  """Build one prefix on the host.

  Args:
    layout: the sizes.
    vocab: the ids.
    prompt_ids: text ids, at most `prompt_len`, one less where prompts end
      with `eos`.
    source_codes: int[codes] in [0, codebook_size) of the input picture, a
      sequence of them where there are several, or None where there is none.

  Returns:
    prefix int32[P] and prefix_valid bool[P].

  Raises:
    ValueError: if the prompt is too long, or the codes do not fit or have no
      place.
  """
  if source_codes is not None and not layout.sources:
    raise ValueError(
      f"source_codes must be None in a prefix of {layout.prefix}"
    )
  pieces = []
  for part in layout.prefix:
    if part == "prompt":
      pieces.append(
        _prompt(layout, vocab, prompt_ids, length=layout.prompt_len)
      )
      continue
    if part == "source":
      tokens = _source(layout, vocab, source_codes)
    elif part == "task":
      task = "generate" if source_codes is None else "edit"
      tokens = np.array([vocab.id_of(task)])
    else:
      tokens = np.array([vocab.id_of(part)])
    is_there = source_codes is not None or layout.null_source != "absent"
    takes_part = part != "source" or is_there
    pieces.append((tokens, np.full(len(tokens), takes_part)))
  prefix, valid = (
    np.concatenate(arrays) for arrays in zip(*pieces, strict=True)
  )
  return prefix.astype(np.int32), valid


def encode_answer(
  layout: layout_lib.Layout,
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
    ValueError: if the text is too long, the codes do not fit, or the layout
      has no part for them.
  """
  for name, given, has_part in (
    ("codes", codes, layout.grid is not None),
    ("text_ids", text_ids, layout.text_len > 0),
  ):
    if given is not None and not has_part:
      raise ValueError(f"{name} must be None in an answer of {layout.answer}")
  pieces: list[np.ndarray] = []
  for part in layout.answer:
    if part == "image" and layout.grid is not None:
      tokens = np.full(layout.image_len, vocab.mask_id)
      if codes is not None:
        tokens = _code_tokens(layout.grid, vocab, codes)
      pieces.append(
        layout_lib.picture_tokens(layout, vocab, layout.grid, tokens)
      )
    elif part == "text":
      words = [vocab.mask_id] * layout.text_len
      if text_ids is not None:
        words, _ = _padded(
          text_ids,
          length=layout.text_len,
          ends=True,
          vocab=vocab,
          what="a text",
        )
      pieces.append(np.asarray(words))
    else:
      pieces.append(np.array([vocab.id_of(part)]))
  return np.concatenate(pieces).astype(np.int32)


def text_of(
  layout: layout_lib.Layout, vocab: vocab_lib.Vocab, answer: np.ndarray
) -> list[int]:
  """Return the ids of the answer's text before its first end."""
  ids = [int(i) for i in np.asarray(answer)[layout.text_index]]
  ends = [place for place, i in enumerate(ids) if i in vocab.end_ids]
  return ids[: ends[0]] if ends else ids


def drop(
  layout: layout_lib.Layout,
  vocab: vocab_lib.Vocab,
  condition: Condition,
  *,
  text: bool,
  image: bool,
) -> Condition:
  """Return the unconditional prefix of every row: a true one, not a patch.

  Without its picture the sequence is shorter and the answer moves up, as it
  does for a prompt that never had a picture; so it is for a prompt whose
  padding is left out.

  Args:
    layout: the sizes.
    vocab: the ids.
    condition: prefix int32[B, P].
    text: put the null prompt in place of the prompt.
    image: put the null picture in place of the input pictures, or nothing.

  Returns:
    Prefix int32[B, `layout.null_prefix_len(text, image)`].
  """
  batch_size = condition.prefix.shape[0]
  cuts_image = image and layout.null_source == "absent"
  prefix, valid = condition.prefix, condition.valid
  if image and not cuts_image:
    prefix = prefix.at[:, layout.source_index].set(0)
  pieces = []
  start = 0
  for part in layout.prefix:
    stop = start + layout.part_len(part)
    if part == "prompt" and text:
      ids, own = _prompt(
        layout, vocab, layout.null_prompt, length=layout.null_prompt_len
      )
      pieces.append(
        tuple(
          jnp.broadcast_to(jnp.asarray(a)[None], (batch_size, len(a)))
          for a in (ids, own)
        )
      )
    elif not (part == "source" and cuts_image):
      pieces.append((prefix[:, start:stop], valid[:, start:stop]))
    start = stop
  prefix, valid = (
    jnp.concatenate(arrays, axis=1) for arrays in zip(*pieces, strict=True)
  )
  return Condition(prefix=prefix, valid=valid)


def drop_rows(
  layout: layout_lib.Layout,
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

  Raises:
    ValueError: if the null prompt is longer than the prompt's part.
  """
  ids, own = _prompt(
    layout, vocab, layout.null_prompt, length=layout.prompt_len
  )
  span, prefix, valid = layout.prompt_span, condition.prefix, condition.valid
  prompt = jnp.where(text[:, None], jnp.asarray(ids)[None], prefix[:, span])
  takes_part = jnp.where(text[:, None], jnp.asarray(own)[None], valid[:, span])
  prefix = prefix.at[:, span].set(prompt)
  valid = valid.at[:, span].set(takes_part)
  if layout.null_source == "zeros":
    index = layout.source_index
    codes = jnp.where(image[:, None], 0, prefix[:, index])
    return Condition(prefix=prefix.at[:, index].set(codes), valid=valid)
  span = layout.source_span
  is_there = valid[:, span] & ~image[:, None]
  return Condition(prefix=prefix, valid=valid.at[:, span].set(is_there))
