"""Pictures with their texts, in families that differ in one fact.

What scores a picture against a text must see one wrong fact. Random pairs do
not teach it, for they differ in everything; so the pairs come in families: an
example of the scenes world, and the same with one object of another size,
colour or shape, elsewhere, missing or added, each with a text of its own that
leads there. Within a batch the members are each other's negatives.

Texts can have holes: a text that is still being denoised lacks words.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paradiff.scenes import grammar
from paradiff.scenes import phrases
from paradiff.scenes import render
from paradiff.scenes import rules
from paradiff.scenes import world

# How a scene can differ in one fact.
KINDS = ("size", "colour", "shape", "cell", "missing", "extra")
_DRAWN = (*KINDS, "cell", "cell")  # a wrong place is learnt last
_VALUES = {
  "size": world.SIZES,
  "colour": world.COLOURS,
  "shape": world.SHAPES,
}
_MAX_DRAWS = 1000  # beyond it there are no more variations
Encode = Callable[[str], Sequence[int]]


def vary(
  rng: np.random.Generator, scene: world.Scene, kind: str
) -> world.Scene | None:
  """Return the scene with one fact changed.

  Args:
    rng: host randomness.
    scene: with at least one empty cell.
    kind: one of KINDS.

  Returns:
    The other scene; None if nothing in this one can change so.

  Raises:
    ValueError: if the kind is unknown.
  """
  if kind not in KINDS:
    raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
  if kind == "extra":
    added = world.Thing(
      cell=phrases.pick(rng, scene.empty_cells()),
      size=phrases.pick(rng, world.SIZES),
      colour=phrases.pick(rng, world.COLOURS),
      shape=phrases.pick(rng, world.SHAPES),
    )
    return scene.replace(add=(added,))
  if not scene.things:
    return None
  thing = phrases.pick(rng, scene.things)
  if kind == "missing":
    return scene.replace(remove=(thing,))
  if kind == "cell":
    cell = phrases.pick(rng, scene.empty_cells())
    return scene.replace(
      remove=(thing,), add=(phrases.altered(thing, cell=cell),)
    )
  others = [v for v in _VALUES[kind] if v != getattr(thing, kind)]
  changed = phrases.altered(thing, **{kind: phrases.pick(rng, others)})
  return scene.replace(remove=(thing,), add=(changed,))


def describe(example: rules.Example, target: world.Scene) -> str:
  """Write the reasoning that leads an example to another target.

  Returns:
    The text, with the notes of the example's own. Where that is longer than
    `grammar.MAX_REASONING_LEN`, the notes are left out, or all but the result.
  """
  if target == example.target:
    return example.reasoning
  notes = example.reasoning.split(". ")[:-2]  # all but changes and result
  changes = (
    None
    if example.source is None
    else phrases.difference(example.source, target)
  )
  whole = grammar.write(changes, target, notes=notes)
  for text in (whole, grammar.write(changes, target)):
    if len(grammar.tokenize(text)) <= grammar.MAX_REASONING_LEN:
      return text
  return whole.split(". ")[-1]


def family(
  rng: np.random.Generator, example: rules.Example, *, size: int
) -> list[tuple[str, world.Scene]]:
  """Return `size` distinct pairs: the example's own, then its variations.

  Raises:
    ValueError: if so many variations cannot be found.
  """
  scenes = [example.target]
  for _ in range(_MAX_DRAWS):
    if len(scenes) >= size:
      return [(describe(example, scene), scene) for scene in scenes]
    scene = vary(rng, example.target, phrases.pick(rng, _DRAWN))
    if scene is not None and scene not in scenes:
      scenes.append(scene)
  raise ValueError(
    f"an example must have {size - 1} variations, got {len(scenes) - 1}"
  )


def token_row(
  ids: Sequence[int], *, start_id: int, end_id: int, max_len: int
) -> tuple[np.ndarray, np.ndarray]:
  """Put a text between start and end and fill the row up with ends.

  Args:
    ids: of the text; what does not fit is cut off behind.
    start_id: stands first.
    end_id: stands behind the text.
    max_len: T, at least 2.

  Returns:
    input_ids: int32[T].
    text_mask: bool[T], False for what fills the row up.
  """
  kept = [start_id, *ids[: max_len - 2], end_id]
  row = np.full(max_len, end_id, np.int32)
  row[: len(kept)] = kept
  return row, np.arange(max_len) < len(kept)


class FamilySource:
  """Families of pairs, one for each example of a source.

  Family i is a function of the seed, i and example i alone.
  """

  def __init__(
    self,
    examples: Any,
    *,
    encode: Encode,
    start_id: int,
    end_id: int,
    max_len: int,
    family_size: int,
    hole_rate: float = 0.0,
    seed: int = 0,
  ) -> None:
    """Choose the families; each is drawn when it is asked for.

    Args:
      examples: a `pipeline.ScenesSource`, or any sequence of rules.Example.
      encode: text to ids, without start and end.
      start_id: stands before each text.
      end_id: stands behind it.
      max_len: T, ids of a row.
      family_size: K, pairs of a family, at least 1.
      hole_rate: in [0, 1], how often a text loses a random share of its words.
      seed: of variations and holes.

    Raises:
      ValueError: if a number is out of range.
    """
    if family_size < 1 or max_len < 2:
      raise ValueError(
        "family_size must be at least 1 and max_len at least 2, got "
        f"{family_size=} {max_len=}"
      )
    if not 0 <= hole_rate <= 1:
      raise ValueError(f"hole_rate must be in [0, 1], got {hole_rate=}")
    self._examples, self._encode = examples, encode
    self._marks = {"start_id": start_id, "end_id": end_id, "max_len": max_len}
    self._family_size, self._hole_rate = family_size, hole_rate
    self._seed = seed

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: Any, /) -> dict[str, np.ndarray]:
    """Return family `index`.

    Returns:
      input_ids: int32[K, T].
      text_mask: bool[K, T], False for padding.
      pictures: uint8[K, 64, 64, 3].
    """
    rng = np.random.default_rng((self._seed, 1, int(index)))
    pairs = family(rng, self._examples[index], size=self._family_size)
    rows = [
      token_row(self._with_holes(rng, self._encode(text)), **self._marks)
      for text, _ in pairs
    ]
    return {
      "input_ids": np.stack([ids for ids, _ in rows]),
      "text_mask": np.stack([mask for _, mask in rows]),
      "pictures": np.stack([render.render(scene) for _, scene in pairs]),
    }

  def _with_holes(
    self, rng: np.random.Generator, ids: Sequence[int]
  ) -> Sequence[int]:
    """Return the ids, at times without a random share of them."""
    if not phrases.chance(rng, self._hole_rate):
      return ids
    kept = rng.random(len(ids)) < rng.random()
    return [i for i, keep in zip(ids, kept, strict=True) if keep]
