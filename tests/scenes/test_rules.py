"""Laws of the rule engine: sizes, splits, choices and single instructions."""

import pickle
import re

import numpy as np
import pytest

from paradiff.scenes import edits_motion
from paradiff.scenes import grammar
from paradiff.scenes import lexicon
from paradiff.scenes import phrases
from paradiff.scenes import rules
from paradiff.scenes import world


@pytest.fixture(scope="module", params=rules.SPLITS)
def examples(request):
  rng = np.random.default_rng(21)
  return request.param, [
    rules.sample(rng, split=request.param) for _ in range(6000)
  ]


def test_examples_keep_to_their_sizes(examples):
  for example in examples[1]:
    assert len(grammar.tokenize(example.prompt)) <= grammar.MAX_PROMPT_LEN
    length = len(grammar.tokenize(example.reasoning))
    assert length <= grammar.MAX_REASONING_LEN
    assert len(example.target.things) <= phrases.MAX_TARGET_THINGS
    if example.source is not None:
      assert 2 <= len(example.source.things) <= 5


def test_targets_are_allowed(examples):
  for example in examples[1][:2000]:
    assert example.rule.allows(example.target)


def test_words_are_exactly_those_in_use(examples):
  used = {
    word
    for example in examples[1]
    for text in (example.prompt, example.reasoning)
    for word in grammar.tokenize(text)
  }
  assert used == set(grammar.WORDS)


def test_categories_are_balanced_and_leave_choices(examples):
  edits = [e for e in examples[1] if e.kind == "edit"]
  share = 1.0 - len(edits) / len(examples[1])
  assert share == pytest.approx(rules.GENERATION_RATE, abs=0.03)
  for category in rules.EDIT_CATEGORIES:
    mine = [e for e in edits if e.category == category]
    assert len(mine) / len(edits) == pytest.approx(0.2, abs=0.03)
    assert np.mean([e.is_free for e in mine]) >= 1 / 3
  assert all(e.is_free for e in examples[1] if e.kind == "generate")


def test_only_causal_edits_may_change_nothing_and_seldom_do(examples):
  still = [e for e in examples[1] if e.source == e.target]
  assert {e.category for e in still} == {"causal"}
  assert all("no change. result:" in e.reasoning for e in still)
  causal = [e for e in examples[1] if e.category == "causal"]
  assert len(still) <= 0.1 * len(causal)


def test_sampling_is_reproducible_and_examples_pickle():
  draws = [
    [rules.sample(np.random.default_rng(s), split="train") for s in range(40)]
    for _ in range(2)
  ]
  assert draws[0] == draws[1]
  assert len({example.prompt for example in draws[0]}) > 20
  assert pickle.loads(pickle.dumps(draws[0])) == draws[0]


def _held_out_phrases(category):
  """Return patterns for the compositions that training must not hold."""
  nouns = "circle square triangle star shape".split()
  index = rules.CATEGORIES.index(category)
  found = []
  for n, noun in enumerate(nouns):
    for c, colour in enumerate(world.COLOURS):
      if (c + n + index) % 6 == 0:
        found.append(rf"\b{colour} {noun}s?\b")
        if noun == "shape":
          found.append(rf"\bsomething {colour}\b")
    for k, name in enumerate(lexicon.KNOWLEDGE):
      if (k + n + index) % 6 == 0:
        found.append(rf"\b{noun}s? the (colour|size|shape) of {name}\b")
  return found


def test_train_never_holds_a_held_out_composition_and_test_always_does(
  examples,
):
  split, drawn = examples
  for category in rules.CATEGORIES:
    pattern = re.compile("|".join(_held_out_phrases(category)))
    mine = [e for e in drawn if e.category == category]
    assert mine
    for example in mine:
      assert bool(pattern.search(example.prompt)) == (split == "test")
      assert rules.split_of(category, example.prompt) == split


def test_compositions_are_read_off_the_prompt():
  assert rules.compositions("swap the red circle and the big blue shape") == {
    ("red", "circle"),
    ("blue", "shape"),
  }
  assert rules.compositions("make the red star the colour of the sky") == {
    ("red", "star"),
    ("sky", "star"),
  }
  assert rules.compositions("put something red beside the star") == {
    ("red", "shape")
  }
  assert rules.compositions("paint one of the circles green") == frozenset()


def test_the_words_name_one_object_where_they_say_the():
  rng = np.random.default_rng(8)
  pattern = re.compile(
    rf"\bthe (?:({'|'.join(world.SIZES)}) )?"
    rf"(?:({'|'.join(world.COLOURS)}) )?({'|'.join(phrases.NOUNS)})\b(?! of)"
  )
  for _ in range(2000):
    example = rules.sample(rng, split="train")
    for size, colour, noun in pattern.findall(example.prompt):
      kind = phrases.Kind(
        size or None, colour or None, None if noun == "shape" else noun
      )
      assert len(kind.among(example.source)) == 1, example.prompt


_STEP = re.compile(r"move the (.*) one step (left|right|up|down)")
_EVERY = re.compile(r"remove every (?:(\w+) )?(\w+)$")
_BESIDE = re.compile(r"put something (\w+) beside the (.*)")


def _named(words, scene):
  """Return the objects that `words` cover, by an independent reading."""
  return [
    thing
    for thing in scene.things
    if all(
      word in (thing.size, thing.colour, thing.shape, "shape")
      for word in words.split()
    )
  ]


def test_instructions_mean_what_an_independent_reading_says():
  rng = np.random.default_rng(9)
  counts = dict.fromkeys(("step", "every", "beside"), 0)
  shifts = {"left": -1, "right": 1, "up": -4, "down": 4}
  for _ in range(6000):
    example = rules.sample(
      rng, split="train", category=("spatial", "general")[rng.integers(2)]
    )
    source, target = example.source, example.target
    if match := _STEP.fullmatch(example.prompt):
      (thing,) = _named(match[1], source)
      moved = world.Thing(
        thing.cell + shifts[match[2]], thing.size, thing.colour, thing.shape
      )
      assert target.facts == source.facts - {thing} | {moved}
      counts["step"] += 1
    elif match := _EVERY.fullmatch(example.prompt):
      words = " ".join(filter(None, match.groups()))
      gone = _named(words, source)
      assert gone and target.facts == source.facts - set(gone)
      counts["every"] += 1
    elif match := _BESIDE.fullmatch(example.prompt):
      (centre,) = _named(match[2], source)
      (new,) = target.facts - source.facts
      assert source.facts < target.facts
      assert new.colour == match[1]
      assert new.cell in world.neighbours(centre.cell)
      counts["beside"] += 1
  assert min(counts.values()) > 100, counts


def test_ticks_stop_at_the_wall_and_behind_what_waits():
  red = [world.Thing(cell, "big", "red", "circle") for cell in (0, 4, 12)]
  wall = world.Thing(9, "big", "blue", "square")
  above = world.Thing(1, "small", "red", "star")
  scene = world.Scene((*red, wall, above))
  paths = edits_motion.run_ticks(
    scene, phrases.Kind(colour="red"), direction="down", num_ticks=3
  )
  # a4 lies on the floor; a2 lands on it and a1 on that; b1 lands on b3.
  assert paths == {red[0]: [4], red[1]: [8], red[2]: [], above: [5]}


def test_ticks_move_a_chain_together():
  things = [world.Thing(cell, "big", "red", "circle") for cell in (0, 1)]
  paths = edits_motion.run_ticks(
    world.Scene(tuple(things)),
    phrases.Kind(colour="red"),
    direction="right",
    num_ticks=1,
  )
  assert paths == {things[0]: [1], things[1]: [2]}


@pytest.mark.parametrize(
  ("split", "category"), [("validation", None), ("train", "poetry")]
)
def test_unknown_options_are_refused(split, category):
  with pytest.raises(ValueError, match="must be one of"):
    rules.sample(np.random.default_rng(0), split=split, category=category)
