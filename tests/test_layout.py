import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import toy

from paradiff import layout as layout_lib
from paradiff import places as places_lib
from paradiff import sequence as sequence_lib

TINY = layout_lib.Layout(grid=(1, 2), prompt_len=3, text_len=4)
BAD_CODES = [
  np.zeros(3, np.int32),
  np.zeros((1, 2), np.int32),
  np.array([0, -1]),
  np.array([16, 0]),
]


def test_layout_spans_hand_worked():
  assert (TINY.image_len, TINY.prefix_len, TINY.answer_len) == (2, 9, 9)
  columns = np.arange(9)
  np.testing.assert_array_equal(columns[TINY.source_span], [1, 2, 3, 4])
  np.testing.assert_array_equal(columns[TINY.prompt_span], [6, 7, 8])
  np.testing.assert_array_equal(TINY.image_index, [1, 2])
  np.testing.assert_array_equal(TINY.text_index, [5, 6, 7, 8])


@pytest.mark.parametrize(
  "change", [{"grid": (0, 2)}, {"prompt_len": 0}, {"text_len": -1}], ids=str
)
def test_layout_refuses_empty_parts(change):
  with pytest.raises(ValueError, match="layout sizes must be positive"):
    dataclasses.replace(TINY, **change)


def test_places_hand_worked():
  assert places_lib.grids(TINY) == ((1, 2), (3,), (4,), (4,))
  #           codes 0-1, prompt 2-4, text 5-8, parts 9-12
  expected = [
    *[[10, 10]],  # task
    *[[9, 9], [0, 9], [1, 9], [9, 9]],
    *[[10, 10], [2, 10], [3, 10], [4, 10]],
    *[[11, 11], [0, 11], [1, 11], [11, 11]],
    *[[12, 12], [5, 12], [6, 12], [7, 12], [8, 12]],
  ]
  np.testing.assert_array_equal(places_lib.points(TINY), expected)
  assert places_lib.points(TINY).dtype == np.int32


def test_a_code_has_the_same_place_in_both_pictures():
  layout = toy.LAYOUT
  points = places_lib.points(layout)
  answer = points[layout.prefix_len :]
  source = points[layout.source_span][1:-1]
  np.testing.assert_array_equal(answer[layout.image_index, 0], source[:, 0])
  assert not set(answer[layout.image_index, 1]) & set(source[:, 1])


def test_counterparts_hand_worked():
  coarse = layout_lib.Layout(grid=(1, 1), prompt_len=2, text_len=1)
  # codes, prompt, text, parts
  expected = [0, 0, 1, 2, 2, 3, 3, 3, 3, 4, 5, 6, 7]
  np.testing.assert_array_equal(places_lib.counterparts(TINY, coarse), expected)
  np.testing.assert_array_equal(
    places_lib.counterparts(TINY, TINY), np.arange(13)
  )


def test_counterparts_of_codes_show_the_same_part_of_the_picture():
  fine = layout_lib.Layout(grid=(4, 4), prompt_len=3, text_len=3)
  coarse = dataclasses.replace(fine, grid=(2, 2))
  points = places_lib.counterparts(fine, coarse)[:16].reshape(4, 4)
  quarters = [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2
  np.testing.assert_array_equal(points, quarters)


def test_encode_prefix_hand_worked():
  prefix, valid = sequence_lib.encode_prefix(
    TINY, toy.VOCAB, prompt_ids=[9], source_codes=np.array([0, 15])
  )
  assert (prefix.dtype, valid.dtype) == (np.int32, np.bool_)
  #                    edit soi codes  eoi bos word eos eos
  np.testing.assert_array_equal(prefix, [5, 0, 24, 39, 4, 1, 9, 2, 2])
  assert valid.all()


def test_encode_prefix_without_a_picture_hand_worked():
  prefix, valid = sequence_lib.encode_prefix(
    TINY, toy.VOCAB, prompt_ids=[9, 8], source_codes=None
  )
  np.testing.assert_array_equal(valid, [1, 0, 0, 0, 0, 1, 1, 1, 1])
  np.testing.assert_array_equal(prefix[valid], [6, 1, 9, 8, 2])


def test_encode_answer_hand_worked():
  def encode(**given):
    return sequence_lib.encode_answer(TINY, toy.VOCAB, **given)

  np.testing.assert_array_equal(encode(), [0, 3, 3, 4, 1, 3, 3, 3, 3])
  np.testing.assert_array_equal(
    encode(text_ids=[9, 10], codes=np.array([1, 2])),
    [0, 25, 26, 4, 1, 9, 10, 2, 2],
  )
  np.testing.assert_array_equal(
    encode(text_ids=[]), [0, 3, 3, 4, 1, 2, 2, 2, 2]
  )
  np.testing.assert_array_equal(
    encode(codes=np.array([1, 2])), [0, 25, 26, 4, 1, 3, 3, 3, 3]
  )


def test_overlong_prompt_and_text_errors_name_both_numbers():
  sequence_lib.encode_prefix(
    TINY, toy.VOCAB, prompt_ids=[9] * 2, source_codes=None
  )
  with pytest.raises(ValueError, match="prompt must .* 2 tokens, got 3"):
    sequence_lib.encode_prefix(
      TINY, toy.VOCAB, prompt_ids=[9] * 3, source_codes=None
    )
  sequence_lib.encode_answer(TINY, toy.VOCAB, text_ids=[9] * 3)
  with pytest.raises(ValueError, match="text must .* 3 tokens, got 4"):
    sequence_lib.encode_answer(TINY, toy.VOCAB, text_ids=[9] * 4)


@pytest.mark.parametrize("codes", BAD_CODES, ids=str)
def test_codes_that_do_not_fit_are_refused(codes):
  with pytest.raises(ValueError, match="must"):
    sequence_lib.encode_answer(TINY, toy.VOCAB, codes=codes)
  with pytest.raises(ValueError, match="must"):
    sequence_lib.encode_prefix(
      TINY, toy.VOCAB, prompt_ids=[], source_codes=codes
    )


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ([9, 8, 2, 2], [9, 8]),
    ([9, 2, 8, 2], [9]),
    ([2, 2, 2, 2], []),
    ([9, 8, 7, 9], [9, 8, 7, 9]),
  ],
)
def test_text_of_cuts_at_the_first_end(text, expected):
  answer = np.array([0, 24, 24, 4, 1, *text])
  assert sequence_lib.text_of(TINY, toy.VOCAB, answer) == expected


def test_text_round_trips_through_an_answer():
  answer = sequence_lib.encode_answer(TINY, toy.VOCAB, text_ids=[9, 8])
  assert sequence_lib.text_of(TINY, toy.VOCAB, answer) == [9, 8]


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("image", [False, True])
def test_drop_leaves_exactly_the_tokens_of_the_unconditional_sequence(
  text, image
):
  condition = toy.conditions(6)
  dropped = sequence_lib.drop(
    toy.LAYOUT, toy.VOCAB, condition, text=text, image=image
  )
  rows = sequence_lib.drop_rows(
    toy.LAYOUT,
    toy.VOCAB,
    condition,
    text=jnp.full(6, text),
    image=jnp.full(6, image),
  )
  assert dropped.prefix.shape == (6, 14 - 8 * image)
  assert rows.prefix.shape == (6, 14)
  for row in range(6):
    expected = oracles.condition_tokens(
      toy.LAYOUT,
      toy.VOCAB,
      np.asarray(condition.prefix[row]),
      np.asarray(condition.valid[row]),
      text=text,
      image=image,
    )
    for got in (dropped, rows):
      kept = np.asarray(got.prefix[row])[np.asarray(got.valid[row])]
      assert kept.tolist() == expected


def test_drop_rows_changes_only_the_rows_it_names():
  condition = toy.conditions(4)
  text = jnp.array([False, True, False, True])
  image = jnp.array([False, False, True, True])
  got = sequence_lib.drop_rows(
    toy.LAYOUT, toy.VOCAB, condition, text=text, image=image
  )
  assert (got.prefix[0] == condition.prefix[0]).all()
  assert (got.valid[0] == condition.valid[0]).all()
  np.testing.assert_array_equal(got.prefix[2], condition.prefix[2])
  np.testing.assert_array_equal(got.valid[1], condition.valid[1])
  assert not got.valid[3][toy.LAYOUT.source_span].any()
  assert (got.prefix[3][toy.LAYOUT.prompt_span] == toy.VOCAB.eos_id).all()


@pytest.mark.parametrize("grids", [(), places_lib.grids(toy.LAYOUT)])
@pytest.mark.parametrize("text", [False, True])
def test_the_shorter_sequence_gives_the_logits_of_the_masked_one(text, grids):
  condition, answer = toy.conditions(3), toy.partial_answers(3)
  config = dataclasses.replace(toy.CONFIG, place_grids=grids)
  model, params = toy.model(config), toy.params(config)

  @jax.jit
  def logits(condition):
    hidden = model.answer_hidden(params, condition, answer)
    return model.denoiser.head(params, hidden, columns=(0, toy.VOCAB.size))

  short = logits(
    sequence_lib.drop(toy.LAYOUT, toy.VOCAB, condition, text=text, image=True)
  )
  masked = logits(
    sequence_lib.drop_rows(
      toy.LAYOUT,
      toy.VOCAB,
      condition,
      text=jnp.full(3, text),
      image=jnp.full(3, True),
    )
  )
  np.testing.assert_allclose(short, masked, rtol=0, atol=2e-5)
  assert np.abs(short - logits(condition))[0].max() > 1e-2
