import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import toy
import toy_published as published

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


# Prefix and answer length; columns of the input's codes, of the prompt, of the
# output's codes, of the text; tokens without text, without picture, neither.
SPANS = {
  "edit_a": (12, 13, [4, 5, 7, 8], 0, [2, 3, 5, 6], 9, (11, 4, 3)),
  "generate_a": (4, 13, [], 0, [2, 3, 5, 6], 9, (3, 4, 3)),
  "picture_a": (4, 10, [], 0, [2, 3, 5, 6], None, (3, 4, 3)),
  "style_a": (
    *(18, 10, [4, 5, 7, 8, 12, 13, 14], 0),
    *([2, 3, 5, 6], None, (17, 4, 3)),
  ),
  "describe_a": (9, 5, [4, 5], 0, [], 1, (8, 4, 3)),
  "edit_m": (12, 10, [2, 3, 4, 5], 8, [1, 2, 3, 4], 7, (9, 12, 9)),
  "picture_m": (6, 6, [], 2, [1, 2, 3, 4], None, (3, 6, 3)),
  "text_m": (5, 3, [], 1, [], 0, (2, 5, 2)),
}


@pytest.mark.parametrize("name", published.FAMILIES)
def test_spans_of_the_published_families_hand_worked(name):
  layout, _ = published.FAMILIES[name]
  prefix_len, answer_len, source, prompt, image, text, null = SPANS[name]
  assert (layout.prefix_len, layout.answer_len) == (prefix_len, answer_len)
  assert layout.source_index.tolist() == source
  columns = slice(prompt, prompt + layout.prompt_len)
  assert layout.prompt_span == columns
  assert layout.image_index.tolist() == image
  assert layout.image_len == len(image)
  words = [] if text is None else list(range(text, text + layout.text_len))
  assert layout.text_index.tolist() == words
  drops = ((True, False), (False, True), (True, True))
  assert null == tuple(
    layout.null_prefix_len(text=t, image=i) for t, i in drops
  )
  for index in (layout.source_index, layout.image_index, layout.text_index):
    assert index.dtype == np.int32


@pytest.mark.parametrize("grid", [(1, 1), (3, 2), (2, 5)])
@pytest.mark.parametrize("row_ends", [False, True])
def test_a_picture_s_columns_are_its_codes_and_never_its_marks(grid, row_ends):
  layout = dataclasses.replace(
    published.EDIT_A, grid=grid, source_grids=None, row_ends=row_ends
  )
  codes = np.arange(grid[0] * grid[1]) % 16
  answer = sequence_lib.encode_answer(layout, published.VOCAB_A, codes=codes)
  prefix, _ = sequence_lib.encode_prefix(
    layout, published.VOCAB_A, prompt_ids=[], source_codes=codes
  )
  for tokens, index in (
    (answer, layout.image_index),
    (prefix, layout.source_index),
  ):
    np.testing.assert_array_equal(tokens[index], codes + 24)
    others = np.delete(tokens, index)
    assert (others < 24).all()
    assert (others == 5).sum() == grid[0] * row_ends


def test_padding_decides_how_long_a_dropped_prompt_is():
  for padding, length in (("left_out", 1), ("attended", 4)):
    layout = dataclasses.replace(published.EDIT_M, padding=padding)
    assert layout.null_prompt_len == length
  assert published.EDIT_A.null_prompt_len == 2


def test_a_layout_may_come_from_json():
  fields = dataclasses.asdict(published.STYLE_A)
  as_json = json.loads(json.dumps(fields))
  assert as_json["source_grids"] == [[2, 2], [1, 3]]
  layout = layout_lib.Layout(**as_json)
  assert layout == published.STYLE_A
  assert hash(layout) == hash(published.STYLE_A)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"padding": "kept"}, "padding must be one of .*'left_out'.*got 'kept'"),
    ({"null_source": "black"}, "null_source must be one of .*got 'black'"),
    ({"answer": ("text",)}, "'image' must occur 1 times"),
    ({"answer": ("image", "text", "text")}, "'text' must occur 1 times"),
    ({"text_len": 0}, "'text' must occur 0 times"),
    ({"grid": None, "source_grids": ()}, "'image' must occur 0 times"),
    ({"prefix": ("source",)}, "'prompt' must occur 1 times"),
    ({"prefix": ("prompt", "source", "image")}, "'image' must occur 1 times"),
    ({"source_grids": ()}, "'source' must occur 0 times"),
    ({"source_grids": ((2, 0),)}, "layout sizes must be positive"),
    (
      {"grid": None, "text_len": 0, "answer": (), "prefix": ("prompt",)},
      "an answer must have a picture or a text",
    ),
  ],
  ids=str,
)
def test_layouts_whose_parts_contradict_each_other_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
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
