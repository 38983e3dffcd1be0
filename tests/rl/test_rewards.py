"""Laws of the built-in rewards: truth, faults, what cannot be said."""

import math

import numpy as np
import pytest

from paradiff.rl import reward
from paradiff.rl import rewards
from paradiff.scenes import grammar
from paradiff.scenes import parse_picture
from paradiff.scenes import render
from paradiff.scenes import rules
from paradiff.scenes import score

_ANSWER = "no change. result: a1 big red circle."


def _context(texts, *, pictures=None, predicted=None, examples=None, **fields):
  num_rows, num_points = len(texts), len(texts[0])
  if pictures is None:
    pictures = np.zeros((num_rows, num_points, 64, 64, 3), np.uint8)
  return reward.Context(
    prompts=("",) * num_rows,
    texts=tuple(map(tuple, texts)),
    predicted_texts=tuple(map(tuple, predicted or texts)),
    pictures=pictures,
    sources=fields.get("sources", (None,) * num_rows),
    steps=np.arange(1, num_points + 1, dtype=np.int32),
    num_steps=num_points,
    examples=examples or (None,) * num_rows,
  )


def _examples(num):
  rng = np.random.default_rng(0)
  return tuple(rules.sample(rng, split="train") for _ in range(num))


def _drawn(examples):
  return np.stack([render.render(e.target)[None] for e in examples])


def _values(rewarder, *texts):
  """Return what texts, one point each, are worth."""
  return rewarder(_context([[text] for text in texts]))[:, 0].tolist()


@pytest.mark.parametrize("name", score.METRICS)
def test_ground_truth_scenes_score_one(name):
  examples = _examples(12)
  assert {e.source is None for e in examples} == {True, False}
  found = rewards.SceneReward({name: 1.0})(
    _context(
      [[e.reasoning] for e in examples],
      pictures=_drawn(examples),
      examples=examples,
    )
  )
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, np.ones((12, 1)))


def test_one_wrong_fact_lowers_the_score():
  examples = tuple(e for e in _examples(12) if e.target.things)
  texts = []
  for e in examples:
    first = e.target.things[0]
    wrong = "blue" if first.colour != "blue" else "red"
    true_words = grammar.write_thing(first)
    head, tail = e.reasoning.rsplit("result", 1)
    swapped = tail.replace(true_words, true_words.replace(first.colour, wrong))
    texts.append([f"{head}result{swapped}"])
  context = _context(texts, pictures=_drawn(examples), examples=examples)
  found = rewards.SceneReward()(context)[:, 0]
  for value, e in zip(found, examples, strict=True):
    num = len(e.target.things)
    assert value == pytest.approx((num - 1) / num)


def test_scene_rewards_equal_the_scores_one_by_one():
  rng = np.random.default_rng(1)
  examples = tuple(np.repeat(np.array(_examples(3), object), 2))
  words = [e.reasoning.split() for e in examples]
  texts = [
    [" ".join(w for w in row if rng.random() < rate) for rate in (0.8, 0.97)]
    for row in words
  ]
  texts[1] = texts[0]  # equal answers
  noise = rng.normal(0, 25, (6, 2, 64, 64, 3)) * [[[[[1]]], [[[0.2]]]]]
  pictures = np.clip(_drawn(examples) + noise, 0, 255).astype(np.uint8)
  pictures[4:, 1] = pictures[3, 1]  # an equal answer to another example
  texts[4][1] = texts[3][1]
  weights = {
    "output_alignment": 0.5,
    "text_alignment": -2.0,
    "image_quality": 1.0,
  }
  context = _context(texts, pictures=pictures, examples=examples)
  found = rewards.SceneReward(weights)(context)
  for row, point in np.ndindex(6, 2):
    one = score.score(examples[row], texts[row][point], pictures[row, point])
    expected = sum(w * one[name] for name, w in weights.items())
    assert found[row, point] == pytest.approx(expected, abs=1e-6)
  assert len(np.unique(found)) > 6


def test_scene_reward_reads_each_text_and_picture_once(monkeypatch):
  examples = _examples(2)
  texts = [[e.reasoning] * 3 for e in examples]
  pictures = np.repeat(_drawn(examples), 3, axis=1)
  read, seen = [], []
  parse, parse_all = grammar.parse, parse_picture.parse_all
  monkeypatch.setattr(grammar, "parse", lambda t: read.append(t) or parse(t))
  monkeypatch.setattr(
    parse_picture, "parse_all", lambda p: seen.append(len(p)) or parse_all(p)
  )
  context = _context(texts, pictures=pictures, examples=examples)
  np.testing.assert_array_equal(rewards.SceneReward()(context), np.ones((2, 3)))
  assert (len(read), seen) == (2, [2])


def test_nothing_to_keep_counts_as_kept():
  example = next(e for e in _examples(40) if e.source is None)
  picture = render.render(example.target)
  one = score.score(example, "", picture)
  assert math.isnan(one["image_consistency"])
  found = rewards.SceneReward({"image_consistency": 0.5})(
    _context([[""]], pictures=picture[None, None], examples=(example,))
  )
  assert found.tolist() == [[0.5]]


@pytest.mark.parametrize(
  "make",
  [
    lambda view: rewards.SceneReward({"text_exact": 1.0}, text_view=view),
    lambda view: rewards.FormatReward(text_view=view),
    lambda view: rewards.LengthReward(3, 99, 3, text_view=view),
  ],
)
def test_the_text_view_says_which_text_is_read(make):
  example = _examples(1)[0]
  context = _context(
    [[""]],
    predicted=[[example.reasoning]],
    pictures=_drawn((example,)),
    examples=(example,),
  )
  assert make("committed")(context).tolist() == [[0.0]]
  assert make("predicted")(context).tolist() == [[1.0]]
  with pytest.raises(ValueError, match="text_view must be one of"):
    make("x0")


def test_scene_reward_wants_scenes():
  context = _context([["", ""]])
  with pytest.raises(TypeError, match="got NoneType at row 0"):
    rewards.SceneReward()(context)
  with pytest.raises(reward.RewardError, match=r"'scenes'.*rules\.Example"):
    reward.evaluate({"scenes": rewards.SceneReward()}, context)
  for weights, message in (
    ({}, "weights must name some"),
    ({"beauty": 1.0}, "weights must name some"),
    ({"solved": math.inf}, "weights must be finite"),
  ):
    with pytest.raises(ValueError, match=message):
      rewards.SceneReward(weights)


def test_format_is_the_share_of_sentences_that_the_grammar_accepts():
  texts = (_ANSWER, f"purple is seven. {_ANSWER}", "", "purple is seven.")
  found = _values(rewards.FormatReward(), *texts)
  np.testing.assert_allclose(found, [1.0, 2 / 3, 0.0, 0.0], rtol=1e-6)


def test_a_pattern_must_match_the_whole_text():
  form = rewards.FormatReward("<think>.*</think>.+")
  texts = ("<think>\na\n</think> b", "<think>a</think>", " <think></think>b")
  assert _values(form, *texts) == [1.0, 0.0, 0.0]
  assert _values(rewards.FormatReward("a|b"), "a", "b", "ab") == [1.0, 1.0, 0.0]
  with pytest.raises(ValueError, match="must be a regular expression"):
    rewards.FormatReward("(")


def test_length_falls_linearly_beyond_its_bounds():
  length = rewards.LengthReward(10, 20, 5)
  texts = ["word " * num for num in (0, 5, 6, 10, 15, 20, 22, 25, 30)]
  expected = [0.0, 0.0, 0.2, 1.0, 1.0, 1.0, 0.6, 0.0, 0.0]
  np.testing.assert_allclose(_values(length, *texts), expected, atol=1e-6)
  for bounds in ((3, 2, 1), (-1, 2, 1), (1, 2, 0)):
    with pytest.raises(ValueError, match="low <= high"):
      rewards.LengthReward(*bounds)


def test_preservation_is_the_psnr_where_the_mask_says_keep():
  source = np.full((8, 8, 3), 100, np.uint8)
  keep = np.zeros((8, 8), bool)
  keep[:4] = True
  pictures = np.full((3, 4, 8, 8, 3), 100, np.uint8)
  pictures[0, :, 4:] = 0  # outside of the mask: free
  pictures[0, 1, :4] = 110  # mean squared error 100
  pictures[0, 2, 0] = 90  # of a quarter of what is kept: 25
  pictures[0, 3, :4] = 255
  pictures[1:] = 0
  context = _context(
    [[""] * 4] * 3,
    pictures=pictures,
    sources=(source, None, source),
    examples=(keep, keep, ~(keep | ~keep)),
  )
  found = rewards.PreservationReward(lambda mask: mask)(context)
  decibels = [10 * math.log10(255**2 / mse) for mse in (100, 25, 155**2)]
  expected = [1.0, *(value / 40 for value in decibels)]
  np.testing.assert_allclose(found[0], expected, rtol=1e-5)
  np.testing.assert_array_equal(found[1:], np.ones((2, 4)))
  easy = rewards.PreservationReward(lambda mask: mask, best_db=20.0)
  np.testing.assert_allclose(
    easy(context)[0], [1, 1, 1, decibels[2] / 20], rtol=1e-5
  )


@pytest.mark.parametrize(
  ("source", "mask", "message"),
  [
    ((64, 64, 3), np.ones((8, 8), bool), r"keep_mask must return bool\[64"),
    ((64, 64, 3), np.ones((64, 64)), r"keep_mask must return bool\[64"),
    ((32, 32, 3), np.ones((64, 64), bool), "source must have the shape"),
  ],
)
def test_preservation_refuses_other_sizes(source, mask, message):
  context = _context([[""]], sources=(np.zeros(source, np.uint8),))
  with pytest.raises(ValueError, match=message):
    rewards.PreservationReward(lambda example: mask)(context)
  with pytest.raises(ValueError, match="best_db must be positive"):
    rewards.PreservationReward(lambda example: mask, best_db=0.0)


def test_pictures_read_together_equal_those_read_alone():
  rng = np.random.default_rng(2)
  clean = _drawn(_examples(7))[:, 0]
  noise = (
    rng.normal(0, 20, clean.shape) * (np.arange(7) % 3)[:, None, None, None]
  )
  pictures = np.clip(clean + noise, 0, 255).astype(np.uint8)
  assert parse_picture.parse_all(pictures) == [
    parse_picture.parse(picture) for picture in pictures
  ]
  assert parse_picture.parse_all(pictures[:0]) == []
