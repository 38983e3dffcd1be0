"""Laws of buckets: every example once, in the smallest that is worth it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paradiff import layout as layout_lib
from paradiff import published
from paradiff import sequence
from paradiff import sharding
from paradiff import variants
from paradiff.data import buckets
from paradiff.data import pipeline
from paradiff.data import text
from paradiff.data import token_rows
from paradiff.diffusion import objective
from paradiff.models import transformer

LAYOUT = layout_lib.Layout(
  grid=(4, 4),
  prompt_len=16,
  text_len=12,
  prefix=("prompt", "source", "prompt_end"),
  answer=("answer_start", "image", "text", "answer_end"),
  source_grids=((4, 4),),
  row_ends=True,
  prompt_ends=False,
  padding="left_out",
  null_prompt=(3, 3),
)
GRIDS = ((4, 4), (2, 8))


def _measures(num=200, seed=0):
  rng = np.random.default_rng(seed)
  grids = np.asarray(GRIDS, np.int32)[rng.integers(2, size=num)]
  return {
    "instruction_len": rng.integers(1, 17, size=num).astype(np.int32),
    "reasoning_len": rng.integers(1, 12, size=num).astype(np.int32),
    "source_grid": grids,
    "target_grid": grids,
  }


def test_every_example_is_in_the_smallest_bucket_that_holds_it():
  measures = _measures()
  found = buckets.split(
    measures,
    np.arange(200),
    LAYOUT,
    lengths=buckets.Lengths(prompt=(8, 4), text=(6,)),
  )
  np.testing.assert_array_equal(
    np.sort(np.concatenate([b.kept for b in found])), np.arange(200)
  )
  assert len(found) == 2 * 3 * 2
  for bucket in found:
    layout = bucket.layout
    assert layout.sources == (layout.grid,)
    padded = 0
    for i in bucket.kept:
      prompt, words = (
        measures["instruction_len"][i],
        measures["reasoning_len"][i],
      )
      assert layout.prompt_len == min(n for n in (4, 8, 16) if n >= prompt)
      assert layout.text_len == min(n for n in (6, 12) if n >= words + 1)
      assert layout.grid == tuple(measures["target_grid"][i])
      padded += layout.prompt_len - prompt + layout.text_len - words - 1
    assert bucket.num_padded == padded


def test_a_bucket_of_few_joins_the_next_longer_one():
  measures = _measures()
  measures["instruction_len"][:] = 12
  measures["instruction_len"][:5] = 3  # too few of either grid
  [one, other] = buckets.split(
    measures,
    np.arange(200),
    LAYOUT,
    lengths=buckets.Lengths(prompt=(4, 14)),
    least=6,
  )
  assert {one.layout.grid, other.layout.grid} == set(GRIDS)
  assert one.layout.prompt_len == other.layout.prompt_len == 14
  assert len(one.kept) + len(other.kept) == 200
  # The last of each grid takes what is left, however few.
  found = buckets.split(measures, np.arange(5), LAYOUT, least=6)
  assert sum(len(bucket.kept) for bucket in found) == 5


def test_lengths_must_have_room_and_be_no_longer_than_the_models():
  for lengths, message in (
    (buckets.Lengths(prompt=(1,)), r"prompt_lens must lie in \[2, 16\]"),
    (buckets.Lengths(prompt=(17,)), r"prompt_lens must lie in \[2, 16\]"),
    (buckets.Lengths(text=(0,)), r"text_lens must lie in \[1, 12\]"),
  ):
    with pytest.raises(ValueError, match=message):
      buckets.split(_measures(), np.arange(200), LAYOUT, lengths=lengths)


def test_the_table_tells_how_much_is_padding():
  measures = _measures(4)
  measures["target_grid"][:] = (4, 4)
  measures["instruction_len"][:] = (16, 14, 16, 14)
  measures["reasoning_len"][:] = 11
  [bucket] = buckets.split(measures, np.arange(4), LAYOUT)
  row = 16 + (4 * 5 + 2) + 1 + 1 + (4 * 5 + 2) + 12 + 1
  assert bucket.row_len == row
  assert f"{4 / (4 * row):.1%} of all tokens" in buckets.table([bucket])


def test_a_row_has_the_loss_that_it_has_in_the_longest_bucket():
  words = text.TextTokenizer(text.build_word_tokenizer(("red", "star")))
  base = published.PARALLEL_A
  vocab = dataclasses.replace(
    variants.MICRO.vocab,
    newline_id=5,
    prompt_end_id=6,
    answer_start_id=3,
    answer_end_id=4,
  )
  model = dataclasses.replace(
    base,
    transformer=transformer.TransformerConfig(
      vocab_size=vocab.size, width=32, num_layers=2, num_heads=2, mlp_width=48
    ),
    vocab=vocab,
    layout=LAYOUT,
    image_tokenizer=None,
  )
  params = transformer.init(model.transformer, jax.random.key(0))
  codes = np.arange(16, dtype=np.int32)
  found = []
  for prompt_len in (16, 4):
    layout = dataclasses.replace(LAYOUT, prompt_len=prompt_len)
    prefix, valid = sequence.encode_prefix(
      layout, vocab, prompt_ids=words.encode("red star"), source_codes=codes
    )
    answer = sequence.encode_answer(
      layout, vocab, text_ids=words.encode("star"), codes=codes + 7
    )
    condition = sequence.Condition(jnp.asarray([prefix]), jnp.asarray([valid]))
    loss, _ = objective.sft_loss(
      objective.SftConfig(drop_text_rate=0.0),
      variants.model_of(model, layout),
      params,
      condition,
      jnp.asarray([answer]),
      key=jax.random.key(1),
    )
    found.append(float(loss))
  assert found[0] == pytest.approx(found[1], rel=1e-5)


def _source(first, size):
  return pipeline.ArraySource({"i": first + np.arange(size, dtype=np.int32)})


def _bucketed(**options):
  return pipeline.Batches(
    [
      [(_source(0, 12), 1.0), (_source(100, 6), 2.0)],
      [(_source(200, 5), 1.0)],
    ],
    **{"batch_size": 4, "seed": 3, "mesh": sharding.make_mesh(), **options},
  )


def test_a_batch_is_of_one_bucket_and_buckets_come_by_their_shares():
  batches, seen = _bucketed(), []
  for _ in range(40):
    rows = np.asarray(next(batches)["i"])
    seen.append((batches.bucket, rows))
    assert set(rows >= 200) == {batches.bucket == 1}
  numbers = np.array([bucket for bucket, _ in seen])
  # A share of 1 in 4, in every stretch.
  steps = np.arange(1, 41)
  assert np.abs(np.cumsum(numbers == 1) - steps / 4).max() <= 1
  second = np.concatenate([rows for bucket, rows in seen if bucket])
  np.testing.assert_array_equal(np.sort(second[:5]), 200 + np.arange(5))
  first = np.concatenate([rows for bucket, rows in seen if not bucket])
  assert np.mean(first >= 100) == pytest.approx(2 / 3, abs=0.01)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_buckets_are_a_function_of_the_position(num_workers):
  whole, parts = _bucketed(), _bucketed(num_workers=num_workers)
  try:
    expected = [(np.asarray(next(whole)["i"]), whole.bucket) for _ in range(9)]
    parts.set_state({"position": 5})
    for rows, bucket in expected[5:]:
      np.testing.assert_array_equal(np.asarray(next(parts)["i"]), rows)
      assert parts.bucket == bucket
  finally:
    whole.close()
    parts.close()


def test_pictures_of_several_grids_fit_where_a_model_reads_them():
  measures = _measures()
  measures["source_grid"] = measures["source_grid"].copy()
  measures["source_grid"][0] = measures["target_grid"][0][::-1] + 1
  kept, left_out = token_rows.fitting(measures, LAYOUT, grids=GRIDS)
  assert len(kept) == 199
  assert left_out == {"an input picture of another grid than the output": 1}
  kept, left_out = token_rows.fitting(measures, LAYOUT)
  assert "pictures of another grid than 4x4" in left_out
  is_square = (measures["target_grid"] == (4, 4)).all(axis=1)
  is_square[0] = False
  np.testing.assert_array_equal(kept, np.flatnonzero(is_square))
