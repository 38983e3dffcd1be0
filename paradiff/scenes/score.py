"""Six exact scores for an answer of words and a picture.

They mirror ParaBench's judged metrics with facts in place of judgements:

    text quality       sentences accepted x parts present x no contradictions
    text alignment     F1(facts the text claims, nearest allowed target)
    image consistency  F1 of picture and source in the cells to be kept
    image quality      how cleanly the picture shows what it shows
    image alignment    F1(facts of the picture, nearest allowed target)
    output alignment   F1(facts the text claims, facts of the picture)

`*_changed` is the same F1 on what differs from the source, as facts added and
facts removed; copying the input scores 0 on it. Text and picture are each
held against their own nearest allowed target. Claiming nothing scores 0
unless nothing is the right answer.
"""

import math
from collections.abc import Set

import numpy as np

from paradiff.scenes import grammar
from paradiff.scenes import parse_picture
from paradiff.scenes import rules
from paradiff.scenes import world

SIX_METRICS = (
  "text_quality",
  "text_alignment",
  "image_consistency",
  "image_quality",
  "image_alignment",
  "output_alignment",
)
CHANGED_METRICS = (
  "text_alignment_changed",
  "image_alignment_changed",
  "output_alignment_changed",
)
EXACT_METRICS = ("text_exact", "image_exact", "both_agree", "solved")
METRICS = (*SIX_METRICS, *CHANGED_METRICS, *EXACT_METRICS)

_Facts = Set[world.Thing]
_Signed = frozenset[tuple[str, world.Thing]]


def f1(claimed: Set, true: Set) -> float:
  """Return the F1 of two sets in [0, 1]; two empty sets agree: 1.0."""
  if not claimed and not true:
    return 1.0
  return 2.0 * len(claimed & true) / (len(claimed) + len(true))


def changed(facts: _Facts, source: _Facts) -> _Signed:
  """Return the facts that were added to and removed from `source`."""
  added = {("added", thing) for thing in facts - source}
  removed = {("removed", thing) for thing in source - facts}
  return frozenset(added | removed)


def text_quality(parsed: grammar.ParsedText) -> float:
  """Return how well a text is formed, whatever it says.

  Args:
    parsed: what was read.

  Returns:
    In [0, 1]: share of sentences accepted, times one half for every part
    (steps, result) missing, times the share of claims that no other one
    contradicts; 0 without a result.
  """
  if not parsed.has_result:
    return 0.0
  clashes = parsed.num_contradictions / max(parsed.num_claims, 1)
  parts = 1.0 if parsed.has_changes else 0.5
  return parsed.accepted_rate * parts * max(0.0, 1.0 - clashes)


def _consistency(
  facts: _Facts, source: world.Scene | None, target: world.Scene
) -> float:
  """Return F1 of `facts` and `source` in the cells that `target` keeps."""
  if source is None:
    return math.nan
  kept = {
    cell
    for cell in range(world.NUM_CELLS)
    if source.at(cell) == target.at(cell)
  }
  return f1(
    {thing for thing in facts if thing.cell in kept},
    {thing for thing in source.facts if thing.cell in kept},
  )


def score_parsed(
  example: rules.Example,
  read: grammar.ParsedText,
  seen: parse_picture.ParsedPicture,
) -> dict[str, float]:
  """Score an answer to `example` that has been read already.

  Args:
    example: the task.
    read: what the reasoning claims.
    seen: what the picture shows.

  Returns:
    Every name of `METRICS` with a value in [0, 1]; `image_consistency` is
    nan where there is no source. `text_exact` and `image_exact` say that
    what is claimed or shown is allowed, `both_agree` that they are the same,
    `solved` all three.
  """
  source = example.source.facts if example.source else frozenset()
  said, shown = read.facts, seen.scene.facts
  text_target = example.rule.nearest_allowed(said)
  image_target = example.rule.nearest_allowed(shown)
  # Every allowed scene has equally many objects: all are empty or none is.
  may_be_empty = not image_target.things
  text_counts = read.has_result and bool(said or may_be_empty)
  image_counts = bool(shown or may_be_empty)
  both_count = text_counts and image_counts
  said_changes, shown_changes = changed(said, source), changed(shown, source)
  # Agreeing that nothing changes is worth something only if it is allowed.
  is_still = not said_changes and not shown_changes
  still_counts = not is_still or image_target.facts == source
  text_exact = text_counts and said == text_target.facts
  image_exact = image_counts and shown == image_target.facts
  both_agree = both_count and said == shown
  return {
    "text_quality": text_counts * text_quality(read),
    "text_alignment": text_counts * f1(said, text_target.facts),
    "image_consistency": _consistency(shown, example.source, image_target),
    "image_quality": image_counts * seen.quality,
    "image_alignment": image_counts * f1(shown, image_target.facts),
    "output_alignment": both_count * f1(said, shown),
    "text_alignment_changed": text_counts
    * f1(said_changes, changed(text_target.facts, source)),
    "image_alignment_changed": image_counts
    * f1(shown_changes, changed(image_target.facts, source)),
    "output_alignment_changed": (both_count and still_counts)
    * f1(said_changes, shown_changes),
    "text_exact": float(text_exact),
    "image_exact": float(image_exact),
    "both_agree": float(both_agree),
    "solved": float(text_exact and image_exact and both_agree),
  }


def score(
  example: rules.Example, text: str, picture: np.ndarray
) -> dict[str, float]:
  """Score an answer to `example`.

  Args:
    example: the task.
    text: the reasoning, any string.
    picture: uint8[64, 64, 3].

  Returns:
    What `score_parsed` does.

  Raises:
    ValueError: if the picture has another shape or dtype.
  """
  return score_parsed(
    example, grammar.parse(text), parse_picture.parse(picture)
  )
