"""Edits that are true in the world of emoji, and their split.

Two emoji make an edit if they differ in one trait (skin, gender, facing) or
are two alternatives of a choice that agree in every trait.
"""

import collections
import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from experiments import emoji_choices
from experiments import emoji_world

SPLITS = ("train", "held_out")
HELD_OUT_RATE = 0.1
_MANY = 7  # bases of a choice of which two can be spared


@dataclasses.dataclass(frozen=True)
class Edit:
  """An edit, or a picture from words.

  Attributes:
    kind: skin, gender, direction, the kind of a choice, or draw.
    before: what is there; None for a picture from words.
    after: what is to be.
    value: what the instruction calls the change: "dark", "red hair".
  """

  kind: str
  before: emoji_world.Emoji | None
  after: emoji_world.Emoji
  value: str

  @property
  def id(self) -> str:
    """Name of the edit, unique."""
    before = "" if self.before is None else f"{self.before.code}_"
    return f"{self.kind}_{before}{self.after.code}"


def draw(text: str) -> float:
  """Return a number in [0, 1) that follows from the text alone."""
  digest = hashlib.sha256(text.encode()).digest()
  return int.from_bytes(digest[:6], "big") / 2**48


def splits(
  catalogue: Sequence[emoji_world.Emoji],
  *,
  choices: Sequence[emoji_choices.Choice] = emoji_choices.CHOICES,
) -> dict[str, str]:
  """Return the split of every base, about `HELD_OUT_RATE` held out.

  A base is held out by its hash, so that a newer font moves none. But an edit
  between two bases stays only if both are of one split, so of a choice among
  many bases at least two are held out, and as many as the rate says.
  """
  held_out = {
    emoji.base
    for emoji in catalogue
    if draw(f"split {emoji.base}") < HELD_OUT_RATE
  }
  by_name = {emoji.name: emoji.base for emoji in catalogue}
  for choice in choices:
    bases = {by_name[name] for name in choice.names if name in by_name}
    if len(bases) >= _MANY:
      ordered = sorted(bases, key=lambda base: draw(f"split {base}"))
      held_out |= set(ordered[: max(2, round(HELD_OUT_RATE * len(bases)))])
  return {e.base: SPLITS[e.base in held_out] for e in catalogue}


_TRAITS = {"skin": "tone", "gender": "gender", "direction": "facing"}
_Emoji = emoji_world.Emoji


def _values(emoji: _Emoji) -> dict[str, str | None]:
  """Return the traits; who has no direction is drawn facing left."""
  values = {kind: getattr(emoji, trait) for kind, trait in _TRAITS.items()}
  return values | {"direction": emoji.facing or "left"}


def _trait_edits(catalogue: Sequence[_Emoji]) -> Iterator[Edit]:
  """Yield the edits that change one trait of a thing."""
  for members in _by_thing(catalogue).values():
    for before, after in itertools.permutations(members, 2):
      old = _values(before)
      changed = {k: v for k, v in _values(after).items() if v != old[k]}
      if len(changed) == 1:
        ((kind, value),) = changed.items()
        yield Edit(kind, before, after, str(value))


def _choice_edits(
  catalogue: Sequence[_Emoji], choice: emoji_choices.Choice
) -> Iterator[Edit]:
  """Yield the edits between the alternatives of a choice."""
  by_thing = _by_thing(catalogue)
  things = {
    emoji.name: emoji.thing
    for emoji in catalogue
    if emoji.gender in (None, "person")
  }
  known = {name: v for name, v in choice.names.items() if name in things}
  for (old, _), (new, value) in itertools.permutations(known.items(), 2):
    for before in by_thing[things[old]]:
      for after in by_thing[things[new]]:
        if value and _values(before) == _values(after):
          yield Edit(choice.kind, before, after, value)


def _by_thing(catalogue: Sequence[_Emoji]) -> dict[str, list[_Emoji]]:
  found: dict[str, list[_Emoji]] = {}
  for emoji in catalogue:
    found.setdefault(emoji.thing, []).append(emoji)
  return found


def edits(
  catalogue: Sequence[_Emoji],
  *,
  choices: Sequence[emoji_choices.Choice] = emoji_choices.CHOICES,
) -> tuple[Edit, ...]:
  """Return every edit between two emoji of the catalogue.

  Two people of different skins have no `tone` and take part in none.
  """
  known = [emoji for emoji in catalogue if not emoji.is_mixed]
  found = {edit.id: edit for edit in _trait_edits(known)}
  for choice in choices:
    found |= {edit.id: edit for edit in _choice_edits(known, choice)}
  return tuple(found.values())


def drawings(catalogue: Sequence[_Emoji]) -> tuple[Edit, ...]:
  """Return a picture from words for every emoji that words determine."""
  return tuple(
    Edit("draw", None, emoji, emoji.name)
    for emoji in catalogue
    if not emoji.is_mixed
  )


def select(
  edits: Iterable[Edit], *, splits: Mapping[str, str], max_pairs: int
) -> dict[str, tuple[Edit, ...]]:
  """Split edits, bound every kind, and shuffle: all by what the edits are.

  Args:
    edits: any; one whose two bases are of two splits is left out.
    splits: of the bases.
    max_pairs: of a kind in train; held out are at most a ninth as many.

  Returns:
    The edits of each split.
  """
  chosen: dict[str, list[Edit]] = {split: [] for split in SPLITS}
  room = {"train": max_pairs, "held_out": -(-max_pairs // 9)}
  taken: collections.Counter[tuple[str, str]] = collections.Counter()
  for edit in sorted(edits, key=lambda edit: draw(f"order {edit.id}")):
    sides = [edit.after] if edit.before is None else [edit.before, edit.after]
    split, *others = {splits[emoji.base] for emoji in sides}
    if not others and taken[split, edit.kind] < room[split]:
      taken[split, edit.kind] += 1
      chosen[split].append(edit)
  return {split: tuple(kept) for split, kept in chosen.items()}
