"""Laws of the scores: what is true, what is corrupted, what is empty."""

import math

import numpy as np
import pytest

from paradiff.scenes import grammar
from paradiff.scenes import predicate
from paradiff.scenes import render
from paradiff.scenes import rules
from paradiff.scenes import score
from paradiff.scenes import world

_KEPT = world.Thing(0, "small", "red", "star")
_OTHER = world.Thing(15, "big", "green", "triangle")
_NEW = world.Thing(5, "big", "blue", "square")
_SOURCE = world.Scene((_KEPT, _OTHER))
_TARGET = world.Scene((_KEPT, _OTHER, _NEW))
_TEXT = (
  "add big blue square at b2. result: "
  "a1 small red star, b2 big blue square, d4 big green triangle."
)


def _example(target, *, source=_SOURCE, rule=None):
  return rules.Example(
    kind="edit" if source else "generate",
    category="general" if source else "counts",
    prompt="",
    source=source,
    target=target,
    reasoning="",
    rule=rule or predicate.Rule.exactly(target),
  )


def _picture(*things):
  return render.render(world.Scene(things))


def _swapped(thing, **values):
  return world.Thing(**{**vars(thing), **values})


def test_truth_scores_one_on_everything():
  rng = np.random.default_rng(0)
  for _ in range(600):
    example = rules.sample(rng, split="test")
    scores = score.score(
      example, example.reasoning, render.render(example.target)
    )
    assert tuple(scores) == score.METRICS
    for name, value in scores.items():
      if name == "image_consistency" and example.source is None:
        assert math.isnan(value)
      else:
        assert value == 1.0, (name, example)


_TEXT_ALIGNMENT = {"text_alignment", "text_alignment_changed", "text_exact"}
_IMAGE_ALIGNMENT = {
  "image_alignment",
  "image_alignment_changed",
  "image_exact",
}
_OUTPUT_ALIGNMENT = {
  "output_alignment",
  "output_alignment_changed",
  "both_agree",
}
_WRONG_KEPT = _swapped(_KEPT, colour="blue")
_WRONG_NEW = _swapped(_NEW, shape="circle")


def _speckled():
  """Return the true picture with specks that leave every fact readable."""
  picture = _picture(_KEPT, _OTHER, _NEW)
  picture[18:30:6, 18:30:6] = 0
  return picture


@pytest.mark.parametrize(
  ("what", "text", "picture", "falling"),
  [
    (
      "a kept fact in the text",
      _TEXT.replace("a1 small red", "a1 small blue"),
      _picture(_KEPT, _OTHER, _NEW),
      _TEXT_ALIGNMENT | _OUTPUT_ALIGNMENT,
    ),
    (
      "a changed fact in the list, against the text's own steps",
      _TEXT.replace("b2 big blue square", "b2 big blue circle"),
      _picture(_KEPT, _OTHER, _NEW),
      {"text_quality"} | _TEXT_ALIGNMENT | _OUTPUT_ALIGNMENT,
    ),
    (
      "a fact missing in the text",
      _TEXT.replace("a1 small red star, ", ""),
      _picture(_KEPT, _OTHER, _NEW),
      _TEXT_ALIGNMENT | _OUTPUT_ALIGNMENT,
    ),
    (
      "a kept fact in the picture",
      _TEXT,
      _picture(_WRONG_KEPT, _OTHER, _NEW),
      {"image_consistency"} | _IMAGE_ALIGNMENT | _OUTPUT_ALIGNMENT,
    ),
    (
      "a changed fact in the picture",
      _TEXT,
      _picture(_KEPT, _OTHER, _WRONG_NEW),
      _IMAGE_ALIGNMENT | _OUTPUT_ALIGNMENT,
    ),
    (
      "a fact too many in the picture",
      _TEXT,
      _picture(_KEPT, _OTHER, _NEW, _swapped(_NEW, cell=9)),
      {"image_consistency"} | _IMAGE_ALIGNMENT | _OUTPUT_ALIGNMENT,
    ),
    (
      "the same fact in both",
      _TEXT.replace("blue square", "blue circle"),
      _picture(_KEPT, _OTHER, _WRONG_NEW),
      _TEXT_ALIGNMENT | _IMAGE_ALIGNMENT,
    ),
    (
      "the drawing alone",
      _TEXT,
      _speckled(),
      {"image_quality"},
    ),
    (
      "the steps alone",
      _TEXT.replace("at b2.", "in b2."),
      _picture(_KEPT, _OTHER, _NEW),
      {"text_quality"},
    ),
    (
      "the steps left out",
      _TEXT.partition(". ")[2],
      _picture(_KEPT, _OTHER, _NEW),
      {"text_quality"},
    ),
    (
      "a fact said twice",
      _TEXT.replace("a1 small red star", "a1 small red star, " * 2).replace(
        ", ,", ","
      ),
      _picture(_KEPT, _OTHER, _NEW),
      {"text_quality"},
    ),
  ],
)
def test_corrupting_one_thing_lowers_exactly_what_it_should(
  what, text, picture, falling
):
  scores = score.score(_example(_TARGET), text, picture)
  fell = {name for name, value in scores.items() if value < 1.0}
  assert fell - {"solved"} == falling, what
  # `solved` is about facts; how well they are written or drawn is not.
  about_facts = falling - {"text_quality", "image_quality"}
  assert ("solved" in fell) == bool(about_facts)


def test_f1_has_its_hand_worked_values():
  text = _TEXT.replace("a1 small red", "a1 small blue")
  scores = score.score(_example(_TARGET), text, _picture(_KEPT, _OTHER, _NEW))
  assert scores["text_alignment"] == pytest.approx(2 / 3)
  # Claimed: + blue star, - red star, + square. True: + square.
  assert scores["text_alignment_changed"] == pytest.approx(2 / 4)
  assert scores["output_alignment_changed"] == pytest.approx(2 / 4)


def test_copying_the_input_scores_nothing_on_changes():
  text = grammar.write((), _SOURCE)
  scores = score.score(_example(_TARGET), text, render.render(_SOURCE))
  assert scores["image_consistency"] == scores["output_alignment"] == 1.0
  assert scores["image_alignment"] == pytest.approx(4 / 5)
  for name in score.CHANGED_METRICS:
    assert scores[name] == 0.0


def test_copying_the_input_is_right_where_nothing_may_change():
  text = grammar.write((), _SOURCE)
  scores = score.score(_example(_SOURCE), text, render.render(_SOURCE))
  assert set(scores.values()) == {1.0}


@pytest.mark.parametrize("source", [_SOURCE, None])
def test_empty_claims_score_nothing(source):
  example = _example(_TARGET, source=source)
  for text in ("", "no change.", "no change. result: nothing.", "hello there"):
    scores = score.score(example, text, _picture())
    for name, value in scores.items():
      if name == "image_consistency" and source is None:
        assert math.isnan(value)
      else:
        assert value == 0.0, (name, text)


def test_an_empty_target_wants_to_be_stated_and_drawn_empty():
  example = _example(world.Scene())
  text = "remove star at a1, remove triangle at d4. result: nothing."
  scores = score.score(example, text, _picture())
  assert set(scores.values()) == {1.0}
  silent = score.score(example, "", _picture())
  assert silent["image_alignment"] == 1.0
  assert silent["text_alignment"] == silent["output_alignment"] == 0.0
  wrong = score.score(example, text, _picture(_KEPT))
  assert wrong["image_alignment"] == wrong["output_alignment"] == 0.0


def test_free_text_and_picture_have_each_their_own_target_but_must_agree():
  slot = predicate.Slot(_SOURCE.empty_cells(), colours=("blue",))
  rule = predicate.Rule((predicate.Pattern(_SOURCE.things, (slot,)),))
  elsewhere = _swapped(_NEW, cell=9, shape="star")
  scores = score.score(
    _example(_TARGET, rule=rule), _TEXT, _picture(_KEPT, _OTHER, elsewhere)
  )
  assert scores["text_exact"] == scores["image_exact"] == 1.0
  for name in ("text", "image"):
    assert scores[f"{name}_alignment"] == 1.0
    assert scores[f"{name}_alignment_changed"] == 1.0
  assert scores["output_alignment"] == pytest.approx(2 / 3)
  assert scores["output_alignment_changed"] == 0.0
  assert scores["both_agree"] == scores["solved"] == 0.0


def test_all_scores_stay_in_range_for_any_answer():
  rng = np.random.default_rng(2)
  for _ in range(200):
    example = rules.sample(rng, split="train")
    other = rules.sample(rng, split="train")
    words = rng.choice(grammar.WORDS, 30)
    for text in (other.reasoning, " ".join(words)):
      scores = score.score(example, text, render.render(other.target))
      values = [v for v in scores.values() if not math.isnan(v)]
      assert all(0.0 <= value <= 1.0 for value in values)
