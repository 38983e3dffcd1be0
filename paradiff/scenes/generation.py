"""Instructions that ask for a picture from words alone.

Nothing is left out and nothing added: the picture shows the objects named and
no others. `just left of` means in the next cell; what is not named is free.
"""

import numpy as np

from paradiff.scenes import edits_motion
from paradiff.scenes import phrases
from paradiff.scenes import predicate
from paradiff.scenes import world

_ALL_CELLS = tuple(range(world.NUM_CELLS))
_RELATIONS = {
  "just left of": "right",
  "just right of": "left",
  "just above": "down",
  "just below": "up",
}


def _random_kind(rng: np.random.Generator) -> phrases.Kind:
  """Draw a colour and a shape."""
  return phrases.Kind(
    colour=phrases.pick(rng, world.COLOURS),
    shape=phrases.pick(rng, world.SHAPES),
  )


def counts(rng: np.random.Generator) -> phrases.Draft | None:
  """Draw `draw three red circles`, at times with a size."""
  num = 1 + int(rng.random() * 5)
  plain = _random_kind(rng)
  size = phrases.pick(rng, (None, *world.SIZES))
  kind = phrases.Kind(size, plain.colour, plain.shape)
  slots = (kind.slot(_ALL_CELLS),) * num
  rule = predicate.Rule((predicate.Pattern((), slots),))
  return phrases.Draft(f"draw {phrases.counted(kind, num)}", rule)


def two_objects(rng: np.random.Generator) -> phrases.Draft | None:
  """Draw `draw a red circle and a blue square`."""
  one, other = _random_kind(rng), _random_kind(rng)
  if one == other:
    return None
  slots = (one.slot(_ALL_CELLS), other.slot(_ALL_CELLS))
  words = [phrases.article(kind.words()) for kind in (one, other)]
  rule = predicate.Rule((predicate.Pattern((), slots),))
  return phrases.Draft(f"draw {words[0]} and {words[1]}", rule)


def relations(rng: np.random.Generator) -> phrases.Draft | None:
  """Draw `draw a red circle just left of a blue square`."""
  one, other = _random_kind(rng), _random_kind(rng)
  if one == other:
    return None
  relation = phrases.pick(rng, tuple(_RELATIONS))
  patterns = []
  for cell in _ALL_CELLS:
    other_cell = edits_motion.stepped(cell, _RELATIONS[relation])
    if other_cell is not None:
      slots = (one.slot((cell,)), other.slot((other_cell,)))
      patterns.append(predicate.Pattern((), slots))
  words = [phrases.article(kind.words()) for kind in (one, other)]
  prompt = f"draw {words[0]} {relation} {words[1]}"
  return phrases.Draft(prompt, predicate.Rule(tuple(patterns)))


def attributes(rng: np.random.Generator) -> phrases.Draft | None:
  """Draw `draw a big red star and a small blue circle`, two or three."""
  num = 2 + int(rng.random() * 2)
  kinds = []
  for _ in range(num):
    kind = _random_kind(rng)
    size = phrases.pick(rng, world.SIZES)
    kinds.append(phrases.Kind(size, kind.colour, kind.shape))
  if len(set(kinds)) < num:
    return None
  slots = tuple(kind.slot(_ALL_CELLS) for kind in kinds)
  words = [phrases.article(kind.words()) for kind in kinds]
  rule = predicate.Rule((predicate.Pattern((), slots),))
  return phrases.Draft(f"draw {' and '.join(words)}", rule)
