"""Edit instructions of the categories causal, knowledge and general.

Two objects touch when their cells share a side. A causal instruction looks at
the source alone: what it changes does not set off further changes.
"""

import numpy as np

from paradiff.scenes import grammar, phrases, predicate, world

_NO_CHANGE_RATE = 0.15  # how often a draw without any effect is kept
_COLOUR_NAMES = tuple(
  name for name, (what, *_) in grammar.KNOWLEDGE.items() if what == "colour"
)


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


def _exact(
  source: world.Scene, target: world.Scene, prompt: str, **rest: tuple[str, ...]
) -> phrases.Draft:
  """Return the draft with `target` as its only allowed scene."""
  return phrases.Draft(prompt, predicate.Rule.exactly(target), source, **rest)  # type: ignore[arg-type]


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
  return _exact(scene, target, prompt, notes=_touch_notes(found, centre))


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
  return _exact(scene, target, prompt, notes=notes)


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
  if phrases.chance(rng, 0.4):
    words, new = "vanishes", ()
  elif colour != other.colour:
    words = f"turns {colour}"
    new = (phrases.altered(other, colour=colour),)
  else:
    return None
  target = scene.replace(remove=(other,), add=new) if touch else scene
  pair = [world.CELL_NAMES[t.cell] for t in (one, other)]
  return _exact(
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


def _fact_note(name: str) -> tuple[str, ...]:
  """Return the clause that states what is known about `name`."""
  what, value, verb = grammar.KNOWLEDGE[name]
  plural = "s" if what == "shape" else ""
  return (f"{name} {verb} {value}{plural}",)


def _make_like(rng: np.random.Generator) -> phrases.Draft | None:
  """Give one object the colour, size or shape of something known."""
  scene = phrases.random_scene(rng)
  thing = phrases.pick(rng, scene.things)
  ref = phrases.refer(rng, scene, thing)
  names = tuple(grammar.KNOWLEDGE)
  name = phrases.pick(rng, _COLOUR_NAMES if phrases.chance(rng, 0.6) else names)
  what, value, _ = grammar.KNOWLEDGE[name]
  if ref is None or getattr(thing, what) == value:
    return None
  target = scene.replace(
    remove=(thing,), add=(phrases.altered(thing, **{what: value}),)
  )
  prompt = f"make {ref} the {what} of {name}"
  return _exact(scene, target, prompt, notes=_fact_note(name))


def _remove_like(rng: np.random.Generator) -> phrases.Draft | None:
  """Remove every shape of a known colour."""
  scene = phrases.random_scene(rng, repeat_rate=0.5)
  thing = phrases.pick(rng, scene.things)
  name = phrases.pick(
    rng,
    [n for n in _COLOUR_NAMES if grammar.KNOWLEDGE[n][1] == thing.colour],
  )
  shape = phrases.pick(rng, (thing.shape, None))
  kind = phrases.Kind(colour=thing.colour, shape=shape)
  target = scene.replace(remove=kind.among(scene))
  prompt = f"remove every {shape or 'shape'} the colour of {name}"
  return _exact(scene, target, prompt, notes=_fact_note(name))


def _add_like(rng: np.random.Generator) -> phrases.Draft | None:
  """Add one or two shapes of a known colour, anywhere or beside an object."""
  num = 1 + int(rng.random() * 2)
  scene = phrases.random_scene(
    rng, max_things=min(5, phrases.MAX_TARGET_THINGS - num)
  )
  name = phrases.pick(rng, _COLOUR_NAMES)
  kind = phrases.Kind(
    colour=grammar.KNOWLEDGE[name][1],
    shape=phrases.pick(rng, (*world.SHAPES, None)),
  )
  noun = phrases.Kind(shape=kind.shape)
  cells = scene.empty_cells()
  words = phrases.counted(noun, num) if num > 1 else f"a {noun.words()}"
  prompt = f"add {words} the colour of {name}"
  if num == 1 and phrases.chance(rng, 0.5):
    thing = phrases.pick(rng, scene.things)
    ref = phrases.refer(rng, scene, thing)
    around = world.neighbours(thing.cell)
    cells = tuple(cell for cell in cells if cell in around)
    if ref is None or not cells:
      return None
    prompt = f"put {words} the colour of {name} beside {ref}"
  slots = (kind.slot(cells),) * num
  return phrases.Draft(
    prompt,
    predicate.Rule((predicate.Pattern(scene.things, slots),)),
    scene,
    notes=_fact_note(name),
  )


def _one_like(rng: np.random.Generator) -> phrases.Draft | None:
  """Give one of several objects a known colour."""
  scene = phrases.random_scene(rng, min_things=3, repeat_rate=0.6)
  kinds = phrases.shared_kinds(scene)
  name = phrases.pick(rng, _COLOUR_NAMES)
  colour = grammar.KNOWLEDGE[name][1]
  if not kinds:
    return None
  kind = phrases.pick(rng, kinds)
  found = kind.among(scene)
  if any(thing.colour == colour for thing in found):
    return None
  rule = phrases.one_of(
    scene,
    found,
    lambda t: phrases.exact_slot(phrases.altered(t, colour=colour)),
  )
  prompt = f"make one {kind.words()} the colour of {name}"
  return phrases.Draft(prompt, rule, scene, notes=_fact_note(name))


def _remove(rng: np.random.Generator) -> phrases.Draft | None:
  scene = phrases.random_scene(rng)
  thing = phrases.pick(rng, scene.things)
  if phrases.chance(rng, 0.5):
    kind = phrases.random_kind(rng, thing)
    target = scene.replace(remove=kind.among(scene))
    return _exact(scene, target, f"remove every {kind.words()}")
  ref = phrases.refer(rng, scene, thing)
  target = scene.replace(remove=(thing,))
  return _exact(scene, target, f"remove {ref}") if ref else None


def _alter(rng: np.random.Generator) -> phrases.Draft | None:
  """Recolour, resize or reshape one object, or replace it by another."""
  scene = phrases.random_scene(rng)
  thing = phrases.pick(rng, scene.things)
  ref = phrases.refer(rng, scene, thing)
  other = phrases.random_scene(rng, min_things=1, max_things=1).things[0]
  new, prompt = phrases.pick(
    rng,
    (
      (
        phrases.altered(thing, colour=other.colour),
        f"paint {ref} {other.colour}",
      ),
      (phrases.altered(thing, size=other.size), f"make {ref} {other.size}"),
      (
        phrases.altered(thing, shape=other.shape),
        f"turn {ref} into {phrases.article(other.shape)}",
      ),
      (
        phrases.altered(other, cell=thing.cell),
        f"replace {ref} with a {other.size} {other.colour} {other.shape}",
      ),
    ),
  )
  if ref is None or new == thing:
    return None
  return _exact(scene, scene.replace(remove=(thing,), add=(new,)), prompt)


def _add_at(rng: np.random.Generator) -> phrases.Draft | None:
  scene = phrases.random_scene(rng)
  other = phrases.random_scene(rng, min_things=1, max_things=1).things[0]
  new = phrases.altered(other, cell=phrases.pick(rng, scene.empty_cells()))
  cell = world.CELL_NAMES[new.cell]
  prompt = f"add a {new.size} {new.colour} {new.shape} at {cell}"
  return _exact(scene, scene.replace(add=(new,)), prompt)


def _add(rng: np.random.Generator) -> phrases.Draft | None:
  """Add one to three objects anywhere."""
  num = 1 + int(rng.random() * 3)
  scene = phrases.random_scene(
    rng, max_things=min(5, phrases.MAX_TARGET_THINGS - num)
  )
  kind = phrases.Kind(
    colour=phrases.pick(rng, world.COLOURS),
    shape=phrases.pick(rng, (*world.SHAPES, None)),
  )
  slots = (kind.slot(scene.empty_cells()),) * num
  rule = predicate.Rule((predicate.Pattern(scene.things, slots),))
  words = (
    phrases.counted(kind, num) if num > 1 else phrases.article(kind.words())
  )
  return phrases.Draft(f"add {words}", rule, scene)


def _put_beside(rng: np.random.Generator) -> phrases.Draft | None:
  scene = phrases.random_scene(rng)
  thing = phrases.pick(rng, scene.things)
  ref = phrases.refer(rng, scene, thing)
  around = world.neighbours(thing.cell)
  cells = [cell for cell in scene.empty_cells() if cell in around]
  if ref is None or not cells:
    return None
  colour = phrases.pick(rng, world.COLOURS)
  slot = phrases.Kind(colour=colour).slot(cells)
  return phrases.Draft(
    f"put something {colour} beside {ref}",
    predicate.Rule((predicate.Pattern(scene.things, (slot,)),)),
    scene,
  )


def _one(rng: np.random.Generator) -> phrases.Draft | None:
  """Remove or recolour one of several objects."""
  scene = phrases.random_scene(rng, min_things=3, repeat_rate=0.6)
  kinds = phrases.shared_kinds(scene)
  if not kinds:
    return None
  kind = phrases.pick(rng, kinds)
  found = kind.among(scene)
  words = f"one of the {kind.words(2)}"
  if phrases.chance(rng, 0.5):
    rule = phrases.one_of(scene, found, lambda _: None)
    return phrases.Draft(f"remove {words}", rule, scene)
  colour = phrases.pick(rng, world.COLOURS)
  if any(thing.colour == colour for thing in found):
    return None
  rule = phrases.one_of(
    scene,
    found,
    lambda t: phrases.exact_slot(phrases.altered(t, colour=colour)),
  )
  return phrases.Draft(f"paint {words} {colour}", rule, scene)


CAUSAL: tuple[tuple[phrases.Template, ...], tuple[phrases.Template, ...]] = (
  (_touch_all, _touch_vanish, _if_touch),
  (_one_touching, _touch_appear),
)
KNOWLEDGE: tuple[tuple[phrases.Template, ...], tuple[phrases.Template, ...]] = (
  (_make_like, _make_like, _remove_like),
  (_add_like, _add_like, _one_like),
)
GENERAL: tuple[tuple[phrases.Template, ...], tuple[phrases.Template, ...]] = (
  (_remove, _alter, _alter, _add_at),
  (_add, _put_beside, _one),
)
