"""What the instruction templates share: words for objects, random scenes.

A template draws a source scene and its words at random and returns a `Draft`,
or None where the draw does not suit it (nothing to move, two objects that the
words cannot tell apart); the sampler then draws again.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from paradiff.scenes import grammar
from paradiff.scenes import lexicon
from paradiff.scenes import predicate
from paradiff.scenes import world

_T = TypeVar("_T")
MIN_SOURCE_THINGS, MAX_SOURCE_THINGS = 2, 5
MAX_TARGET_THINGS = 6
NOUNS = (*world.SHAPES, "shape")


@dataclasses.dataclass(frozen=True)
class Kind:
  """The objects that a noun phrase covers; None leaves an attribute open.

  Attributes:
    size: one of `world.SIZES` or None.
    colour: one of `world.COLOURS` or None.
    shape: one of `world.SHAPES` or None.
  """

  size: str | None = None
  colour: str | None = None
  shape: str | None = None

  def matches(self, thing: world.Thing) -> bool:
    """Return whether the phrase covers `thing`."""
    return (
      self.size in (None, thing.size)
      and self.colour in (None, thing.colour)
      and self.shape in (None, thing.shape)
    )

  def words(self, num: int = 1) -> str:
    """Return the noun phrase for `num` objects, without an article."""
    noun = (self.shape or "shape") + "s" * (num > 1)
    return " ".join(filter(None, (self.size, self.colour, noun)))

  def among(self, scene: world.Scene) -> list[world.Thing]:
    """Return the objects of `scene` that the phrase covers, by cell."""
    return [thing for thing in scene.things if self.matches(thing)]

  def slot(self, cells: Sequence[int]) -> predicate.Slot:
    """Return the slot for one such object in one of `cells`."""
    return predicate.Slot(
      tuple(cells),
      sizes=(self.size,) if self.size else world.SIZES,
      colours=(self.colour,) if self.colour else world.COLOURS,
      shapes=(self.shape,) if self.shape else world.SHAPES,
    )


@dataclasses.dataclass(frozen=True)
class Draft:
  """An instruction before a target is drawn.

  Attributes:
    prompt: the instruction.
    rule: the scenes that it allows.
    source: the scene to edit, or None when there is none.
    notes: clauses of the reasoning that explain.
    changes: the steps to state; None: the difference to the drawn target.
  """

  prompt: str
  rule: predicate.Rule
  source: world.Scene | None = None
  notes: tuple[str, ...] = ()
  changes: tuple[grammar.Change, ...] | None = None


Template = Callable[[np.random.Generator], Draft | None]


def pick(rng: np.random.Generator, values: Sequence[_T]) -> _T:
  """Return one of `values`, each with equal probability."""
  return values[int(rng.random() * len(values))]


def chance(rng: np.random.Generator, rate: float) -> bool:
  """Return True with probability `rate`."""
  return bool(rng.random() < rate)


def sample(
  rng: np.random.Generator, values: Sequence[_T], *, num: int
) -> list[_T]:
  """Return `num` distinct members of `values` in random order."""
  left = list(values)
  return [left.pop(int(rng.random() * len(left))) for _ in range(num)]


def article(words: str) -> str:
  """Return `words` behind `a` or `an`."""
  return f"{'an' if words.startswith('orange') else 'a'} {words}"


def counted(kind: Kind, num: int) -> str:
  """Return a number and the noun phrase: `two red circles`."""
  return f"{lexicon.NUMBERS[num - 1]} {kind.words(num)}"


def random_scene(
  rng: np.random.Generator,
  *,
  min_things: int = MIN_SOURCE_THINGS,
  max_things: int = MAX_SOURCE_THINGS,
  repeat_rate: float = 0.3,
  beside_rate: float = 0.2,
) -> world.Scene:
  """Draw a scene.

  Args:
    rng: source of randomness.
    min_things: fewest objects.
    max_things: most objects.
    repeat_rate: how often an object takes the colour of an earlier one, and
      likewise the shape.
    beside_rate: how often an object is put beside an earlier one.

  Returns:
    The scene.
  """
  num = min_things + int(rng.random() * (max_things + 1 - min_things))
  draws = rng.random((num, 9)).tolist()
  things: list[world.Thing] = []
  empty = list(range(world.NUM_CELLS))
  for draw in draws:
    cells = empty
    colours: tuple[str, ...] = world.COLOURS
    shapes: tuple[str, ...] = world.SHAPES
    if things:
      earlier = things[int(draw[0] * len(things))]
      if draw[1] < beside_rate:
        beside = [c for c in world.neighbours(earlier.cell) if c in empty]
        cells = beside or empty
      if draw[2] < repeat_rate:
        colours = (earlier.colour,)
      if draw[3] < repeat_rate:
        shapes = (earlier.shape,)
    cell = cells[int(draw[4] * len(cells))]
    empty.remove(cell)
    things.append(
      world.Thing(
        cell,
        world.SIZES[int(draw[5] * 2)],
        colours[int(draw[6] * len(colours))],
        shapes[int(draw[7] * len(shapes))],
      )
    )
  return world.Scene(tuple(things))


def refer(
  rng: np.random.Generator, scene: world.Scene, thing: world.Thing
) -> str | None:
  """Return words that mean `thing` alone in `scene`, or None.

  Mostly colour and shape; at times the shape, or the colour, alone if that is
  enough; the size is added only where it is needed.
  """
  forms = [
    Kind(colour=thing.colour, shape=thing.shape),
    Kind(thing.size, thing.colour, thing.shape),
  ]
  draw = rng.random()
  if draw < 0.2:
    forms.insert(0, Kind(shape=thing.shape))
  elif draw < 0.4:
    forms.insert(0, Kind(colour=thing.colour))
  for kind in forms:
    if len(kind.among(scene)) == 1:
      return f"the {kind.words()}"
  return None


def random_kind(
  rng: np.random.Generator, thing: world.Thing, *, noun_rate: float = 0.6
) -> Kind:
  """Return a noun phrase of colour and shape, or one of them, for `thing`."""
  draw = rng.random()
  if draw < noun_rate / 2:
    return Kind(colour=thing.colour, shape=thing.shape)
  if draw < noun_rate:
    return Kind(shape=thing.shape)
  return Kind(colour=thing.colour)


def shared_kinds(scene: world.Scene, *, min_num: int = 2) -> list[Kind]:
  """Return the noun phrases that cover `min_num` objects or more."""
  kinds = {Kind(colour=t.colour) for t in scene.things}
  kinds |= {Kind(shape=t.shape) for t in scene.things}
  kinds |= {Kind(colour=t.colour, shape=t.shape) for t in scene.things}
  enough = [k for k in kinds if len(k.among(scene)) >= min_num]
  return sorted(enough, key=lambda k: (k.colour or "", k.shape or ""))


def exactly(
  source: world.Scene,
  target: world.Scene,
  prompt: str,
  *,
  notes: tuple[str, ...] = (),
  changes: tuple[grammar.Change, ...] | None = None,
) -> Draft:
  """Return the draft with `target` as its only allowed scene."""
  rule = predicate.Rule.exactly(target)
  return Draft(prompt, rule, source, notes=notes, changes=changes)


def altered(thing: world.Thing, **values: str | int) -> world.Thing:
  """Return `thing` with some attributes replaced."""
  return dataclasses.replace(thing, **values)  # type: ignore[arg-type]


def one_of(
  scene: world.Scene,
  choices: Sequence[world.Thing],
  make_slot: Callable[[world.Thing], predicate.Slot | None],
) -> predicate.Rule:
  """Return the rule that changes one of `choices` and keeps all else.

  Args:
    scene: the source.
    choices: the objects of which one is changed.
    make_slot: what takes the place of an object; None when nothing does.

  Returns:
    A rule with one pattern a choice.
  """
  patterns = []
  for thing in choices:
    slot = make_slot(thing)
    patterns.append(
      predicate.Pattern(
        tuple(other for other in scene.things if other != thing),
        () if slot is None else (slot,),
      )
    )
  return predicate.Rule(tuple(patterns))


def exact_slot(thing: world.Thing) -> predicate.Slot:
  """Return the slot that only `thing` fills."""
  return predicate.Slot(
    (thing.cell,), (thing.size,), (thing.colour,), (thing.shape,)
  )


def difference(
  source: world.Scene, target: world.Scene
) -> tuple[grammar.Change, ...]:
  """Return the steps from `source` to `target`, read off the two scenes.

  An object that another one replaces in its cell changed on the spot; an
  object that is gone and turns up elsewhere with the same look moved.
  """
  gone = [t for t in source.things if t not in target.facts]
  new = [t for t in target.things if t not in source.facts]
  changes = []
  for thing in gone:
    other = next((t for t in new if t.cell == thing.cell), None)
    if other is not None:
      new.remove(other)
      changes.append(_on_the_spot(thing, other))
      continue
    twin = next((t for t in new if altered(t, cell=thing.cell) == thing), None)
    if twin is not None:
      new.remove(twin)
      changes.append(moved(thing, (twin.cell,)))
    else:
      changes.append(grammar.Change("remove", thing.cell, thing.shape))
  changes += [
    grammar.Change("add", t.cell, t.shape, (t.size, t.colour)) for t in new
  ]
  return tuple(changes)


def moved(thing: world.Thing, path: Sequence[int]) -> grammar.Change:
  """Return the change that takes `thing` along the cells of `path`."""
  names = tuple(world.CELL_NAMES[cell] for cell in path)
  return grammar.Change("move", thing.cell, thing.shape, names)


def _on_the_spot(old: world.Thing, new: world.Thing) -> grammar.Change:
  """Return the change that turns `old` into `new` in one cell."""
  differing = [
    (kind, getattr(new, name))
    for kind, name in (
      ("resize", "size"),
      ("paint", "colour"),
      ("turn", "shape"),
    )
    if getattr(old, name) != getattr(new, name)
  ]
  if len(differing) == 1:
    kind, value = differing[0]
    return grammar.Change(kind, old.cell, old.shape, (value,))
  values = (new.size, new.colour, new.shape)
  return grammar.Change("replace", old.cell, old.shape, values)
