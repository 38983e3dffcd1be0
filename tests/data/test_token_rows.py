"""Laws of token rows of own data, and of what a model has no room for."""

import dataclasses

import numpy as np
import pytest

from paradiff import sequence
from paradiff import variants
from paradiff.data import coded
from paradiff.data import text
from paradiff.data import token_rows
from paradiff.scenes import grammar

MICRO = variants.MICRO
WORDS = text.TextTokenizer(text.build_word_tokenizer(grammar.WORDS))
GRID = MICRO.layout.grid


def _example(instruction="add a star.", reasoning="a red star.", grid=GRID):
  codes = np.arange(grid[0] * grid[1], dtype=np.int32).reshape(grid)
  return coded.Coded("", instruction, reasoning, codes + 1, codes)


def test_a_row_reads_back_as_its_example():
  example = _example()
  row = token_rows.make(
    example, layout=MICRO.layout, vocab=MICRO.vocab, text_tokenizer=WORDS
  )
  answer = row["answer"]
  np.testing.assert_array_equal(
    answer[MICRO.layout.image_index] - MICRO.vocab.code_offset,
    example.target.reshape(-1),
  )
  ids = sequence.text_of(MICRO.layout, MICRO.vocab, answer)
  assert WORDS.decode(ids) == "a red star."
  source = row["prefix"][MICRO.layout.source_index] - MICRO.vocab.code_offset
  np.testing.assert_array_equal(source, example.source.reshape(-1))
  assert row["prefix_valid"].all()
  without = dataclasses.replace(example, source=None)
  row = token_rows.make(
    without, layout=MICRO.layout, vocab=MICRO.vocab, text_tokenizer=WORDS
  )
  assert not row["prefix_valid"][MICRO.layout.source_span].any()


def test_what_a_model_has_no_room_for_is_counted_by_reason():
  layout = dataclasses.replace(MICRO.layout, prompt_len=5, text_len=5)
  examples = [
    _example(),
    _example(instruction="add a hippopotamus."),
    _example(instruction="add a red star ."),  # five tokens and an end
    _example(reasoning="a red star , a red star ."),
    _example(grid=(2, 8)),
    _example(instruction="a star , a star", reasoning="xylophone"),
    dataclasses.replace(_example(), source=None),
  ]
  seen = []
  measures = token_rows.measure(examples, WORDS, on_progress=seen.append)
  assert seen == [1, 2, 3, 4, 5, 6, 7]
  kept, left_out = token_rows.fitting(measures, layout)
  np.testing.assert_array_equal(kept, [0, 6])
  assert list(left_out.values()) == [2, 1, 1, 1]
  words, prompt, reasoning, grid = left_out
  assert words == "words that the tokenizer lacks"
  assert prompt == ("an instruction of more than 4 tokens (the longest has 5)")
  assert reasoning.startswith("a reasoning of more than 4 tokens")
  assert grid == "pictures of another grid than 4x4"
  rows = token_rows.TokenRows(examples, kept, layout, MICRO.vocab, WORDS)
  assert len(rows) == 2
  assert not rows[1]["prefix_valid"][layout.source_span].any()
  # What is kept can be made, what is not cannot.
  for index, example in enumerate(examples):
    arguments = dict(layout=layout, vocab=MICRO.vocab, text_tokenizer=WORDS)
    if index in kept:
      token_rows.make(example, **arguments)
    else:
      with pytest.raises(ValueError):
        token_rows.make(example, **arguments)
