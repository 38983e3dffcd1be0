"""What a Unicode sequence of emoji shows: who, of which skin, facing where.

A sequence is a base with modifiers (UTS #51). Skin tones are five code points;
a sign of man or woman, or an arrow to the right, is joined to the end; in a
profession the first joined part is the person. What is left when all of them
are taken away is the *thing*, and two sequences of one thing differ by traits
alone.

Example: 1F3C3 1F3FF 200D 2640 200D 27A1 is thing "1f3c3" (running), tone
"dark", gender "woman", facing "right".
"""

import dataclasses
from collections.abc import Mapping

VARIATION = "\ufe0f"  # asks for colour; says nothing of what is shown
JOINER = "\u200d"
TONES = {
  "\U0001f3fb": "light",
  "\U0001f3fc": "medium-light",
  "\U0001f3fd": "medium",
  "\U0001f3fe": "medium-dark",
  "\U0001f3ff": "dark",
}
NO_TONE = "yellow"  # how a person without a tone is drawn
_SIGNS = {"\u2642": "man", "\u2640": "woman"}
_RIGHT = "\u27a1"
_PEOPLE = {
  "\U0001f468": "man",
  "\U0001f469": "woman",
  "\U0001f9d1": "person",
}
# Single code points that are one thing in three genders.
_TRIADS: tuple[tuple[str, str, str, str], ...] = (
  # base, man, woman, person
  ("adult", "\U0001f468", "\U0001f469", "\U0001f9d1"),
  ("child", "\U0001f466", "\U0001f467", "\U0001f9d2"),
  ("elder", "\U0001f474", "\U0001f475", "\U0001f9d3"),
  ("royal", "\U0001f934", "\U0001f478", "\U0001fac5"),
  ("pregnant", "\U0001fac3", "\U0001f930", "\U0001fac4"),
  ("claus", "\U0001f385", "\U0001f936", "\U0001f9d1\u200d\U0001f384"),
  ("dancing", "\U0001f57a", "\U0001f483", ""),
  (
    "holding",
    "\U0001f46c",
    "\U0001f46d",
    "\U0001f9d1\u200d\U0001f91d\u200d\U0001f9d1",
  ),
)
_OF_TRIAD = {
  text: (base, gender)
  for base, *texts in _TRIADS
  for gender, text in zip(("man", "woman", "person"), texts, strict=True)
  if text
}


@dataclasses.dataclass(frozen=True)
class Emoji:
  """One picture and what it shows.

  Attributes:
    text: the sequence, as a font reads it.
    code: its code points in hexadecimal, without variation selectors: unique.
    name: English name of it without its skin, "man running".
    thing: what is left of the sequence without the traits below.
    base: rows are split by it: the thing, or what several things are of.
    tone: of the skin; None where there is no skin or two people differ.
    gender: man, woman or person; None where there is no choice.
    facing: left or right; None where there is no choice.
  """

  text: str
  code: str
  name: str
  thing: str
  base: str
  tone: str | None
  gender: str | None
  facing: str | None

  @property
  def is_mixed(self) -> bool:
    """Whether people of different skins are on it."""
    return self.tone is None and any(c in TONES for c in self.text)


def code_of(text: str) -> str:
  """Return "1f3c3-1f3ff" of a sequence, without variation selectors."""
  return "-".join(f"{ord(c):x}" for c in text if c != VARIATION)


@dataclasses.dataclass(frozen=True)
class _Parts:
  thing: str
  tones: tuple[str, ...]
  gender: str | None
  faces_right: bool


def _parse(text: str) -> _Parts:
  """Take a sequence apart; one without modifiers is its own thing."""
  tones = tuple(TONES[c] for c in text if c in TONES)
  bare = "".join(c for c in text if c not in TONES and c != VARIATION)
  parts = bare.split(JOINER)
  faces_right = len(parts) > 1 and parts[-1] == _RIGHT
  parts = parts[:-1] if faces_right else parts
  whole, gender = JOINER.join(parts), None
  if whole in _OF_TRIAD:
    thing, gender = _OF_TRIAD[whole]
  elif len(parts) > 1 and parts[-1] in _SIGNS:
    thing, gender = code_of(JOINER.join(parts[:-1])), _SIGNS[parts[-1]]
  elif len(parts) == 2 and parts[0] in _PEOPLE:
    thing, gender = f"person-{code_of(parts[1])}", _PEOPLE[parts[0]]
  else:
    thing = code_of(whole)
  return _Parts(thing, tones, gender, faces_right)


def _words(name: str) -> str:
  """Return a name of the `emoji` package as words."""
  return name.strip(":").replace("_", " ").replace("\u2019", "'")


def catalogue(
  names: Mapping[str, str], *, shared_bases: Mapping[str, str]
) -> tuple[Emoji, ...]:
  """Describe emoji by their sequences.

  Args:
    names: name by sequence, in the spelling of the `emoji` package
      (":man_running:"); sequences with a skin need the one without it too.
    shared_bases: bases of several things, by name: "red heart" and "blue
      heart" are both of "heart".

  Returns:
    One each, in the order of their codes.
  """
  parsed = {text: _parse(text) for text in names}
  bare_names = {code_of(text): _words(name) for text, name in names.items()}
  # What the sequences of a thing can say; the others of it say the opposite.
  skinned = {parts.thing for parts in parsed.values() if parts.tones}
  gendered = {parts.thing for parts in parsed.values() if parts.gender}
  turned = {parts.thing for parts in parsed.values() if parts.faces_right}
  found = {}
  for text, parts in parsed.items():
    tones = set(parts.tones)
    if not tones and parts.thing in skinned:
      tones = {NO_TONE}
    facing = "right" if parts.faces_right else "left"
    bare = code_of("".join(c for c in text if c not in TONES))
    name = bare_names.get(bare, _words(names[text]))
    found[code_of(text)] = Emoji(
      text=text,
      code=code_of(text),
      name=name.removesuffix(" facing right"),
      thing=parts.thing,
      base=shared_bases.get(name, parts.thing),
      tone=tones.pop() if len(tones) == 1 else None,
      gender=parts.gender or ("person" if parts.thing in gendered else None),
      facing=facing if parts.thing in turned else None,
    )
  return tuple(found[code] for code in sorted(found))
