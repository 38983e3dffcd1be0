"""Sequences of the published families, token by token.

Written down by hand from the published layouts: words are 10 and up, code c is
24 + c, 3 is the mask. Of A: 9 stands for a dropped prompt, 5 ends a row of
codes, 6 the prompt, 7 and 8 frame the answer. Of M: 5, 6, 7 are the tasks of
editing, generation and description. Of both: 0 and 4 frame a picture, 1 begins
and 2 ends a text.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_published as published

from paradiff import sequence

CODES = np.array([1, 2, 3, 4])
STYLE = (CODES, np.array([5, 6, 7]))
FRAMED = [0, 25, 26, 5, 27, 28, 5, 4]  # CODES in rows
# Family: codes that are given, prefix of the prompt [11, 12], its valid part
# without the text, without the picture, and without either.
PREFIXES = {
  "edit_a": (
    CODES,
    [11, 12, *FRAMED, 6],
    [10, 9, *FRAMED, 6],
    [11, 12, 6],
    [10, 9, 6],
  ),
  "generate_a": (None, [11, 12, 6], [10, 9, 6], [11, 12, 6], [10, 9, 6]),
  "picture_a": (None, [11, 12, 6], [10, 9, 6], [11, 12, 6], [10, 9, 6]),
  "style_a": (
    STYLE,
    [11, 12, *FRAMED, 0, 29, 30, 31, 5, 4, 6],
    [10, 9, *FRAMED, 0, 29, 30, 31, 5, 4, 6],
    [11, 12, 6],
    [10, 9, 6],
  ),
  "describe_a": (
    CODES[:2],
    [11, 12, 0, 25, 26, 5, 4, 6],
    [10, 9, 0, 25, 26, 5, 4, 6],
    [11, 12, 6],
    [10, 9, 6],
  ),
  "edit_m": (
    CODES,
    [5, 0, 25, 26, 27, 28, 4, 1, 11, 12, 2],
    [5, 0, 25, 26, 27, 28, 4, 1, 2],
    [5, 0, 0, 0, 0, 0, 4, 1, 11, 12, 2],
    [5, 0, 0, 0, 0, 0, 4, 1, 2],
  ),
  "picture_m": (
    None,
    [6, 1, 11, 12, 2],
    [6, 1, 2],
    [6, 1, 11, 12, 2],
    [6, 1, 2],
  ),
  "text_m": (None, [1, 11, 12, 2], [1, 2], [1, 11, 12, 2], [1, 2]),
}
# Answers with everything masked, and with CODES and the words [13, 14].
_A = [7, 0, 3, 3, 5, 3, 3, 5, 4]
ANSWERS = {
  "edit_a": ([*_A, 3, 3, 3, 8], [7, *FRAMED, 13, 14, 2, 8]),
  "generate_a": ([*_A, 3, 3, 3, 8], [7, *FRAMED, 13, 14, 2, 8]),
  "picture_a": ([*_A, 8], [7, *FRAMED, 8]),
  "style_a": ([*_A, 8], [7, *FRAMED, 8]),
  "describe_a": ([7, 3, 3, 3, 8], [7, 13, 14, 2, 8]),
  "edit_m": (
    [0, 3, 3, 3, 3, 4, 1, 3, 3, 3],
    [0, 25, 26, 27, 28, 4, 1, 13, 14, 2],
  ),
  "picture_m": ([0, 3, 3, 3, 3, 4], [0, 25, 26, 27, 28, 4]),
  "text_m": ([3, 3, 3], [13, 14, 2]),
}
DROPS = [(False, False), (True, False), (False, True), (True, True)]


def _prefix(name, prompt_ids=(11, 12), layout=None):
  codes = PREFIXES[name][0]
  family, vocab = published.FAMILIES[name]
  return sequence.encode_prefix(
    layout or family, vocab, prompt_ids=prompt_ids, source_codes=codes
  )


def _condition(name, layout=None):
  return sequence.Condition(
    *(jnp.asarray(a[None]) for a in _prefix(name, layout=layout))
  )


def _kept(condition, row=0):
  """Return the tokens of a row that take part."""
  tokens = np.asarray(condition.prefix[row])
  return tokens[np.asarray(condition.valid[row])].tolist()


@pytest.mark.parametrize("name", published.FAMILIES)
def test_a_prefix_holds_exactly_the_published_tokens(name):
  prefix, valid = _prefix(name)
  assert (prefix.dtype, valid.dtype) == (np.int32, np.bool_)
  assert prefix[valid].tolist() == PREFIXES[name][1]
  # One token of padding in the prompt, of `eos`.
  assert prefix[~valid].tolist() == [2]
  assert len(prefix) == published.FAMILIES[name][0].prefix_len


@pytest.mark.parametrize("name", published.FAMILIES)
def test_an_answer_holds_exactly_the_published_tokens(name):
  layout, vocab = published.FAMILIES[name]
  masked, full = ANSWERS[name]
  assert sequence.encode_answer(layout, vocab).tolist() == masked
  got = sequence.encode_answer(
    layout,
    vocab,
    text_ids=[13, 14] if layout.text_len else None,
    codes=CODES if layout.grid else None,
  )
  assert got.dtype == np.int32
  assert got.tolist() == full
  if layout.text_len:
    assert sequence.text_of(layout, vocab, got) == [13, 14]


@pytest.mark.parametrize("name", published.FAMILIES)
@pytest.mark.parametrize(("text", "image"), DROPS)
def test_dropping_leaves_exactly_the_published_null_prefix(name, text, image):
  layout, vocab = published.FAMILIES[name]
  expected = PREFIXES[name][1 + DROPS.index((text, image))]
  condition = _condition(name)
  dropped = sequence.drop(layout, vocab, condition, text=text, image=image)
  assert dropped.prefix.shape == (
    1,
    layout.null_prefix_len(text=text, image=image),
  )
  assert _kept(dropped) == expected
  rows = sequence.drop_rows(
    layout,
    vocab,
    condition,
    text=jnp.full(1, text),
    image=jnp.full(1, image),
  )
  assert rows.prefix.shape == condition.prefix.shape
  assert _kept(rows) == expected


@pytest.mark.parametrize("name", ["edit_a", "edit_m", "text_m"])
def test_dropping_row_by_row_changes_only_the_rows_it_names(name):
  layout, vocab = published.FAMILIES[name]
  one = _condition(name)
  condition = jax.tree.map(lambda a: jnp.concatenate([a] * 4), one)
  rows = sequence.drop_rows(
    layout,
    vocab,
    condition,
    text=jnp.array([False, True, False, True]),
    image=jnp.array([False, False, True, True]),
  )
  assert [_kept(rows, i) for i in range(4)] == list(PREFIXES[name][1:])


def test_a_null_prompt_may_be_longer_than_the_prompt():
  layout = dataclasses.replace(
    published.EDIT_A, prompt_len=1, null_prompt=(10, 9, 10)
  )
  prefix, valid = _prefix("edit_a", [11], layout)
  condition = sequence.Condition(
    prefix=jnp.asarray(prefix[None]), valid=jnp.asarray(valid[None])
  )
  for image, rest in ((False, [*FRAMED, 6]), (True, [6])):
    got = sequence.drop(
      layout, published.VOCAB_A, condition, text=True, image=image
    )
    assert _kept(got) == [10, 9, 10, *rest]
    length = layout.null_prefix_len(text=True, image=image)
    assert length == len(rest) + 3 == got.prefix.shape[1]
  with pytest.raises(ValueError, match="prompt must .* 1 tokens, got 3"):
    sequence.drop_rows(
      layout,
      published.VOCAB_A,
      condition,
      text=jnp.ones(1, bool),
      image=jnp.ones(1, bool),
    )


def test_attended_padding_is_part_of_the_sequence():
  layout = dataclasses.replace(published.EDIT_M, padding="attended")
  prefix, valid = _prefix("edit_m", layout=layout)
  assert valid.all()
  assert prefix.tolist() == [*PREFIXES["edit_m"][1], 2]
  dropped = sequence.drop(
    layout,
    published.VOCAB_M,
    _condition("edit_m", layout),
    text=True,
    image=False,
  )
  assert _kept(dropped) == [5, 0, 25, 26, 27, 28, 4, 1, 2, 2, 2, 2]


def test_an_absent_picture_takes_no_part_and_zeros_do():
  absent, valid = sequence.encode_prefix(
    published.EDIT_A, published.VOCAB_A, prompt_ids=[11], source_codes=None
  )
  assert absent[valid].tolist() == [11, 6]
  zeros, valid = sequence.encode_prefix(
    published.EDIT_M, published.VOCAB_M, prompt_ids=[11], source_codes=None
  )
  assert zeros[valid].tolist() == [5, 0, 0, 0, 0, 0, 4, 1, 11, 2]


@pytest.mark.parametrize(
  ("words", "expected"),
  [
    ([13, 8, 14], [13]),  # the end of the answer
    ([2, 13, 8], []),
    ([13, 14, 15], [13, 14, 15]),
  ],
)
def test_a_text_of_a_ends_with_the_answer_or_the_text(words, expected):
  answer = np.array([7, *words, 8])
  got = sequence.text_of(published.DESCRIBE_A, published.VOCAB_A, answer)
  assert got == expected


def test_errors_name_the_parts_that_are_missing():
  layout, vocab = published.FAMILIES["style_a"]
  with pytest.raises(ValueError, match="codes of 2 input pictures, got 1"):
    sequence.encode_prefix(layout, vocab, prompt_ids=[], source_codes=CODES)
  with pytest.raises(ValueError, match=r"must have 3 codes, got .*\(4,\)"):
    sequence.encode_prefix(
      layout, vocab, prompt_ids=[], source_codes=(CODES, CODES)
    )
  with pytest.raises(ValueError, match="text_ids must be None in an answer"):
    sequence.encode_answer(layout, vocab, text_ids=[13])
  with pytest.raises(ValueError, match="codes must be None in an answer of"):
    sequence.encode_answer(published.TEXT_M, published.VOCAB_M, codes=CODES[:0])
  with pytest.raises(ValueError, match="a mark must be .* got 'newline'"):
    sequence.encode_answer(
      published.EDIT_A, dataclasses.replace(published.VOCAB_A, newline_id=None)
    )
  with pytest.raises(ValueError, match="a mark must be .* got 'generate'"):
    sequence.encode_prefix(
      published.PICTURE_M,
      published.VOCAB_A,
      prompt_ids=[],
      source_codes=None,
    )
  # Without an `eos` a prompt fills its part.
  _prefix("edit_a", [11, 12, 13])
  with pytest.raises(ValueError, match="prompt must .* 3 tokens, got 4"):
    _prefix("edit_a", [11] * 4)
  with pytest.raises(ValueError, match="prompt must .* 3 tokens, got 4"):
    _prefix("edit_m", [11] * 4)


def test_codes_without_a_place_in_the_prefix_are_refused():
  layout, vocab = published.FAMILIES["generate_a"]
  with pytest.raises(ValueError, match="source_codes must be None"):
    sequence.encode_prefix(
      layout, vocab, prompt_ids=[10], source_codes=np.zeros(4, np.int32)
    )
