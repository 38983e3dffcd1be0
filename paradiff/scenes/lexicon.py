"""The closed vocabulary of the scenes world, and what its words mean."""

from paradiff.scenes import world

# What the world-knowledge instructions speak of: the words, the attribute
# that they settle, its value, and the verb that goes with them.
KNOWLEDGE = {
  "tomatoes": ("colour", "red", "are"),
  "strawberries": ("colour", "red", "are"),
  "carrots": ("colour", "orange", "are"),
  "pumpkins": ("colour", "orange", "are"),
  "bananas": ("colour", "yellow", "are"),
  "lemons": ("colour", "yellow", "are"),
  "grass": ("colour", "green", "is"),
  "frogs": ("colour", "green", "are"),
  "the sky": ("colour", "blue", "is"),
  "the sea": ("colour", "blue", "is"),
  "plums": ("colour", "purple", "are"),
  "eggplants": ("colour", "purple", "are"),
  "ants": ("size", "small", "are"),
  "mice": ("size", "small", "are"),
  "whales": ("size", "big", "are"),
  "elephants": ("size", "big", "are"),
  "coins": ("shape", "circle", "are"),
  "dice": ("shape", "square", "are"),
  "tents": ("shape", "triangle", "are"),
}
NUMBERS = ("one", "two", "three", "four", "five")
PLURALS = {f"{shape}s": shape for shape in (*world.SHAPES, "shape")}
_PROMPT_WORDS = (
  "a above add after an and appears at becomes below beside big bottom cell "
  "colour column corner draw drifts each empty every falls grows if into "
  "just left make move next of one paint put rainbow remove replace "
  "right rises row shape show shrinks size small something step swap takes "
  "that the tick ticks to top touches turn turns up down vanishes with"
).split()
_REASONING_WORDS = (
  "add are at becomes change from into is keep make move no nothing paint "
  "remove replace result then to touches turn use with"
).split()

# Every word and punctuation mark of any prompt or reasoning, sorted.
WORDS: tuple[str, ...] = tuple(
  sorted(
    {
      *".,:",
      *world.CELL_NAMES,
      *world.SIZES,
      *world.COLOURS,
      *world.SHAPES,
      *PLURALS,
      *NUMBERS,
      *(word for name in KNOWLEDGE for word in name.split()),
      *_PROMPT_WORDS,
      *_REASONING_WORDS,
    }
  )
)
