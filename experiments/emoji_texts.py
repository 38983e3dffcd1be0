"""Words for edits of emoji: what is there, what to do, what comes out."""

from experiments import emoji_pairs
from experiments import emoji_world

_PEOPLE = ("person", "man", "woman")
_PLURALS = ("people", "men", "women", "fingers", "hands")
_SPELT_WITH_VOWEL = ("eu", "one", "uni")  # and said with a consonant
_NOT_PLURAL = ("ss", "us", "is", "os")
_HEAD_ENDS = (" with ", " of ", " in ", " on ", " behind ", " holding ")
# Names that need a noun, or say it in another way.
_SPEECH = {
  "locked": "locked padlock",
  "unlocked": "open padlock",
  "star-struck": "star-struck face",
  "hourglass done": "hourglass that has run out",
  "hourglass not done": "running hourglass",
  "speaker low volume": "speaker at low volume",
  "speaker medium volume": "speaker at medium volume",
  "speaker high volume": "speaker at high volume",
}
_GROUPS = ("couple with heart", "family", "kiss")
_MEMBERS = frozenset(("man", "woman", "boy", "girl", "adult", "child"))

# {the}: what is there, without skin; {who}: the person; {a}: what is to be;
# {to}: the change in a word; {thing}: the base that several things share.
_TURN = ("Turn {the} into {a}.", "Show {a} instead.", "Replace {the} with {a}.")
TEMPLATES = {
  "skin": (
    "Make the skin {to}.",
    "Change the skin tone to {to}.",
    "Give {the} {to} skin.",
  ),
  "gender": _TURN,
  "direction": (
    "Make {the} face {to}.",
    "Let {the} look to the {to}.",
    "Turn {the} to the {to}.",
  ),
  "profession": (
    "Change the job to {to}.",
    "Let {who} work as {a_to}.",
    "Turn {the} into {a}.",
  ),
  "activity": (
    "Change the activity to {to}.",
    "Show {a} instead.",
    "Now {who} should be {to}.",
  ),
  "gesture": (
    "Change the gesture to {to}.",
    "Show {a} instead.",
    "Now {who} should be {to}.",
  ),
  "hair": (
    "Give {who} {to}.",
    "Show {who} with {to}.",
    "Now {who} should have {to}.",
  ),
  "age": ("Make it {a}.", *_TURN),
  "fantasy": _TURN,
  "face": (
    "Change the expression to {a}.",
    "Make it {a}.",
    "Turn {the} into {a}.",
  ),
  "time": (
    "Set the clock to {to}.",
    "Make it {to}.",
    "Let the clock show {to}.",
  ),
  "moon": ("Change the moon to {a}.", "Turn {the} into {a}.", "Make it {a}."),
  "weather": (
    "Change the weather to {to}.",
    "Now the forecast is {to}.",
    "Show {a} instead.",
  ),
  "colour": (
    "Make the {thing} {to}.",
    "Paint the {thing} {to}.",
    "Change the colour to {to}.",
  ),
  "pointing": (
    "Make the {thing} point {to}.",
    "Turn the {thing} so that it points {to}.",
    "Point {to} instead.",
  ),
  "state": ("Turn {the} into {a}.", "Change it to {a}.", "Make it {a}."),
  "draw": ("Draw {whole}.", "Show me {whole}.", "A picture of {whole}."),
}


def noun(emoji: emoji_world.Emoji) -> str:
  """Return what an emoji is called, without article and skin."""
  name = _SPEECH.get(emoji.name, emoji.name)
  first, _, rest = name.partition(" ")
  if emoji.name.endswith(("o'clock", "-thirty")):
    return f"clock showing {name.replace('-', ' ')}"
  if rest == "bald":
    return f"bald {first}"
  if rest == "beard" or (first in _PEOPLE and rest.endswith(" hair")):
    return f"{first} with {'a beard' if rest == 'beard' else rest}"
  if _is_flag(emoji.text):
    return f"flag of {name}"
  for group in _GROUPS:
    members = name.removeprefix(group).split()
    if name.startswith(f"{group} ") and set(members) <= _MEMBERS:
      return f"{group} of {' and '.join(members)}"
  return name.replace("backhand index", "finger")


def _is_flag(text: str) -> bool:
  """Return whether it is the flag of a region."""
  is_country = "\U0001f1e6" <= text[0] <= "\U0001f1ff"
  return is_country or text.startswith("\U0001f3f4\U000e0067")


def with_article(words: str) -> str:
  """Return a noun with "a" or "an", or alone if it is a plural."""
  head = words
  for end in _HEAD_ENDS:
    head = head.split(end)[0]
  first, last = head.split()[0], head.split()[-1]
  ends_plural = last.endswith("s") and not last.endswith(_NOT_PLURAL)
  if first in _PLURALS or last in _PLURALS:
    return words
  if ends_plural and first not in _PEOPLE:
    return words
  lower = words.lower()
  is_vowel = lower[0] in "aeiou" and not lower.startswith(_SPELT_WITH_VOWEL)
  return f"{'an' if is_vowel else 'a'} {words}"


def describe(emoji: emoji_world.Emoji) -> str:
  """Return "a man running facing left with dark skin"."""
  words = noun(emoji)
  if emoji.facing is not None:
    words += f" facing {emoji.facing}"
  if emoji.tone is not None:
    words += f" {'and' if ' with ' in words else 'with'} {emoji.tone} skin"
  return f"the {words}" if _is_flag(emoji.text) else with_article(words)


def instruction(edit: emoji_pairs.Edit) -> str:
  """Return what the edit asks for; the wording follows from its id."""
  templates = TEMPLATES[edit.kind]
  place = emoji_pairs.draw(f"words {edit.id}")
  template = templates[int(place * len(templates))]
  before = edit.before or edit.after
  return template.format(
    the=f"the {noun(before)}",
    who=f"the {before.gender or 'person'}",
    a=with_article(noun(edit.after)),
    a_to=with_article(edit.value),
    to=edit.value,
    thing=edit.after.base,
    whole=describe(edit.after),
  )


def reasoning(edit: emoji_pairs.Edit) -> str:
  """Return what is there and what the result is."""
  after = describe(edit.after)
  if edit.before is None:
    return f"The picture shows {after}."
  return f"The picture shows {describe(edit.before)}. The result shows {after}."
