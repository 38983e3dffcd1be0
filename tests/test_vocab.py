import dataclasses

import numpy as np
import pytest
import toy

from paradiff import vocab as vocab_lib

BASE = dataclasses.asdict(toy.VOCAB)


def test_vocab_columns_hand_worked():
  assert toy.VOCAB.text_columns == (0, 22)
  assert toy.VOCAB.code_columns == (24, 40)


def test_vocab_codes_round_trip_and_fill_the_code_columns():
  codes = np.arange(16)
  tokens = toy.VOCAB.code_to_token(codes)
  assert (tokens[0], tokens[-1]) == (24, 39)
  np.testing.assert_array_equal(toy.VOCAB.token_to_code(tokens), codes)


def test_vocab_suppresses_every_special_id_but_eos():
  assert toy.VOCAB.suppressed_text_ids == (0, 1, 3, 4, 5, 6)
  assert toy.VOCAB.eos_id not in toy.VOCAB.suppressed_text_ids
  assert set(toy.VOCAB.special_ids) == {
    "mask_id",
    "bos_id",
    "eos_id",
    "soi_id",
    "eoi_id",
    "edit_id",
    "generate_id",
  }


@pytest.mark.parametrize(
  "change",
  [
    {"text_size": 25},
    {"size": 39},
    {"text_size": 0},
    {"codebook_size": -1},
    {"mask_id": 22},
    {"eos_id": -1},
  ],
)
def test_vocab_refuses_ranges_that_do_not_fit(change):
  with pytest.raises(ValueError, match="must"):
    vocab_lib.Vocab(**{**BASE, **change})


@pytest.mark.parametrize("name", ["mask_id", "eos_id"])
def test_vocab_refuses_a_mask_or_end_that_means_something_else(name):
  with pytest.raises(ValueError, match="mask_id and eos_id must differ"):
    vocab_lib.Vocab(**{**BASE, name: BASE["edit_id"]})
