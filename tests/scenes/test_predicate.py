"""Laws of rules: the nearest allowed scene equals an exhaustive search."""

import itertools

import numpy as np
import pytest

from paradiff.scenes import predicate
from paradiff.scenes import rules
from paradiff.scenes import score
from paradiff.scenes import world


def _all_scenes(rule):
  """Return every allowed scene, by enumeration."""
  scenes = set()
  for pattern in rule.patterns:
    options = [
      [
        world.Thing(*values)
        for values in itertools.product(
          slot.cells, slot.sizes, slot.colours, slot.shapes
        )
      ]
      for slot in pattern.slots
    ]
    for filled in itertools.product(*options):
      if len({thing.cell for thing in filled}) == len(filled):
        scenes.add(world.Scene((*pattern.fixed, *filled)))
  return scenes


def _subset(rng, values, *, most=3):
  size = int(rng.integers(1, min(most, len(values)) + 1))
  return tuple(values[i] for i in sorted(rng.permutation(len(values))[:size]))


def _thing(rng, *, cell):
  return world.Thing(
    cell,
    str(rng.choice(world.SIZES)),
    str(rng.choice(world.COLOURS[:3])),
    str(rng.choice(world.SHAPES[:3])),
  )


def _random_rule(rng):
  num_fixed, num_slots = (int(n) for n in rng.integers(0, 3, 2))
  patterns = []
  for _ in range(int(rng.integers(1, 4))):
    cells = [int(c) for c in rng.permutation(world.NUM_CELLS)[:6]]
    fixed = tuple(_thing(rng, cell=cell) for cell in cells[:num_fixed])
    slots = tuple(
      predicate.Slot(
        _subset(rng, tuple(cells[num_fixed:])),
        _subset(rng, world.SIZES),
        _subset(rng, world.COLOURS[:3], most=2),
        _subset(rng, world.SHAPES[:3], most=2),
      )
      for _ in range(num_slots)
    )
    patterns.append(predicate.Pattern(fixed, slots))
  return predicate.Rule(tuple(patterns))


def _random_facts(rng, scenes):
  """Return junk: parts of an allowed scene, and several things in a cell."""
  scene = sorted(scenes, key=lambda s: s.things)[int(rng.integers(len(scenes)))]
  facts = {thing for thing in scene.things if rng.random() < 0.6}
  for _ in range(int(rng.integers(0, 6))):
    facts.add(_thing(rng, cell=int(rng.integers(world.NUM_CELLS))))
  return facts


def test_nearest_allowed_equals_exhaustive_search():
  rng = np.random.default_rng(0)
  for _ in range(400):
    rule = _random_rule(rng)
    scenes = _all_scenes(rule)
    if not scenes:
      with pytest.raises(ValueError, match="must allow a scene"):
        rule.nearest_allowed(())
      continue
    facts = _random_facts(rng, scenes)
    nearest = rule.nearest_allowed(facts)
    assert nearest in scenes
    best = max(score.f1(facts, scene.facts) for scene in scenes)
    assert score.f1(facts, nearest.facts) == best
    least = min(len(facts ^ scene.facts) for scene in scenes)
    assert len(facts ^ nearest.facts) == least
    assert rule.is_free == (len(scenes) > 1)
    shuffled = [sorted(facts)[i] for i in rng.permutation(len(facts))]
    assert rule.nearest_allowed(shuffled) == nearest


def test_nearest_allowed_equals_exhaustive_search_on_instructions():
  rng = np.random.default_rng(1)
  num_checked = 0
  for _ in range(300):
    example = rules.sample(rng, split="train")
    sizes = [
      np.prod(
        [
          len(s.cells) * len(s.sizes) * len(s.colours) * len(s.shapes)
          for s in pattern.slots
        ]
      )
      for pattern in example.rule.patterns
    ]
    if sum(sizes) > 500:
      continue
    num_checked += 1
    scenes = _all_scenes(example.rule)
    facts = _random_facts(rng, scenes)
    nearest = example.rule.nearest_allowed(facts)
    assert nearest in scenes
    best = max(len(facts & scene.facts) for scene in scenes)
    assert len(facts & nearest.facts) == best
    assert example.is_free == (len(scenes) > 1)
  assert num_checked > 100


def test_allows_exactly_the_allowed_scenes():
  rng = np.random.default_rng(2)
  for _ in range(40):
    rule = _random_rule(rng)
    scenes = _all_scenes(rule)
    if not scenes:
      continue
    assert all(rule.allows(scene) for scene in list(scenes)[:40])
    for _ in range(20):
      cells = rng.permutation(world.NUM_CELLS)[: int(rng.integers(0, 5))]
      scene = world.Scene(tuple(_thing(rng, cell=int(c)) for c in cells))
      assert rule.allows(scene) == (scene in scenes)


def test_ties_go_to_the_attributes_claimed():
  slot = predicate.Slot((0, 1, 2), colours=("blue",))
  rule = predicate.Rule((predicate.Pattern((), (slot,)),))
  claimed = world.Thing(2, "big", "red", "star")
  assert rule.nearest_allowed({claimed}).things == (
    world.Thing(2, "big", "blue", "star"),
  )


def test_nearest_allowed_of_a_large_claim_is_quick_and_right():
  slots = (predicate.Slot(tuple(range(16))),) * 5
  rule = predicate.Rule((predicate.Pattern((), slots),))
  everything = {
    world.Thing(cell, size, colour, "star")
    for cell in range(16)
    for size in world.SIZES
    for colour in world.COLOURS
  }
  assert rule.nearest_allowed(everything).facts <= everything


def test_assign_finds_the_heaviest_assignment():
  rng = np.random.default_rng(4)
  for _ in range(200):
    rows, columns = int(rng.integers(1, 5)), int(rng.integers(4, 7))
    weights = rng.integers(-20, 20, (rows, columns))
    chosen = predicate.assign(weights)
    assert len(set(chosen)) == rows
    best = max(
      sum(weights[row, column] for row, column in enumerate(order))
      for order in itertools.permutations(range(columns), rows)
    )
    assert sum(weights[r, c] for r, c in enumerate(chosen)) == best


def test_draw_gives_allowed_scenes_and_reaches_all_of_them():
  rng = np.random.default_rng(5)
  slot = predicate.Slot((0, 1), ("big",), ("red", "blue"), ("star",))
  rule = predicate.Rule((predicate.Pattern((), (slot, slot)),))
  drawn = {rule.draw(rng) for _ in range(100)}
  assert drawn == _all_scenes(rule)


def test_impossible_draws_return_none():
  slot = predicate.Slot((0,))
  rule = predicate.Rule((predicate.Pattern((), (slot, slot)),))
  assert rule.draw(np.random.default_rng(0)) is None


def test_bad_rules_are_refused():
  thing = world.Thing(0, "big", "red", "star")
  slot = predicate.Slot((0, 1))
  with pytest.raises(ValueError, match="equally many"):
    predicate.Rule((predicate.Pattern((thing,)), predicate.Pattern()))
  with pytest.raises(ValueError, match="equally many"):
    predicate.Rule(())
  with pytest.raises(ValueError, match="avoid fixed"):
    predicate.Rule((predicate.Pattern((thing,), (slot,)),))
