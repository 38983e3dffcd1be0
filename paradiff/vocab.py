"""One vocabulary for text and picture: id ranges and special ids.

Text tokens come first, [0, text_size); picture code c is token
`code_offset + c`. Rows between and behind the two ranges are padding.
"""

import dataclasses
from typing import TypeVar

import jax
import numpy as np

Ids = TypeVar("Ids", jax.Array, np.ndarray)


@dataclasses.dataclass(frozen=True)
class Vocab:
  """The ids a model speaks.

  Attributes:
    size: rows of the embedding and of the head.
    text_size: length of the text tokenizer, special ids included.
    code_offset: token id of picture code 0, at least `text_size`.
    codebook_size: number of picture codes.
    mask_id: the mask token of both modalities.
    bos_id: begins a text.
    eos_id: ends a text and pads it.
    soi_id: begins a picture.
    eoi_id: ends a picture.
    edit_id: task token of editing.
    generate_id: task token of text-to-picture generation.
    describe_id: task token of questions about a picture.
    reason_id: task token of a picture from written reasoning.
    newline_id: ends a row of picture codes.
    prompt_end_id: ends the prompt, behind its pictures.
    answer_start_id: begins an answer.
    answer_end_id: ends an answer.
    turn_end_id: ends what one side says in a chat.
    null_id: stands for a prompt that is left out.

  Of the tokens behind `eos_id` a model has those of its sequences; the others
  are None.

  Raises:
    ValueError: if the ranges overlap, overrun `size`, a special id is not a
      text id, or another one equals `mask_id` or `eos_id`.
  """

  size: int
  text_size: int
  code_offset: int
  codebook_size: int
  mask_id: int
  bos_id: int
  eos_id: int
  soi_id: int | None = None
  eoi_id: int | None = None
  edit_id: int | None = None
  generate_id: int | None = None
  describe_id: int | None = None
  reason_id: int | None = None
  newline_id: int | None = None
  prompt_end_id: int | None = None
  answer_start_id: int | None = None
  answer_end_id: int | None = None
  turn_end_id: int | None = None
  null_id: int | None = None

  def __post_init__(self) -> None:
    end = self.code_offset + self.codebook_size
    if not 0 < self.text_size <= self.code_offset <= end <= self.size:
      raise ValueError(
        "vocabulary must satisfy 0 < text_size <= code_offset and "
        f"code_offset + codebook_size <= size, got {self}"
      )
    for name, value in self.special_ids.items():
      if not 0 <= value < self.text_size:
        raise ValueError(f"{name} must be a text id, got {value} in {self}")
    ids = list(self.special_ids.values())
    if ids.count(self.mask_id) > 1 or ids.count(self.eos_id) > 1:
      raise ValueError(
        f"mask_id and eos_id must differ from all special ids, got {self}"
      )

  @property
  def special_ids(self) -> dict[str, int]:
    """The special ids that the model has, by field name."""
    ids = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name.endswith("_id")
    }
    return {name: value for name, value in ids.items() if value is not None}

  @property
  def text_columns(self) -> tuple[int, int]:
    """Half-open range of token ids that text positions may take."""
    return (0, self.text_size)

  @property
  def code_columns(self) -> tuple[int, int]:
    """Half-open range of token ids that picture positions may take."""
    return (self.code_offset, self.code_offset + self.codebook_size)

  @property
  def end_ids(self) -> tuple[int, ...]:
    """Ids that end a text: `eos_id`, and the ends of answer and turn."""
    ends = (self.eos_id, self.answer_end_id, self.turn_end_id)
    return tuple(i for i in ends if i is not None)

  @property
  def suppressed_text_ids(self) -> tuple[int, ...]:
    """Text ids that an answer never holds: special ones that end no text."""
    return tuple(sorted(set(self.special_ids.values()) - set(self.end_ids)))

  def id_of(self, mark: str) -> int:
    """Return the id of a mark, `mark` being a field's name without `_id`.

    Raises:
      ValueError: if the model has no such mark.
    """
    value = self.special_ids.get(f"{mark}_id")
    if value is None:
      raise ValueError(
        f"a mark must be one of {sorted(self.special_ids)} without _id, got "
        f"{mark!r}"
      )
    return value

  def code_to_token(self, codes: Ids) -> Ids:
    """Map picture codes to token ids."""
    return codes + self.code_offset

  def token_to_code(self, tokens: Ids) -> Ids:
    """Map token ids of a picture to codes."""
    return tokens - self.code_offset
