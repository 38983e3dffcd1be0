"""Laws of the reasoning language."""

import numpy as np
import pytest

from paradiff.scenes import grammar
from paradiff.scenes import rules
from paradiff.scenes import world

_STAR = world.Thing(1, "small", "red", "star")
_SQUARE = world.Thing(5, "big", "blue", "square")
_TEXT = (
  "add big blue square at b2, move star from a1 to b1. "
  "result: b1 small red star, b2 big blue square."
)


def test_write_states_changes_then_the_whole_target():
  changes = (
    grammar.Change("add", 5, "square", ("big", "blue")),
    grammar.Change("move", 0, "star", ("b1",)),
  )
  assert grammar.write(changes, world.Scene((_SQUARE, _STAR))) == _TEXT


def test_write_states_notes_nothing_and_no_change():
  nothing = world.Scene()
  assert grammar.write((), nothing) == "no change. result: nothing."
  text = grammar.write(None, world.Scene((_STAR,)), notes=("grass is green",))
  assert text == "grass is green. use b1. result: b1 small red star."


@pytest.mark.parametrize(
  "change",
  [
    grammar.Change("add", 3, "star", ("small", "orange")),
    grammar.Change("remove", 3, "star"),
    grammar.Change("keep", 3, "star"),
    grammar.Change("move", 3, "star", ("d2", "d3", "d4")),
    grammar.Change("paint", 3, "star", ("red", "orange")),
    grammar.Change("resize", 3, "star", ("big",)),
    grammar.Change("turn", 3, "star", ("circle",)),
    grammar.Change("replace", 3, "star", ("big", "red", "circle")),
  ],
)
def test_every_change_is_read_as_written(change):
  text = grammar.write_change(change)
  assert grammar.read_change(text.split()) == change
  assert set(grammar.tokenize(text)) <= set(grammar.WORDS)


def test_an_unknown_kind_of_change_is_refused():
  with pytest.raises(ValueError, match="kind must be one of"):
    grammar.write_change(grammar.Change("explode", 3, "star"))


def test_parse_reads_facts_changes_and_sections():
  parsed = grammar.parse(_TEXT)
  assert parsed.facts == {_STAR, _SQUARE}
  assert [change.kind for change in parsed.changes] == ["add", "move"]
  assert parsed.accepted_rate == 1.0
  assert parsed.num_sentences == 2
  assert parsed.has_changes and parsed.has_result
  assert parsed.num_contradictions == 0


def test_parse_reads_back_every_sampled_reasoning():
  rng = np.random.default_rng(3)
  for _ in range(1500):
    example = rules.sample(rng, split="train")
    parsed = grammar.parse(example.reasoning)
    assert parsed.facts == example.target.facts
    assert parsed.accepted_rate == 1.0
    assert parsed.num_contradictions == 0
    assert parsed.has_changes and parsed.has_result


@pytest.mark.parametrize(
  ("text", "accepted_rate", "num_facts"),
  [
    ("", 0.0, 0),
    (".", 0.0, 0),
    ("result: nothing.", 1.0, 0),
    ("result:", 0.0, 0),
    ("the cat sat. result: b1 small red star.", 0.5, 1),
    ("add big square at b2. result: b1 small red star", 0.5, 1),
    ("no change. result: b1 small star.", 0.5, 0),
    ("no change. result: b1 small red star, b2 blue.", 0.5, 1),
    ("no [mask]. [mask]: b1 small red star, b2 [mask] blue.", 0.0, 1),
    ("b1 small red star", 0.0, 1),
    ("bananas are yellow. no change. result: nothing.", 1.0, 0),
    ("bananas are blue. no change. result: nothing.", 2 / 3, 0),
    ("the sea is blue, dice are squares. result: nothing.", 1.0, 0),
    ("a1 touches b1, nothing touches d4. result: nothing.", 1.0, 0),
    ("use b1. result: b1 small red star.", 1.0, 1),
  ],
)
def test_parse_accepts_what_the_grammar_says(text, accepted_rate, num_facts):
  parsed = grammar.parse(text)
  assert parsed.accepted_rate == pytest.approx(accepted_rate)
  assert len(parsed.facts) == num_facts


def test_change_clauses_are_no_claims_about_the_result():
  parsed = grammar.parse("add big blue square at b2. result: nothing.")
  assert parsed.facts == frozenset()
  assert parsed.num_contradictions == 1


@pytest.mark.parametrize(
  ("text", "number"),
  [
    ("no change. result: b1 small red star, b1 big blue square.", 1),
    ("no change. result: b1 small red star, b1 small red star.", 1),
    ("remove star at b1. result: b1 small red star.", 1),
    ("move star from a1 to b1. result: b1 small red circle.", 1),
    ("paint star at b1 blue. result: b1 small red star.", 1),
    ("make star at b1 big. result: b1 small red star.", 1),
    ("turn circle at b1 into star. result: b1 small red star.", 0),
    ("use a1, b1. result: b1 small red star.", 1),
    (
      "move star from a1 to b1, move circle from b1 to a1. "
      "result: a1 big red circle, b1 small red star.",
      0,
    ),
  ],
)
def test_contradictions_are_counted(text, number):
  assert grammar.parse(text).num_contradictions == number


def test_parse_never_raises():
  rng = np.random.default_rng(0)
  pool = [*grammar.WORDS, "\n", "[mask]", "\u00e9", "", "||", "2", "result :"]
  for _ in range(3000):
    size = int(rng.integers(0, 30))
    text = " ".join(pool[i] for i in rng.integers(0, len(pool), size))
    parsed = grammar.parse(text)
    assert 0.0 <= parsed.accepted_rate <= 1.0
  for text in ("\x00", "...", ",,,", "::::", "use", "use.", "result result :"):
    grammar.parse(text)


def test_words_are_few_unique_and_lower_case():
  assert len(set(grammar.WORDS)) == len(grammar.WORDS) <= 160
  assert all(word == word.lower() for word in grammar.WORDS)
  assert all(grammar.tokenize(word) == [word] for word in grammar.WORDS)
