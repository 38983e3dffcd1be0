"""Laws of token rows and of the file that keeps them."""

import numpy as np
import pytest

from paradiff import sequence as sequence_lib
from paradiff import variants
from paradiff.data import pipeline
from paradiff.data import pretokenize
from paradiff.data import text
from paradiff.scenes import grammar
from paradiff.scenes import render

MICRO = variants.MICRO


def _codes(pictures):
  # A stand-in code: the brightness of each cell.
  cells = pictures.reshape(len(pictures), 4, 16, 4, 16, 3)
  grid = cells.mean(axis=(2, 4, 5)).reshape(len(pictures), 16)
  return grid.astype(np.int32) % MICRO.vocab.codebook_size


def test_rows_read_back_as_their_examples():
  tokenizer = text.build_word_tokenizer(grammar.WORDS)
  tokenizer = text.TextTokenizer(tokenizer)
  source = pipeline.ScenesSource(seed=0, size=11)
  calls, seen = [], []

  def encode(pictures):
    calls.append(pictures.shape)
    return _codes(pictures)

  rows = pretokenize.scene_rows(
    source,
    layout=MICRO.layout,
    vocab=MICRO.vocab,
    text_tokenizer=tokenizer,
    encode_pictures=encode,
    batch_size=4,
    on_progress=lambda done, total: seen.append((done, total)),
  )
  assert set(calls) == {(8, 64, 64, 3)}  # one shape, one compilation
  assert seen == [(4, 11), (8, 11), (11, 11)]
  assert {k: (v.shape[0], v.dtype) for k, v in rows.items()} == {
    "prefix": (11, np.int32),
    "prefix_valid": (11, np.bool_),
    "answer": (11, np.int32),
  }
  kinds = set()
  for i in range(11):
    example = source[i]
    kinds.add(example.kind)
    target = _codes(render.render(example.target)[None])[0]
    expected = sequence_lib.encode_answer(
      MICRO.layout,
      MICRO.vocab,
      text_ids=tokenizer.encode(example.reasoning),
      codes=target,
    )
    np.testing.assert_array_equal(rows["answer"][i], expected)
    has_picture = rows["prefix_valid"][i][MICRO.layout.source_span].all()
    assert has_picture == (example.source is not None)
    if example.source is not None:
      codes = _codes(render.render(example.source)[None])[0]
      span = MICRO.layout.source_span
      got = rows["prefix"][i][span][1:-1] - MICRO.vocab.code_offset
      np.testing.assert_array_equal(got, codes)
  assert kinds == {"edit", "generate"}


def test_rows_are_made_once(tmp_path):
  made = []

  def make():
    made.append(1)
    return {"a": np.arange(5)}

  for _ in range(3):
    got = pretokenize.cached(tmp_path / "cache", "key", make)
    np.testing.assert_array_equal(got["a"], np.arange(5))
  assert len(made) == 1
  pretokenize.cached(tmp_path / "cache", "other", make)
  assert len(made) == 2
  names = {p.name for p in (tmp_path / "cache").iterdir()}
  assert names == {"key.npz", "other.npz"}


def test_a_damaged_file_is_named(tmp_path):
  make = lambda: {"a": np.arange(5)}  # noqa: E731
  pretokenize.cached(tmp_path, "key", make)
  path = tmp_path / "key.npz"
  path.write_bytes(path.read_bytes()[:50])
  with pytest.raises(ValueError, match=r"key\.npz must be a complete"):
    pretokenize.cached(tmp_path, "key", make)


def test_digest_depends_on_every_part():
  weights = {"w": np.arange(4.0)}
  base = pretokenize.digest({"seed": 1}, weights, b"x")
  assert base == pretokenize.digest({"seed": 1}, weights, b"x")
  assert len(base) == 16
  others = {
    pretokenize.digest({"seed": 2}, weights, b"x"),
    pretokenize.digest({"seed": 1}, {"w": np.arange(4.0) + 1}, b"x"),
    pretokenize.digest({"seed": 1}, {"v": np.arange(4.0)}, b"x"),
    pretokenize.digest({"seed": 1}, {"w": np.arange(4)}, b"x"),
    pretokenize.digest({"seed": 1}, weights, b"y"),
  }
  assert base not in others
  assert len(others) == 5
