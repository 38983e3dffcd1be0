"""The small language of the scenes world: writing and reading reasoning.

A reasoning text has up to three parts, each a sentence: notes that explain
(`grass is green`, `a1 touches a2`), the changes, and the full list of what
the target shows, in raster order:

    grass is green. paint star at b2 green. result: b2 big green star.

Reading is tolerant: any string, also one with holes, gives a `ParsedText`.
An object in the list is always the four words cell, size, colour, shape.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence

from paradiff.scenes import lexicon
from paradiff.scenes import world

MAX_PROMPT_LEN = 20  # tokens: words and punctuation marks
MAX_REASONING_LEN = 47

WORDS = lexicon.WORDS  # all that a prompt or a reasoning can contain

_CELLS = {name: cell for cell, name in enumerate(world.CELL_NAMES)}
_TOKEN = re.compile(r"[.,:]|[^\s.,:]+")


@dataclasses.dataclass(frozen=True, order=True)
class Change:
  """One claimed step from the source to the target.

  Attributes:
    kind: one of `add`, `remove`, `move`, `paint`, `resize`, `turn`,
      `replace` or `keep`.
    cell: where the object is; for `add`, where it will be.
    shape: the object's shape before the change; for `add`, after it.
    values: for `add` (size, colour); `move` the cells on the way, as names;
      `paint` the colours on the way; `resize` the size; `turn` the shape;
      `replace` (size, colour, shape); else empty.
  """

  kind: str
  cell: int
  shape: str
  values: tuple[str, ...] = ()


def tokenize(text: str) -> list[str]:
  """Return the words and punctuation marks of `text`."""
  return _TOKEN.findall(text)


def write_thing(thing: world.Thing) -> str:
  """Return the four words that state `thing`."""
  cell = world.CELL_NAMES[thing.cell]
  return f"{cell} {thing.size} {thing.colour} {thing.shape}"


def write_change(change: Change) -> str:
  """Return the clause that states `change`."""
  shape, values = change.shape, change.values
  cell = world.CELL_NAMES[change.cell]
  if change.kind == "add":
    return f"add {values[0]} {values[1]} {shape} at {cell}"
  if change.kind == "move":
    return f"move {shape} from {cell} to {' then '.join(values)}"
  if change.kind == "paint":
    return f"paint {shape} at {cell} {' then '.join(values)}"
  if change.kind == "resize":
    return f"make {shape} at {cell} {values[0]}"
  if change.kind == "turn":
    return f"turn {shape} at {cell} into {values[0]}"
  if change.kind == "replace":
    return f"replace {shape} at {cell} with {' '.join(values)}"
  if change.kind in ("remove", "keep"):
    return f"{change.kind} {shape} at {cell}"
  raise ValueError(f"kind must be one of {tuple(_READERS)}, got {change.kind}")


def write(
  changes: Iterable[Change] | None,
  target: world.Scene,
  *,
  notes: Sequence[str] = (),
) -> str:
  """Write the reasoning that leads to `target`.

  Args:
    changes: the steps, in the order in which to state them; None when the
      picture is made from nothing: then the cells to use are stated.
    target: what the result list states.
    notes: clauses that come first and explain.

  Returns:
    The text; every token of it is in `WORDS`.
  """
  if changes is None:
    cells = [world.CELL_NAMES[thing.cell] for thing in target.things]
    steps = f"use {', '.join(cells) or 'nothing'}"
  else:
    steps = ", ".join(map(write_change, changes)) or "no change"
  listed = ", ".join(map(write_thing, target.things)) or "nothing"
  explained = f"{', '.join(notes)}. " if notes else ""
  return f"{explained}{steps}. result: {listed}."


@dataclasses.dataclass(frozen=True)
class ParsedText:
  """What a text claims, and how well it is formed.

  Attributes:
    num_sentences: sentences found; a last one may lack its full stop.
    accepted_rate: share of them that the grammar accepts, in [0, 1].
    facts: what the result list claims.
    changes: the steps claimed, in order.
    cells: the cells that a text made from nothing says it uses, or None.
    has_changes: the steps are stated, be it as `no change`.
    has_result: a result list is stated, be it as `nothing`.
    num_claims: facts and changes claimed, repetitions counted.
    num_contradictions: how many of them clash with another one.
  """

  num_sentences: int
  accepted_rate: float
  facts: frozenset[world.Thing]
  changes: tuple[Change, ...]
  cells: frozenset[int] | None
  has_changes: bool
  has_result: bool
  num_claims: int
  num_contradictions: int


def read_thing(words: Sequence[str]) -> world.Thing | None:
  """Return the object that four words state, or None."""
  if len(words) != 4:
    return None
  cell, size, colour, shape = words
  if (
    cell in _CELLS
    and size in world.SIZES
    and colour in world.COLOURS
    and shape in world.SHAPES
  ):
    return world.Thing(_CELLS[cell], size, colour, shape)
  return None


def _chain(words: Sequence[str], allowed: Iterable[str]) -> tuple[str, ...]:
  """Return the values of `x then y then z`, or () if it is not one."""
  values = tuple(words[::2])
  links = set(words[1::2]) <= {"then"}
  return values if links and set(values) <= set(allowed) else ()


def _read_add(words: Sequence[str]) -> Change | None:
  """Read `add big red circle at a1`."""
  if len(words) == 6 and words[4] == "at":
    thing = read_thing((words[5], *words[1:4]))
    if thing is not None:
      values = (thing.size, thing.colour)
      return Change("add", thing.cell, thing.shape, values)
  return None


def _read_other(words: Sequence[str]) -> Change | None:
  """Read `<verb> circle at|from a1 ...`."""
  if len(words) < 4 or words[1] not in world.SHAPES or words[3] not in _CELLS:
    return None
  verb, shape, preposition, cell, *rest = words
  if preposition != ("from" if verb == "move" else "at"):
    return None
  kind = verb
  values: tuple[str, ...] | None = None
  if verb in ("remove", "keep") and not rest:
    values = ()
  elif verb == "move" and rest[:1] == ["to"]:
    values = _chain(rest[1:], world.CELL_NAMES) or None
  elif verb == "paint":
    values = _chain(rest, world.COLOURS) or None
  elif verb == "make" and len(rest) == 1 and rest[0] in world.SIZES:
    kind, values = "resize", tuple(rest)
  elif verb == "turn" and rest[:1] == ["into"] and len(rest) == 2:
    values = tuple(rest[1:]) if rest[1] in world.SHAPES else None
  elif verb == "replace" and rest[:1] == ["with"]:
    values = tuple(rest[1:]) if read_thing((cell, *rest[1:])) else None
  return None if values is None else Change(kind, _CELLS[cell], shape, values)


_READERS = {
  "add": _read_add,
  "remove": _read_other,
  "move": _read_other,
  "paint": _read_other,
  "make": _read_other,
  "turn": _read_other,
  "replace": _read_other,
  "keep": _read_other,
}


def read_change(words: Sequence[str]) -> Change | None:
  """Return the change that one clause states, or None."""
  reader = _READERS.get(words[0]) if words else None
  return reader(words) if reader else None


def _is_note(words: Sequence[str]) -> bool:
  """Return whether a clause is an explanation that the grammar knows."""
  if len(words) == 3 and words[1] == "touches":
    return words[2] in _CELLS and (words[0] in _CELLS or words[0] == "nothing")
  if len(words) < 3:
    return False
  name, (verb, value) = " ".join(words[:-2]), words[-2:]
  known = lexicon.KNOWLEDGE.get(name)
  value = lexicon.PLURALS.get(value, value)
  return known is not None and (value, verb) == known[1:]


def _split(tokens: Sequence[str], mark: str) -> list[list[str]]:
  """Split `tokens` at `mark`; a trailing empty part is dropped."""
  parts: list[list[str]] = [[]]
  for token in tokens:
    if token == mark:
      parts.append([])
    else:
      parts[-1].append(token)
  return parts if parts[-1] else parts[:-1]


def _result_of(change: Change) -> tuple[int, dict[str, str] | None]:
  """Return a cell and what it holds after `change`; None means nothing."""
  last = change.values[-1] if change.values else ""
  match change.kind:
    case "remove":
      return change.cell, None
    case "move":
      return _CELLS[last], {"shape": change.shape}
    case "paint":
      return change.cell, {"shape": change.shape, "colour": last}
    case "resize":
      return change.cell, {"shape": change.shape, "size": last}
    case "turn":
      return change.cell, {"shape": last}
    case "add" | "replace":
      size, colour, shape = (*change.values, change.shape)[:3]
      return change.cell, {"size": size, "colour": colour, "shape": shape}
    case _:
      return change.cell, {"shape": change.shape}


def _num_contradictions(
  things: Sequence[world.Thing],
  changes: Sequence[Change],
  cells: Sequence[int] | None,
) -> int:
  """Count the claims that repeat or contradict another one."""
  count = len(things) - len({thing.cell for thing in things})
  moved_to = {_CELLS[c.values[-1]] for c in changes if c.kind == "move"}
  for change in changes:
    cell, holds = _result_of(change)
    found = [thing for thing in things if thing.cell == cell]
    if holds is None:
      count += bool(found) and cell not in moved_to
    else:
      count += not any(
        all(getattr(thing, name) == value for name, value in holds.items())
        for thing in found
      )
  if cells is not None:
    count += len(cells) - len(set(cells))
    count += len(set(cells) ^ {thing.cell for thing in things})
  return count


def _read_use(clauses: Sequence[Sequence[str]]) -> list[int] | None:
  """Read `use a1, b2`; None if it is something else."""
  names = [clauses[0][1:], *clauses[1:]]
  if names == [["nothing"]]:
    return []
  if all(len(name) == 1 and name[0] in _CELLS for name in names):
    return [_CELLS[name[0]] for name in names]
  return None


def parse(text: str) -> ParsedText:
  """Read what `text` claims; never raises on a string.

  Objects are claimed by the four words of the list wherever they stand
  behind `result`, or anywhere if that word is missing, so that a text with
  holes still counts for what it says.

  Args:
    text: any string.

  Returns:
    The claims, and how much of the text the grammar accepts.
  """
  tokens = tokenize(text)
  sentences = [part for part in _split(tokens, ".") if part]
  start = tokens.index("result") if "result" in tokens else 0
  windows = [tokens[i : i + 4] for i in range(start, len(tokens) - 3)]
  things = [thing for thing in map(read_thing, windows) if thing is not None]
  changes: list[Change] = []
  cells: list[int] | None = None
  num_accepted, has_changes, says_nothing = 0, False, False
  for sentence in sentences:
    if sentence[:2] == ["result", ":"]:
      clauses = _split(sentence[2:], ",")
      nothing = clauses == [["nothing"]]
      says_nothing |= nothing
      listed = bool(clauses) and all(map(read_thing, clauses))
      num_accepted += nothing or listed
      continue
    clauses = _split(sentence, ",")
    if sentence == ["no", "change"]:
      has_changes, accepted = True, True
    elif sentence[0] == "use":
      used = _read_use(clauses)
      accepted = used is not None
      cells = cells if used is None else (cells or []) + used
    else:
      read = [read_change(clause) for clause in clauses]
      changes += [change for change in read if change is not None]
      accepted = all(read) or all(map(_is_note, clauses))
    num_accepted += accepted
  return ParsedText(
    num_sentences=len(sentences),
    accepted_rate=num_accepted / len(sentences) if sentences else 0.0,
    facts=frozenset(things),
    changes=tuple(changes),
    cells=None if cells is None else frozenset(cells),
    has_changes=has_changes or bool(changes) or cells is not None,
    has_result=bool(things) or says_nothing,
    num_claims=len(things) + len(changes) + len(cells or ()),
    num_contradictions=_num_contradictions(things, changes, cells)
    + (says_nothing and bool(things)),
  )
