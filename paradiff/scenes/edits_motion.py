"""Edit instructions of the categories spatial and temporal.

In temporal instructions a tick moves the objects concerned one after the
other, those furthest along first; each goes one cell if that cell lies on the
canvas and is empty by then, and else waits. Rainbow colours follow the order
of `world.COLOURS`; after purple comes red.
"""

import numpy as np

from paradiff.scenes import grammar
from paradiff.scenes import lexicon
from paradiff.scenes import phrases
from paradiff.scenes import predicate
from paradiff.scenes import world

_SIDE = world.GRID_SIZE
STEPS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
_BESIDE = {
  "just left of": "left",
  "just right of": "right",
  "just above": "up",
  "just below": "down",
}
_TICK_VERBS = {
  "falls": "down",
  "rises": "up",
  "drifts left": "left",
  "drifts right": "right",
}
CORNERS = (0, _SIDE - 1, _SIDE * (_SIDE - 1), _SIDE * _SIDE - 1)
_LINES = {
  "top row": tuple(range(_SIDE)),
  "bottom row": tuple(range(_SIDE * (_SIDE - 1), _SIDE * _SIDE)),
  "left column": tuple(range(0, _SIDE * _SIDE, _SIDE)),
  "right column": tuple(range(_SIDE - 1, _SIDE * _SIDE, _SIDE)),
}


def stepped(cell: int, direction: str) -> int | None:
  """Return the next cell in `direction`, or None beyond the canvas."""
  row, column = divmod(cell, _SIDE)
  row, column = row + STEPS[direction][0], column + STEPS[direction][1]
  inside = 0 <= row < _SIDE and 0 <= column < _SIDE
  return row * _SIDE + column if inside else None


def _two_refs(
  rng: np.random.Generator, scene: world.Scene
) -> tuple[world.Thing, world.Thing, str, str] | None:
  """Return two objects and words for each, or None."""
  one, other = phrases.sample(rng, scene.things, num=2)
  ref, other_ref = (phrases.refer(rng, scene, thing) for thing in (one, other))
  return (one, other, ref, other_ref) if ref and other_ref else None


def _to(
  scene: world.Scene, thing: world.Thing, cell: int, prompt: str
) -> phrases.Draft:
  """Return the draft that moves `thing` to `cell`."""
  target = scene.replace(
    remove=(thing,), add=(phrases.altered(thing, cell=cell),)
  )
  return phrases.Draft(prompt, predicate.Rule.exactly(target), scene)


def _to_any(
  scene: world.Scene, thing: world.Thing, cells: list[int], prompt: str
) -> phrases.Draft | None:
  """Return the draft that moves `thing` to one of `cells`."""
  if not cells:
    return None
  kind = phrases.Kind(thing.size, thing.colour, thing.shape)
  rule = phrases.one_of(scene, (thing,), lambda _: kind.slot(cells))
  return phrases.Draft(prompt, rule, scene)


def _step(rng: np.random.Generator) -> phrases.Draft | None:
  scene = phrases.random_scene(rng)
  thing = phrases.pick(rng, scene.things)
  direction = phrases.pick(rng, tuple(STEPS))
  ref, cell = phrases.refer(rng, scene, thing), stepped(thing.cell, direction)
  if ref is None or cell is None or scene.at(cell):
    return None
  return _to(scene, thing, cell, f"move {ref} one step {direction}")


def _to_cell(rng: np.random.Generator) -> phrases.Draft | None:
  scene = phrases.random_scene(rng)
  thing = phrases.pick(rng, scene.things)
  ref = phrases.refer(rng, scene, thing)
  cell = phrases.pick(rng, scene.empty_cells())
  name = world.CELL_NAMES[cell]
  return _to(scene, thing, cell, f"move {ref} to {name}") if ref else None


def _next_to(rng: np.random.Generator) -> phrases.Draft | None:
  scene = phrases.random_scene(rng)
  found = _two_refs(rng, scene)
  if found is None:
    return None
  thing, other, ref, other_ref = found
  words = phrases.pick(rng, tuple(_BESIDE))
  cell = stepped(other.cell, _BESIDE[words])
  if cell is None or scene.at(cell):
    return None
  return _to(scene, thing, cell, f"move {ref} {words} {other_ref}")


def _swap(rng: np.random.Generator) -> phrases.Draft | None:
  scene = phrases.random_scene(rng)
  found = _two_refs(rng, scene)
  if found is None:
    return None
  one, other, ref, other_ref = found
  target = scene.replace(
    remove=(one, other),
    add=(
      phrases.altered(one, cell=other.cell),
      phrases.altered(other, cell=one.cell),
    ),
  )
  return phrases.Draft(
    f"swap {ref} and {other_ref}",
    predicate.Rule.exactly(target),
    scene,
    changes=(
      phrases.moved(one, (other.cell,)),
      phrases.moved(other, (one.cell,)),
    ),
  )


def _beside(rng: np.random.Generator) -> phrases.Draft | None:
  scene = phrases.random_scene(rng)
  found = _two_refs(rng, scene)
  if found is None:
    return None
  thing, other, ref, other_ref = found
  around = world.neighbours(other.cell)
  if thing.cell in around:
    return None
  cells = [cell for cell in scene.empty_cells() if cell in around]
  return _to_any(scene, thing, cells, f"move {ref} beside {other_ref}")


def _corner(rng: np.random.Generator) -> phrases.Draft | None:
  scene = phrases.random_scene(rng)
  thing = phrases.pick(rng, scene.things)
  ref = phrases.refer(rng, scene, thing)
  cells = [cell for cell in CORNERS if cell in scene.empty_cells()]
  if ref is None:
    return None
  return _to_any(scene, thing, cells, f"move {ref} to an empty corner")


def _line(rng: np.random.Generator) -> phrases.Draft | None:
  scene = phrases.random_scene(rng)
  thing = phrases.pick(rng, scene.things)
  ref = phrases.refer(rng, scene, thing)
  words = phrases.pick(rng, tuple(_LINES))
  if ref is None or thing.cell in _LINES[words]:
    return None
  cells = [cell for cell in _LINES[words] if cell in scene.empty_cells()]
  return _to_any(scene, thing, cells, f"move {ref} into the {words}")


def run_ticks(
  scene: world.Scene, kind: phrases.Kind, *, direction: str, num_ticks: int
) -> dict[world.Thing, list[int]]:
  """Move every object of `kind` as ticks do.

  Args:
    scene: where they start.
    kind: which objects move.
    direction: one of `STEPS`.
    num_ticks: how many ticks.

  Returns:
    The cells that each of the objects passes, without the first.
  """
  row_step, column_step = STEPS[direction]
  stride = row_step * _SIDE + column_step
  paths: dict[world.Thing, list[int]] = {t: [] for t in kind.among(scene)}
  taken = {thing.cell for thing in scene.things}
  for _ in range(num_ticks):
    where = {t: path[-1] if path else t.cell for t, path in paths.items()}
    for thing in sorted(paths, key=lambda t: where[t] * stride, reverse=True):
      cell = stepped(where[thing], direction)
      if cell is not None and cell not in taken:
        taken.remove(where[thing])
        taken.add(cell)
        paths[thing].append(cell)
  return paths


def _ticks(rng: np.random.Generator) -> phrases.Draft | None:
  scene = phrases.random_scene(rng)
  kind = phrases.random_kind(rng, phrases.pick(rng, scene.things))
  verb = phrases.pick(rng, tuple(_TICK_VERBS))
  num = 1 + int(rng.random() * 3)
  paths = run_ticks(scene, kind, direction=_TICK_VERBS[verb], num_ticks=num)
  movers = [thing for thing, path in paths.items() if path]
  if not movers:
    return None
  target = scene.replace(
    remove=movers,
    add=[phrases.altered(t, cell=paths[t][-1]) for t in movers],
  )
  changes = [
    phrases.moved(thing, path)
    if path
    else grammar.Change("keep", thing.cell, thing.shape)
    for thing, path in paths.items()
  ]
  return phrases.Draft(
    f"each tick every {kind.words()} {verb} one cell, show {_show(num)}",
    predicate.Rule.exactly(target),
    scene,
    changes=tuple(changes),
  )


def _show(num_ticks: int) -> str:
  """Return `one tick`, `two ticks` and so on."""
  return f"{lexicon.NUMBERS[num_ticks - 1]} tick{'s' * (num_ticks > 1)}"


def _rainbow(rng: np.random.Generator) -> phrases.Draft | None:
  scene = phrases.random_scene(rng)
  thing = phrases.pick(rng, scene.things)
  ref = phrases.refer(rng, scene, thing)
  if ref is None:
    return None
  num = 1 + int(rng.random() * 3)
  start = world.COLOURS.index(thing.colour)
  colours = tuple(
    world.COLOURS[(start + tick) % len(world.COLOURS)]
    for tick in range(1, num + 1)
  )
  target = scene.replace(
    remove=(thing,), add=(phrases.altered(thing, colour=colours[-1]),)
  )
  return phrases.Draft(
    f"each tick {ref} takes the next rainbow colour, show {_show(num)}",
    predicate.Rule.exactly(target),
    scene,
    changes=(grammar.Change("paint", thing.cell, thing.shape, colours),),
  )


def _appear(rng: np.random.Generator) -> phrases.Draft | None:
  num = 1 + int(rng.random() * 2)
  scene = phrases.random_scene(
    rng, max_things=min(5, phrases.MAX_TARGET_THINGS - num)
  )
  colour = phrases.pick(rng, world.COLOURS)
  kind = phrases.Kind(
    colour=colour, shape=phrases.pick(rng, (*world.SHAPES, None))
  )
  slot = kind.slot(scene.empty_cells())
  rule = predicate.Rule((predicate.Pattern(scene.things, (slot,) * num),))
  words = phrases.article(kind.words())
  prompt = f"each tick {words} appears, show {_show(num)}"
  return phrases.Draft(prompt, rule, scene)


def _vanish(rng: np.random.Generator) -> phrases.Draft | None:
  scene = phrases.random_scene(rng, min_things=3, repeat_rate=0.6)
  kinds = phrases.shared_kinds(scene)
  if not kinds:
    return None
  kind = phrases.pick(rng, kinds)
  found = kind.among(scene)
  if len(found) > 2 and phrases.chance(rng, 0.5):
    num, patterns = (
      2,
      [
        tuple(t for t in scene.things if t not in (found[i], found[j]))
        for i in range(len(found))
        for j in range(i)
      ],
    )
  else:
    num, patterns = (
      1,
      [tuple(t for t in scene.things if t != gone) for gone in found],
    )
  return phrases.Draft(
    f"each tick one {kind.words()} vanishes, show {_show(num)}",
    predicate.Rule(tuple(map(predicate.Pattern, patterns))),
    scene,
  )


def _one_turns(rng: np.random.Generator) -> phrases.Draft | None:
  scene = phrases.random_scene(rng, min_things=3, repeat_rate=0.6)
  kinds = phrases.shared_kinds(scene)
  if not kinds:
    return None
  kind, colour = phrases.pick(rng, kinds), phrases.pick(rng, world.COLOURS)
  found = kind.among(scene)
  if any(thing.colour == colour for thing in found):
    return None
  rule = phrases.one_of(
    scene,
    found,
    lambda t: phrases.exact_slot(phrases.altered(t, colour=colour)),
  )
  prompt = f"after one tick one {kind.words()} becomes {colour}"
  return phrases.Draft(prompt, rule, scene)


SPATIAL: tuple[tuple[phrases.Template, ...], tuple[phrases.Template, ...]] = (
  (_step, _to_cell, _next_to, _swap),
  (_beside, _corner, _line),
)
TEMPORAL: tuple[tuple[phrases.Template, ...], tuple[phrases.Template, ...]] = (
  (_ticks, _ticks, _rainbow),
  (_appear, _vanish, _one_turns),
)
