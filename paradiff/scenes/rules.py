"""The rule engine: seeded instructions with the scenes that they allow.

`sample` draws a task: five categories of edits, each equally often, and four
groups of pictures from words. About half of the edits leave a choice; then
`Example.target` is one allowed scene, drawn at random, and the reasoning
states that choice.

Held-out compositions: a composition is a colour, or the name of something
known, together with the noun that it is said of ("red circle", "the triangle
the colour of grass"; "something red" counts as "red shape"). In each category
every noun has one colour, and as many names, that no training instruction
combines with it, by the rule in `is_held_out`; test instructions hold at
least one such pair. Every word alone occurs in both splits.
"""

import dataclasses

import numpy as np

from paradiff.scenes import edits_causal
from paradiff.scenes import edits_change
from paradiff.scenes import edits_motion
from paradiff.scenes import generation
from paradiff.scenes import grammar
from paradiff.scenes import lexicon
from paradiff.scenes import phrases
from paradiff.scenes import predicate
from paradiff.scenes import world

EDIT_CATEGORIES = ("spatial", "temporal", "causal", "knowledge", "general")
GENERATION_CATEGORIES = ("counts", "two_objects", "relations", "attributes")
CATEGORIES = (*EDIT_CATEGORIES, *GENERATION_CATEGORIES)
SPLITS = ("train", "test")
GENERATION_RATE = 1 / 3
FREE_RATE = 0.45  # share of edits drawn from the templates with a choice

_EDITS = {
  "spatial": edits_motion.SPATIAL,
  "temporal": edits_motion.TEMPORAL,
  "causal": edits_causal.CAUSAL,
  "knowledge": edits_change.KNOWLEDGE,
  "general": edits_change.GENERAL,
}
_GENERATIONS = {
  "counts": generation.counts,
  "two_objects": generation.two_objects,
  "relations": generation.relations,
  "attributes": generation.attributes,
}
_MAX_DRAWS = 100_000  # beyond it a template cannot be satisfied
_NOUNS = {
  **{noun: index for index, noun in enumerate(phrases.NOUNS)},
  **{f"{noun}s": index for index, noun in enumerate(phrases.NOUNS)},
}
_NAMES = {
  name.split()[-1]: index for index, name in enumerate(lexicon.KNOWLEDGE)
}
_CYCLE = len(world.COLOURS)


@dataclasses.dataclass(frozen=True)
class Example:
  """One task, one allowed answer and the rule for all of them.

  Attributes:
    kind: `edit` or `generate`.
    category: one of `EDIT_CATEGORIES` or `GENERATION_CATEGORIES`.
    prompt: the instruction, at most `grammar.MAX_PROMPT_LEN` tokens.
    source: the scene to edit; None for `generate`.
    target: an allowed scene.
    reasoning: the text that leads to `target`, at most
      `grammar.MAX_REASONING_LEN` tokens.
    rule: which scenes are allowed.
  """

  kind: str
  category: str
  prompt: str
  source: world.Scene | None
  target: world.Scene
  reasoning: str
  rule: predicate.Rule

  @property
  def is_free(self) -> bool:
    """Whether the instruction leaves a choice."""
    return self.rule.is_free


def compositions(prompt: str) -> frozenset[tuple[str, str]]:
  """Return the (colour or known name, noun) pairs that `prompt` combines.

  Args:
    prompt: an instruction.

  Returns:
    The pairs, nouns in the singular, names by their last word.
  """
  words = grammar.tokenize(prompt)
  pairs = set()
  for i, word in enumerate(words):
    if word in world.COLOURS:
      if words[i + 1 : i + 2] and words[i + 1] in _NOUNS:
        pairs.add((word, words[i + 1]))
      elif words[i - 1 : i] == ["something"]:
        pairs.add((word, "shape"))
    elif word == "of" and words[i - 1] in ("colour", "size", "shape"):
      name = words[i + 2] if words[i + 1] == "the" else words[i + 1]
      pairs.add((name, words[i - 3]))
  return frozenset((a, lexicon.PLURALS.get(b, b)) for a, b in pairs)


def is_held_out(category: str, word: str, noun: str) -> bool:
  """Return whether no training prompt of `category` may join the two.

  The indices of category, noun, and colour or known name must add up to a
  multiple of six.

  Args:
    category: one of `CATEGORIES`.
    word: a colour, or the last word of a name in `lexicon.KNOWLEDGE`.
    noun: one of `phrases.NOUNS`.
  """
  index = world.COLOURS.index(word) if word in world.COLOURS else _NAMES[word]
  return (index + _NOUNS[noun] + CATEGORIES.index(category)) % _CYCLE == 0


def split_of(category: str, prompt: str) -> str:
  """Return `test` if `prompt` holds a held-out composition, else `train`."""
  pairs = compositions(prompt)
  held_out = any(is_held_out(category, *pair) for pair in pairs)
  return "test" if held_out else "train"


def _template(rng: np.random.Generator, category: str) -> phrases.Template:
  """Choose a template of `category`."""
  if category in _GENERATIONS:
    return _GENERATIONS[category]
  determined, free = _EDITS[category]
  return phrases.pick(
    rng, free if phrases.chance(rng, FREE_RATE) else determined
  )


def _finish(
  rng: np.random.Generator, draft: phrases.Draft, category: str
) -> Example | None:
  """Draw a target and write the reasoning; None if it gets too long."""
  target = draft.rule.draw(rng)
  if target is None or len(target.things) > phrases.MAX_TARGET_THINGS:
    return None
  changes = draft.changes
  if changes is None and draft.source is not None:
    changes = phrases.difference(draft.source, target)
  reasoning = grammar.write(changes, target, notes=draft.notes)
  if len(grammar.tokenize(reasoning)) > grammar.MAX_REASONING_LEN:
    return None
  return Example(
    kind="generate" if draft.source is None else "edit",
    category=category,
    prompt=draft.prompt,
    source=draft.source,
    target=target,
    reasoning=reasoning,
    rule=draft.rule,
  )


def sample(
  rng: np.random.Generator, *, split: str, category: str | None = None
) -> Example:
  """Draw one example.

  Args:
    rng: source of randomness; the same state gives the same example.
    split: `train` or `test`, see the module's text.
    category: one of `CATEGORIES`; None draws a generation with probability
      `GENERATION_RATE` and else an edit, their categories equally often.

  Returns:
    The example.

  Raises:
    ValueError: if `split` or `category` is unknown.
  """
  if split not in SPLITS:
    raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
  if category is None:
    made = phrases.chance(rng, GENERATION_RATE)
    category = phrases.pick(
      rng, GENERATION_CATEGORIES if made else EDIT_CATEGORIES
    )
  elif category not in CATEGORIES:
    raise ValueError(f"category must be one of {CATEGORIES}, got {category!r}")
  template = _template(rng, category)
  for _ in range(_MAX_DRAWS):
    draft = template(rng)
    if draft is None or split_of(category, draft.prompt) != split:
      continue
    example = _finish(rng, draft, category)
    if example is not None:
      return example
  raise RuntimeError(f"a template must yield an example, got {template}")
