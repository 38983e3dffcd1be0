"""Edit instructions of the categories knowledge and general."""

import numpy as np

from paradiff.scenes import lexicon
from paradiff.scenes import phrases
from paradiff.scenes import predicate
from paradiff.scenes import world

_COLOUR_NAMES = tuple(
  name for name, (what, *_) in lexicon.KNOWLEDGE.items() if what == "colour"
)


def _fact_note(name: str) -> tuple[str, ...]:
  """Return the clause that states what is known about `name`."""
  what, value, verb = lexicon.KNOWLEDGE[name]
  plural = "s" if what == "shape" else ""
  return (f"{name} {verb} {value}{plural}",)


def _make_like(rng: np.random.Generator) -> phrases.Draft | None:
  """Give one object the colour, size or shape of something known."""
  scene = phrases.random_scene(rng)
  thing = phrases.pick(rng, scene.things)
  ref = phrases.refer(rng, scene, thing)
  name = phrases.pick(rng, tuple(lexicon.KNOWLEDGE))
  what, value, _ = lexicon.KNOWLEDGE[name]
  if ref is None or getattr(thing, what) == value:
    return None
  target = scene.replace(
    remove=(thing,), add=(phrases.altered(thing, **{what: value}),)
  )
  prompt = f"make {ref} the {what} of {name}"
  return phrases.exactly(scene, target, prompt, notes=_fact_note(name))


def _remove_like(rng: np.random.Generator) -> phrases.Draft | None:
  """Remove every shape of a known colour."""
  scene = phrases.random_scene(rng, repeat_rate=0.5)
  thing = phrases.pick(rng, scene.things)
  name = phrases.pick(
    rng,
    [n for n in _COLOUR_NAMES if lexicon.KNOWLEDGE[n][1] == thing.colour],
  )
  shape = phrases.pick(rng, (thing.shape, None))
  kind = phrases.Kind(colour=thing.colour, shape=shape)
  target = scene.replace(remove=kind.among(scene))
  prompt = f"remove every {shape or 'shape'} the colour of {name}"
  return phrases.exactly(scene, target, prompt, notes=_fact_note(name))


def _add_like(rng: np.random.Generator) -> phrases.Draft | None:
  """Add one or two shapes of a known colour, anywhere or beside an object."""
  num = 1 + int(rng.random() * 2)
  scene = phrases.random_scene(
    rng, max_things=min(5, phrases.MAX_TARGET_THINGS - num)
  )
  name = phrases.pick(rng, _COLOUR_NAMES)
  kind = phrases.Kind(
    colour=lexicon.KNOWLEDGE[name][1],
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
  colour = lexicon.KNOWLEDGE[name][1]
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
    return phrases.exactly(scene, target, f"remove every {kind.words()}")
  ref = phrases.refer(rng, scene, thing)
  target = scene.replace(remove=(thing,))
  return phrases.exactly(scene, target, f"remove {ref}") if ref else None


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
  return phrases.exactly(
    scene, scene.replace(remove=(thing,), add=(new,)), prompt
  )


def _add_at(rng: np.random.Generator) -> phrases.Draft | None:
  scene = phrases.random_scene(rng)
  other = phrases.random_scene(rng, min_things=1, max_things=1).things[0]
  new = phrases.altered(other, cell=phrases.pick(rng, scene.empty_cells()))
  cell = world.CELL_NAMES[new.cell]
  prompt = f"add a {new.size} {new.colour} {new.shape} at {cell}"
  return phrases.exactly(scene, scene.replace(add=(new,)), prompt)


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


KNOWLEDGE: tuple[tuple[phrases.Template, ...], tuple[phrases.Template, ...]] = (
  (_make_like, _make_like, _remove_like),
  (_add_like, _add_like, _one_like),
)
GENERAL: tuple[tuple[phrases.Template, ...], tuple[phrases.Template, ...]] = (
  (_remove, _alter, _alter, _add_at),
  (_add, _put_beside, _one),
)
