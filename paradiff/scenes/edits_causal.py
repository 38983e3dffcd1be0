"""Edit instructions of the category causal.

Two objects touch when their cells share a side. A causal instruction looks at
the source alone: what it changes does not set off further changes.
"""

import numpy as np

from paradiff.scenes import phrases
from paradiff.scenes import predicate
from paradiff.scenes import world

_NO_CHANGE_RATE = 0.12  # how often a draw without any effect is kept


def _touching(scene: world.Scene, thing: world.Thing) -> list[world.Thing]:
  """Return the objects beside `thing`, by cell."""
  around = world.neighbours(thing.cell)
  return [other for other in scene.things if other.cell in around]


def _touch_notes(
  things: list[world.Thing], centre: world.Thing
) -> tuple[str, ...]:
  """Return the clauses that say what touches `centre`."""
  names = [world.CELL_NAMES[thing.cell] for thing in things] or ["nothing"]
  centre_name = world.CELL_NAMES[centre.cell]
  return tuple(f"{name} touches {centre_name}" for name in names)


def _close_scene(rng: np.random.Generator) -> world.Scene:
  """Draw a scene in which objects often touch."""
  return phrases.random_scene(rng, min_things=3, beside_rate=0.7)


def _touch_all(rng: np.random.Generator) -> phrases.Draft | None:
  """Whatever touches one object takes on a colour, or a size."""
  scene = _close_scene(rng)
  centre = phrases.pick(rng, scene.things)
  ref = phrases.refer(rng, scene, centre)
  if ref is None:
    return None
  found = _touching(scene, centre)
  if phrases.chance(rng, 0.6):
    colour = phrases.pick(rng, world.COLOURS)
    words, value = f"turns {colour}", {"colour": colour}
  else:
    words, size = phrases.pick(rng, (("grows", "big"), ("shrinks", "small")))
    value = {"size": size}
  target = scene.replace(
    remove=found, add=[phrases.altered(t, **value) for t in found]
  )
  if target == scene and not phrases.chance(rng, _NO_CHANGE_RATE):
    return None
  prompt = f"every shape that touches {ref} {words}"
  return phrases.exactly(
    scene, target, prompt, notes=_touch_notes(found, centre)
  )


def _touch_vanish(rng: np.random.Generator) -> phrases.Draft | None:
  """Every shape of a kind that touches a kind of shape vanishes."""
  scene = _close_scene(rng)
  one, other = phrases.sample(rng, scene.things, num=2)
  kind = phrases.Kind(shape=one.shape)
  if phrases.chance(rng, 0.4):
    kind = phrases.Kind(colour=one.colour)
  cause = phrases.random_kind(rng, other)
  pairs = [
    (thing, centre)
    for thing in kind.among(scene)
    for centre in _touching(scene, thing)
    if cause.matches(centre)
  ]
  if not pairs:
    return None
  target = scene.replace(remove=[thing for thing, _ in pairs])
  notes = tuple(n for t, centre in pairs for n in _touch_notes([t], centre))
  words = phrases.article(cause.words())
  prompt = f"every {kind.words()} that touches {words} vanishes"
  return phrases.exactly(scene, target, prompt, notes=notes)


def _if_touch(rng: np.random.Generator) -> phrases.Draft | None:
  """If two objects touch, one of them changes."""
  scene = _close_scene(rng)
  one, other = phrases.sample(rng, scene.things, num=2)
  ref, other_ref = (phrases.refer(rng, scene, t) for t in (one, other))
  if ref is None or other_ref is None:
    return None
  touch = other in _touching(scene, one)
  if not touch and not phrases.chance(rng, _NO_CHANGE_RATE):
    return None
  colour = phrases.pick(rng, world.COLOURS)
  new: tuple[world.Thing, ...] = ()
  if phrases.chance(rng, 0.4):
    words = "vanishes"
  elif colour != other.colour:
    words = f"turns {colour}"
    new = (phrases.altered(other, colour=colour),)
  else:
    return None
  target = scene.replace(remove=(other,), add=new) if touch else scene
  pair = [world.CELL_NAMES[t.cell] for t in (one, other)]
  return phrases.exactly(
    scene,
    target,
    f"if {ref} touches {other_ref}, {other_ref} {words}",
    notes=(f"{pair[0]} touches {pair[1]}",) if touch else (),
  )


def _one_touching(rng: np.random.Generator) -> phrases.Draft | None:
  """One of the shapes that touch an object turns to a colour, or vanishes."""
  scene = _close_scene(rng)
  centre = phrases.pick(rng, scene.things)
  ref = phrases.refer(rng, scene, centre)
  found = _touching(scene, centre)
  if ref is None or len(found) < 2:
    return None
  colour = phrases.pick(rng, world.COLOURS)
  if phrases.chance(rng, 0.5):
    words = "vanishes"
    rule = phrases.one_of(scene, found, lambda _: None)
  elif all(thing.colour != colour for thing in found):
    words = f"turns {colour}"
    rule = phrases.one_of(
      scene,
      found,
      lambda t: phrases.exact_slot(phrases.altered(t, colour=colour)),
    )
  else:
    return None
  prompt = f"one shape that touches {ref} {words}"
  notes = _touch_notes(found, centre)
  return phrases.Draft(prompt, rule, scene, notes=notes)


def _touch_appear(rng: np.random.Generator) -> phrases.Draft | None:
  """If two objects touch, a new one appears somewhere."""
  scene = _close_scene(rng)
  one, other = phrases.sample(rng, scene.things, num=2)
  ref, other_ref = (phrases.refer(rng, scene, t) for t in (one, other))
  if ref is None or other_ref is None or other not in _touching(scene, one):
    return None
  kind = phrases.Kind(
    colour=phrases.pick(rng, world.COLOURS),
    shape=phrases.pick(rng, (*world.SHAPES, None)),
  )
  slot = kind.slot(scene.empty_cells())
  pair = [world.CELL_NAMES[t.cell] for t in (one, other)]
  return phrases.Draft(
    f"if {ref} touches {other_ref}, {phrases.article(kind.words())} appears",
    predicate.Rule((predicate.Pattern(scene.things, (slot,)),)),
    scene,
    notes=(f"{pair[0]} touches {pair[1]}",),
  )


CAUSAL: tuple[tuple[phrases.Template, ...], tuple[phrases.Template, ...]] = (
  (_touch_all, _touch_vanish, _if_touch),
  (_one_touching, _touch_appear),
)
