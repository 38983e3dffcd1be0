"""Examples of words and codes to what the loss reads.

A row is prefix int32[P], prefix_valid bool[P] and answer int32[A].
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from paradiff import layout as layout_lib
from paradiff import sequence as sequence_lib
from paradiff import vocab as vocab_lib
from paradiff.data import coded as coded_lib
from paradiff.data import text as text_lib

PLAIN = "{prompt}"  # the instruction and nothing around it
UNKNOWN = -1  # in place of a length: words that the tokenizer lacks


def make(
  example: coded_lib.Coded,
  *,
  layout: layout_lib.Layout,
  vocab: vocab_lib.Vocab,
  text_tokenizer: text_lib.TextTokenizer,
  words: str = PLAIN,
) -> dict[str, np.ndarray]:
  """Return the token row of an example.

  Args:
    example: words and codes.
    layout: the sizes.
    vocab: the ids.
    text_tokenizer: words to ids.
    words: around the instruction, as in `tasks.Task.prompt`.

  Raises:
    ValueError: if a text is too long or has words that the tokenizer lacks, or
      the codes do not fit.
  """
  source, target = (
    None if codes is None else _raster(codes, layout)
    for codes in (example.source, example.target)
  )
  prefix, valid = sequence_lib.encode_prefix(
    layout,
    vocab,
    prompt_ids=text_tokenizer.encode_between(words, example.instruction),
    source_codes=source,
  )
  answer = sequence_lib.encode_answer(
    layout,
    vocab,
    text_ids=text_tokenizer.encode(example.reasoning),
    codes=target,
  )
  return {"prefix": prefix, "prefix_valid": valid, "answer": answer}


def _raster(codes: np.ndarray, layout: layout_lib.Layout) -> np.ndarray:
  if codes.shape != layout.grid:
    raise ValueError(
      f"codes must be of the layout's grid {layout.grid}, got {codes.shape}"
    )
  return codes.reshape(-1)


def measure(
  source: coded_lib.CodedSource,
  text_tokenizer: text_lib.TextTokenizer,
  *,
  words: str = PLAIN,
  on_progress: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
  """Return what decides whether an example fits a layout.

  Args:
    source: M examples.
    text_tokenizer: words to ids.
    words: around the instruction.
    on_progress: called with the number of examples done.

  Returns:
    instruction_len and reasoning_len int32[M] in tokens, `UNKNOWN` for words
    that the tokenizer lacks; source_grid and target_grid int32[M, 2], 0 x 0
    without an input picture.
  """
  lengths = np.full((len(source), 2), UNKNOWN, np.int32)
  grids = np.zeros((len(source), 2, 2), np.int32)
  for index in range(len(source)):
    example = source[index]
    texts = ((words, example.instruction), (PLAIN, example.reasoning))
    for column, (around, text) in enumerate(texts):
      try:
        ids = text_tokenizer.encode_between(around, text)
        lengths[index, column] = len(ids)
      except ValueError:
        continue
    grids[index, 1] = example.target.shape
    if example.source is not None:
      grids[index, 0] = example.source.shape
    if on_progress is not None:
      on_progress(index + 1)
  return {
    "instruction_len": lengths[:, 0],
    "reasoning_len": lengths[:, 1],
    "source_grid": grids[:, 0],
    "target_grid": grids[:, 1],
  }


def fitting(
  measures: Mapping[str, np.ndarray],
  layout: layout_lib.Layout,
  *,
  grids: Sequence[layout_lib.Grid] | None = None,
  is_edit: bool = False,
) -> tuple[np.ndarray, dict[str, int]]:
  """Return which examples a layout has room for, and why not the others.

  Args:
    measures: as `measure` gives them.
    layout: the sizes.
    grids: of pictures that the model can have; default: the layout's.
    is_edit: whether those without an input picture are left out.

  Returns:
    int64[n], their numbers in order, and how many are left out by reason.
  """
  prompt, text = measures["instruction_len"], measures["reasoning_len"]
  legal = np.asarray([layout.grid or (0, 0)] if grids is None else grids)
  sources, targets = measures["source_grid"], measures["target_grid"]
  is_legal = (targets[:, None] == legal).all(axis=2).any(axis=1)
  names = " or ".join(f"{rows}x{columns}" for rows, columns in legal[:3])
  others = f" or {len(legal) - 3} more" * (len(legal) > 3)
  wrong = {
    "words that the tokenizer lacks": (prompt < 0) | (text < 0),
    f"an instruction of more than {layout.prompt_len - layout.prompt_ends} "
    f"tokens (the longest has {prompt.max()})": (
      prompt + layout.prompt_ends > layout.prompt_len
    ),
    f"a reasoning of more than {layout.text_len - 1} tokens (the longest has "
    f"{text.max()})": text + 1 > layout.text_len,
    f"pictures of another grid than {names}{others}": ~is_legal,
    "an input picture of another grid than the output": (
      (sources != targets) & (sources != 0)
    ).any(axis=1),
  }
  if is_edit:
    wrong["no input picture"] = (sources == 0).any(axis=1)
  left = np.ones(len(prompt), bool)
  counts = {}
  for reason, rows in wrong.items():
    counts[reason] = int((rows & left).sum())
    left &= ~rows
  return np.flatnonzero(left), {k: n for k, n in counts.items() if n}


@dataclasses.dataclass(frozen=True, eq=False)
class TokenRows:
  """Token rows by number, made as they are asked for.

  Attributes:
    source: the examples.
    kept: int64[n], the numbers of those that are used.
    layout: the sizes.
    vocab: the ids.
    text_tokenizer: words to ids.
    words: around the instruction.
  """

  source: coded_lib.CodedSource
  kept: np.ndarray
  layout: layout_lib.Layout
  vocab: vocab_lib.Vocab
  text_tokenizer: text_lib.TextTokenizer
  words: str = PLAIN

  def __len__(self) -> int:
    return len(self.kept)

  def __getitem__(self, index: Any, /) -> dict[str, np.ndarray]:
    """Return row `index` in [0, len)."""
    return make(
      self.source[self.kept[index]],
      layout=self.layout,
      vocab=self.vocab,
      text_tokenizer=self.text_tokenizer,
      words=self.words,
    )
