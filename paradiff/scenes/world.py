"""What a scene is: coloured shapes in the cells of a small square canvas.

A scene holds at most one object a cell. A *fact* about a scene is one object
with its cell, size, colour and shape; two pictures agree when their facts do.
Cells are numbered in raster order and named like a chess board's, column
letter first: cell 0 is `a1` (top left), cell 6 is `c2`, cell 15 is `d4`.
"""

import dataclasses
from collections.abc import Iterable

GRID_SIZE = 4  # cells a side
NUM_CELLS = GRID_SIZE * GRID_SIZE
CELL_PIXELS = 16
PICTURE_SIZE = GRID_SIZE * CELL_PIXELS  # pixels a side

SHAPES = ("circle", "square", "triangle", "star")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
SIZES = ("small", "big")
CELL_NAMES = tuple(
  f"{'abcd'[cell % GRID_SIZE]}{cell // GRID_SIZE + 1}"
  for cell in range(NUM_CELLS)
)


@dataclasses.dataclass(frozen=True, order=True)
class Thing:
  """One object: a fact about a scene.

  Attributes:
    cell: raster index in [0, NUM_CELLS).
    size: one of SIZES.
    colour: one of COLOURS.
    shape: one of SHAPES.
  """

  cell: int
  size: str
  colour: str
  shape: str

  def __post_init__(self) -> None:
    if not 0 <= self.cell < NUM_CELLS:
      raise ValueError(f"cell must lie in [0, {NUM_CELLS}), got {self.cell=}")
    for name, allowed in (
      ("size", SIZES),
      ("colour", COLOURS),
      ("shape", SHAPES),
    ):
      value = getattr(self, name)
      if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}")


@dataclasses.dataclass(frozen=True)
class Scene:
  """A set of objects in distinct cells, kept sorted by cell.

  Raises:
    ValueError: if two objects share a cell.
  """

  things: tuple[Thing, ...] = ()

  def __post_init__(self) -> None:
    ordered = tuple(sorted(self.things))
    cells = [thing.cell for thing in ordered]
    if len(set(cells)) != len(cells):
      raise ValueError(f"a cell holds at most one object, got {cells=}")
    object.__setattr__(self, "things", ordered)

  @property
  def facts(self) -> frozenset[Thing]:
    """The scene as a set of facts."""
    return frozenset(self.things)

  def at(self, cell: int) -> Thing | None:
    """Return the object in `cell`, or None if the cell is empty."""
    return next((t for t in self.things if t.cell == cell), None)

  def empty_cells(self) -> tuple[int, ...]:
    """Return the cells without an object, ascending."""
    taken = {thing.cell for thing in self.things}
    return tuple(cell for cell in range(NUM_CELLS) if cell not in taken)

  def replace(
    self, *, remove: Iterable[Thing] = (), add: Iterable[Thing] = ()
  ) -> "Scene":
    """Return a scene without `remove` and with `add`."""
    return Scene(tuple(self.facts - set(remove)) + tuple(add))


def neighbours(cell: int) -> tuple[int, ...]:
  """Return the cells that share a side with `cell`, ascending."""
  row, column = divmod(cell, GRID_SIZE)
  steps = (
    (row - 1, column),
    (row, column - 1),
    (row, column + 1),
    (row + 1, column),
  )
  return tuple(
    r * GRID_SIZE + c
    for r, c in steps
    if 0 <= r < GRID_SIZE and 0 <= c < GRID_SIZE
  )
