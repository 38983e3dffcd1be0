"""Which scenes an instruction allows, and the nearest of them to some facts.

A rule is a choice between patterns. A pattern keeps some objects fixed and
fills slots: a slot is one object whose cell, size, colour and shape must lie
in given sets, and no two objects share a cell. "Remove one of the circles" is
one pattern a circle; "add two blue shapes" is one pattern with two slots.
Every allowed scene of a rule has equally many objects, so the scene with the
best F1 against any facts is the one that shares most facts with them. It is
built by matching slots to cells; scenes are never enumerated.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from paradiff.scenes import world

_FACT = 64  # weight of a whole fact, above the sum of all partial weights
_FORBIDDEN = -(10**6)


@dataclasses.dataclass(frozen=True)
class Slot:
  """One object that is only partly determined.

  Attributes:
    cells: the cells that it may take, none of which holds a fixed object.
    sizes: the sizes that it may have.
    colours: the colours that it may have.
    shapes: the shapes that it may have.
  """

  cells: tuple[int, ...]
  sizes: tuple[str, ...] = world.SIZES
  colours: tuple[str, ...] = world.COLOURS
  shapes: tuple[str, ...] = world.SHAPES

  def fits(self, thing: world.Thing) -> bool:
    """Return whether `thing` fills the slot."""
    return (
      thing.cell in self.cells
      and thing.size in self.sizes
      and thing.colour in self.colours
      and thing.shape in self.shapes
    )

  def nearest(self, cell: int, claims: list[world.Thing]) -> world.Thing:
    """Return the object in `cell` that shares most with one of `claims`."""
    best = max(claims, key=self.weight, default=None)
    values = []
    for name, allowed in (
      ("size", self.sizes),
      ("colour", self.colours),
      ("shape", self.shapes),
    ):
      claimed = getattr(best, name, None)
      values.append(claimed if claimed in allowed else allowed[0])
    return world.Thing(cell, *values)

  def weight(self, thing: world.Thing) -> int:
    """Return how much of `thing`, in an allowed cell, the slot can take."""
    shared = (
      (thing.size in self.sizes)
      + (thing.colour in self.colours)
      + (thing.shape in self.shapes)
    )
    return _FACT if shared == 3 else 1 + shared


@dataclasses.dataclass(frozen=True)
class Pattern:
  """A set of scenes: fixed objects, and slots to fill beside them."""

  fixed: tuple[world.Thing, ...] = ()
  slots: tuple[Slot, ...] = ()


def assign(weights: np.ndarray) -> list[int]:
  """Give every row its own column so that the summed weight is greatest.

  Args:
    weights: int[rows, columns], with no more rows than columns.

  Returns:
    The column of each row.

  Source: Kuhn-Munkres with potentials, rows added one by one.
  """
  num_rows, num_columns = weights.shape
  cost = (-weights).tolist()
  row_of = [-1] * num_columns
  row_price, column_price = [0] * num_rows, [0] * num_columns
  for new_row in range(num_rows):
    slack = [10**9] * num_columns
    came_from = [-1] * num_columns
    seen = [False] * num_columns
    row, column = new_row, -1
    while True:
      best = -1
      for c in range(num_columns):
        if not seen[c]:
          gap = cost[row][c] - row_price[row] - column_price[c]
          if gap < slack[c]:
            slack[c], came_from[c] = gap, column
          if best < 0 or slack[c] < slack[best]:
            best = c
      delta = slack[best]
      row_price[new_row] += delta
      for c in range(num_columns):
        if seen[c]:
          row_price[row_of[c]] += delta
          column_price[c] -= delta
        else:
          slack[c] -= delta
      column, seen[best] = best, True
      if row_of[column] < 0:
        break
      row = row_of[column]
    while column >= 0:
      previous = came_from[column]
      row_of[column] = row_of[previous] if previous >= 0 else new_row
      column = previous
  columns = [-1] * num_rows
  for c, r in enumerate(row_of):
    if r >= 0:
      columns[r] = c
  return columns


def _fill(
  pattern: Pattern, claims: dict[int, list[world.Thing]]
) -> tuple[int, list[world.Thing]] | None:
  """Return the best weight and objects for the slots; None if none fit."""
  if not pattern.slots:
    return 0, []
  weights = np.full((len(pattern.slots), world.NUM_CELLS), _FORBIDDEN, np.int64)
  for row, slot in enumerate(pattern.slots):
    for cell in slot.cells:
      weights[row, cell] = max(
        map(slot.weight, claims.get(cell, ())), default=0
      )
  columns = (
    [int(weights[0].argmax())] if len(pattern.slots) == 1 else assign(weights)
  )
  total = sum(int(weights[row, cell]) for row, cell in enumerate(columns))
  if total < 0:
    return None
  return total, [
    slot.nearest(cell, claims.get(cell, []))
    for slot, cell in zip(pattern.slots, columns, strict=True)
  ]


@dataclasses.dataclass(frozen=True)
class Rule:
  """The scenes that an instruction allows.

  Raises:
    ValueError: if there is no pattern, if patterns differ in the number of
      objects, or if a slot may take the cell of a fixed object.
  """

  patterns: tuple[Pattern, ...]

  def __post_init__(self) -> None:
    counts = {len(p.fixed) + len(p.slots) for p in self.patterns}
    if len(counts) != 1:
      raise ValueError(
        "patterns must exist and have equally many objects, got "
        f"{sorted(counts)}"
      )
    for pattern in self.patterns:
      taken = {thing.cell for thing in pattern.fixed}
      if any(taken.intersection(slot.cells) for slot in pattern.slots):
        raise ValueError(f"slots must avoid fixed objects, got {pattern}")

  @classmethod
  def exactly(cls, scene: world.Scene) -> "Rule":
    """Return the rule that allows `scene` alone."""
    return cls((Pattern(scene.things),))

  def nearest_allowed(self, facts: Iterable[world.Thing]) -> world.Scene:
    """Return the allowed scene that shares most facts with `facts`.

    Ties are broken by the attributes of objects in the same cell, then by
    the order of patterns, cells and attribute values.

    Args:
      facts: any claimed objects, several in a cell too.

    Returns:
      The scene of highest F1 against `facts`.

    Raises:
      ValueError: if the rule allows no scene at all.
    """
    claimed = set(facts)
    claims: dict[int, list[world.Thing]] = {}
    for thing in sorted(claimed):
      claims.setdefault(thing.cell, []).append(thing)
    best: tuple[int, tuple[world.Thing, ...]] | None = None
    for pattern in self.patterns:
      filled = _fill(pattern, claims)
      if filled is None:
        continue
      weight = filled[0] + _FACT * len(claimed.intersection(pattern.fixed))
      if best is None or weight > best[0]:
        best = weight, (*pattern.fixed, *filled[1])
    if best is None:
      raise ValueError(f"a rule must allow a scene, got {self}")
    return world.Scene(best[1])

  def allows(self, scene: world.Scene) -> bool:
    """Return whether `scene` is one of the allowed scenes."""
    return self.nearest_allowed(scene.facts) == scene

  @property
  def is_free(self) -> bool:
    """Whether more than one scene is allowed."""
    first = self.nearest_allowed(())
    for pattern in self.patterns:
      things = [*pattern.fixed]
      for slot in pattern.slots:
        things += [
          world.Thing(cell, size, colour, shape)
          for cell in slot.cells
          for size in slot.sizes
          for colour in slot.colours
          for shape in slot.shapes
        ]
      for thing in things:
        if thing in first.facts:
          continue
        if thing in self.nearest_allowed((thing,)).facts:
          return True
    return False

  def draw(self, rng: np.random.Generator) -> world.Scene | None:
    """Return one allowed scene at random, or None if the draw got stuck."""
    patterns = self.patterns
    pattern = patterns[int(rng.random() * len(patterns))]
    things = list(pattern.fixed)
    taken: set[int] = set()
    for slot in pattern.slots:
      cells = [cell for cell in slot.cells if cell not in taken]
      if not cells:
        return None
      cell = cells[int(rng.random() * len(cells))]
      taken.add(cell)
      size, colour, shape = (
        values[int(rng.random() * len(values))]
        for values in (slot.sizes, slot.colours, slot.shapes)
      )
      things.append(world.Thing(cell, size, colour, shape))
    return world.Scene(tuple(things))
