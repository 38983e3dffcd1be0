"""Emoji that can be turned into each other, by name: jobs, faces, times.

What the traits of a sequence do not say. Each group's members are
alternatives: an edit replaces one by another and keeps skin and gender. A
group with a `base` is one thing in several states, and is split as one.
"""

import dataclasses

_HOURS = (
  "one two three four five six seven eight nine ten eleven twelve"
).split()
_HUES = "red orange yellow green blue purple brown black white".split()


@dataclasses.dataclass(frozen=True)
class Choice:
  """Alternatives.

  Attributes:
    kind: what an edit between them is called.
    names: English name of the person's form, and what the instruction calls
      it; "" where nothing can be turned into it.
    base: shared by all; None if each is of its own.
  """

  kind: str
  names: dict[str, str]
  base: str | None = None


def _same(names: str) -> dict[str, str]:
  """Return names, one a line or comma, that stand for themselves."""
  parts = [name.strip() for name in names.replace("\n", ",").split(",")]
  return {name: name for name in parts if name}


_JOBS = _same("""
  artist, astronaut, construction worker, cook, detective, factory worker
  farmer, firefighter, guard, health worker, judge, mechanic, office worker
  pilot, police officer, scientist, singer, student, teacher, technologist
""")
_DOING = _same("""
  biking, bouncing ball, cartwheeling, climbing, golfing, juggling, kneeling
  lifting weights, mountain biking, playing handball, playing water polo
  rowing boat, running, standing, surfing, swimming, walking
""")
_GESTURES = _same("""
  bowing, facepalming, frowning, gesturing NO, gesturing OK, pouting
  raising hand, shrugging, tipping hand
""")
_HAIR = {
  "person": "",
  "person bald": "no hair",
  "person beard": "a beard",
  "person blond hair": "blond hair",
  "person curly hair": "curly hair",
  "person red hair": "red hair",
  "person white hair": "white hair",
}
_FANTASY = _same(
  "elf, fairy, mage, merperson, superhero, supervillain, vampire"
)
_FACES = _same("""
  angry face, anguished face, anxious face with sweat, astonished face
  beaming face with smiling eyes, clown face, cold face, confounded face
  confused face, cowboy hat face, crying face, disappointed face
  disguised face, dotted line face, downcast face with sweat, drooling face
  enraged face, exploding head, expressionless face, face blowing a kiss
  face exhaling, face holding back tears, face savoring food
  face screaming in fear, face vomiting, face with crossed-out eyes
  face with diagonal mouth, face with hand over mouth
  face with head-bandage, face with medical mask, face with monocle
  face with open mouth, face with peeking eye, face with raised eyebrow
  face with rolling eyes, face with spiral eyes, face with steam from nose
  face with symbols on mouth, face with tears of joy, face with thermometer
  face with tongue, face without mouth, fearful face, flushed face
  frowning face, grimacing face, grinning face, grinning face with big eyes
  grinning face with smiling eyes, grinning face with sweat
  grinning squinting face, hot face, hushed face, kissing face, lying face
  loudly crying face, melting face, money-mouth face, nauseated face
  nerd face, neutral face, partying face, pensive face, persevering face
  pleading face, relieved face, sad but relieved face
  saluting face, shushing face, sleeping face, sleepy face
  slightly frowning face, slightly smiling face, smiling face
  smiling face with halo, smiling face with heart-eyes
  smiling face with hearts, smiling face with horns
  smiling face with smiling eyes, smiling face with sunglasses
  smiling face with tear, smirking face, sneezing face
  squinting face with tongue, star-struck, thinking face, tired face
  unamused face, upside-down face, weary face, winking face
  winking face with tongue, woozy face, worried face, yawning face, zany face
  zipper-mouth face
""")
_CATS = _same("""
  cat with tears of joy, cat with wry smile, crying cat, grinning cat
  grinning cat with smiling eyes, kissing cat, pouting cat
  smiling cat with heart-eyes, weary cat
""")
_TIMES = {
  name: name.replace("-", " ")
  for hour in _HOURS
  for name in (f"{hour} o'clock", f"{hour}-thirty")
}
_MOONS = _same("""
  first quarter moon, full moon, last quarter moon, new moon
  waning crescent moon, waning gibbous moon, waxing crescent moon
  waxing gibbous moon
""")
_SKIES = {
  "sun": "full sun",
  "sun behind cloud": "sun and cloud",
  "sun behind large cloud": "more cloud than sun",
  "sun behind rain cloud": "sun and rain",
  "sun behind small cloud": "more sun than cloud",
  "cloud": "cloud",
  "cloud with lightning": "lightning",
  "cloud with lightning and rain": "lightning and rain",
  "cloud with rain": "rain",
  "cloud with snow": "snow",
}


def _ways(thing: str, ways: str) -> dict[str, str]:
  return {thing.format(way): way for way in ways.split()}


def _states(base: str, names: str) -> Choice:
  return Choice("state", _same(names), base)


CHOICES = (
  Choice("profession", _JOBS),
  Choice("activity", {f"person {name}": name for name in _DOING}),
  Choice("gesture", {f"person {name}": name for name in _GESTURES}),
  Choice("hair", _HAIR),
  Choice("age", _same("child, person, older person")),
  Choice("fantasy", _FANTASY),
  Choice("face", _FACES),
  Choice("face", _CATS),
  Choice("time", _TIMES),
  Choice("moon", _MOONS),
  Choice("weather", _SKIES, "sky"),
  *(
    Choice("colour", {f"{hue} {thing}": hue for hue in _HUES}, thing)
    for thing in ("circle", "heart")
  ),
  Choice(
    "colour",
    _ways("{} square", "red orange yellow green blue purple brown"),
    "square",
  ),
  Choice("colour", _ways("{} book", "blue green orange"), "book"),
  Choice("colour", _ways("{} apple", "green red"), "apple"),
  Choice(
    "pointing",
    _ways("backhand index pointing {}", "up down left right"),
    "finger",
  ),
  Choice(
    "pointing",
    _ways(
      "{} arrow", "up up-right right down-right down down-left left up-left"
    ),
    "arrow",
  ),
  _states("thumb", "thumbs down, thumbs up"),
  _states("bell", "bell, bell with slash"),
  _states("padlock", "locked, unlocked"),
  _states("folder", "file folder, open file folder"),
  _states("charge", "battery, low battery"),
  _states("flower", "rose, wilted flower"),
  _states("hourglass", "hourglass done, hourglass not done"),
  _states("umbrella", "closed umbrella, umbrella"),
  _states("book cover", "closed book, open book"),
  _states("chart", "chart decreasing, chart increasing"),
  _states("snowman", "snowman, snowman without snow"),
  _states("nest", "empty nest, nest with eggs"),
  _states("chick", "baby chick, front-facing baby chick, hatching chick"),
  _states("sunrise", "sunrise, sunset, cityscape at dusk, night with stars"),
  _states(
    "mailbox",
    """closed mailbox with lowered flag, closed mailbox with raised flag
    open mailbox with lowered flag, open mailbox with raised flag""",
  ),
  _states(
    "speaker",
    """muted speaker, speaker low volume, speaker medium volume
    speaker high volume""",
  ),
)

SHARED_BASES = {
  name: choice.base
  for choice in CHOICES
  if choice.base is not None
  for name in choice.names
}
