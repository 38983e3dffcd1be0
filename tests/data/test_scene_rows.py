"""Laws of the token rows of the scenes world."""

import numpy as np

from paradiff import sequence as sequence_lib
from paradiff import variants
from paradiff.data import pipeline
from paradiff.data import scene_rows
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

  rows = scene_rows.make(
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
