"""Laws of tokens as pieces of text."""

import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

from paradiff import flow
from paradiff.data import text
from paradiff.scenes import grammar

ASCII = "Make the sky red.\n\n1. It's the sky, e.g. (above):  then  leave it!"
OTHERS = "größer → 赤い空 😀."


@pytest.fixture(scope="module")
def in_bytes():
  """A byte-level tokenizer, of a vocabulary as small as its sentences."""
  backend = tokenizers.Tokenizer(models.BPE())
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=290,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    special_tokens=["<|endoftext|>"],
    show_progress=False,
  )
  backend.train_from_iterator([ASCII], trainer)
  return text.TextTokenizer(
    transformers.PreTrainedTokenizerFast(
      tokenizer_object=backend, eos_token="<|endoftext|>"
    )
  )


@pytest.fixture(scope="module")
def in_words():
  return text.TextTokenizer(text.build_word_tokenizer(grammar.WORDS))


def test_a_tokenizer_knows_whether_its_tokens_bring_spaces(in_bytes, in_words):
  assert in_bytes.has_own_spaces
  assert not in_words.has_own_spaces


@pytest.mark.parametrize("words", [ASCII, OTHERS, " ", "a", "é"])
def test_pieces_of_a_text_join_to_it(in_bytes, words):
  pieces = in_bytes.pieces(in_bytes.encode(words + "."))
  assert flow.joined(pieces, has_own_spaces=True) == words + "."


def test_pieces_of_any_ids_join_to_what_decode_makes_of_them(in_bytes):
  rng = np.random.default_rng(0)
  has_broken = 0
  for _ in range(300):
    ids = rng.integers(0, len(in_bytes), rng.integers(0, 12)).tolist()
    decoded = in_bytes.decode(ids)
    assert "".join(in_bytes.pieces(ids)) == decoded
    assert len(in_bytes.pieces(ids)) == len(ids)
    has_broken += "\N{REPLACEMENT CHARACTER}" in decoded
  assert has_broken > 50


def test_a_character_is_the_piece_of_its_last_token(in_bytes):
  ids = in_bytes.encode("赤a")
  assert in_bytes.pieces(ids) == ("", "", "赤", "a")
  # Half a character beside a mask is not shown.
  assert in_bytes.pieces([*ids[:2], None, ids[3]]) == ("", "", None, "a")
  assert in_bytes.pieces([None, *ids[1:]]) == (None, "", "", "a")
  assert in_bytes.pieces(ids[:2]) == ("", "\N{REPLACEMENT CHARACTER}")


def test_words_join_to_what_their_tokenizer_decodes(in_words):
  rng = np.random.default_rng(0)
  known = sorted(in_words.ids.values())
  for _ in range(200):
    ids = rng.integers(len(known), len(in_words), 12).tolist()
    pieces = in_words.pieces(ids)
    assert flow.joined(pieces) == in_words.decode(ids)
    assert in_words.pieces([None, ids[0]]) == (None, pieces[0])
