"""Rewards that need no other model: exact facts, form, length, preservation.

Each is a record that is called with a `reward.Context` and returns
float32[B, R]. Early points have little text, so form and length mostly say
how far a rollout is; `Term.output_only` judges them by the finished answer.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from paradiff.rl import reward
from paradiff.scenes import grammar
from paradiff.scenes import parse_picture
from paradiff.scenes import rules
from paradiff.scenes import score

_WHITE = 255.0


def _check_view(text_view: str) -> None:
  if text_view not in reward.TEXT_VIEWS:
    raise ValueError(
      f"text_view must be one of {reward.TEXT_VIEWS}, got {text_view!r}"
    )


def _of_texts(
  texts: Sequence[Sequence[str]], value: Callable[[str], float]
) -> np.ndarray:
  """Return float32[B, R]; each distinct text is looked at once."""
  known = {text: value(text) for text in {t for row in texts for t in row}}
  return np.array([[known[text] for text in row] for row in texts], np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class SceneReward:
  """The exact scores of an answer in the scenes world, weighted and summed.

  Where a picture is made from words alone there is nothing to keep:
  `image_consistency`, undefined there, counts as 1. Equal texts and equal
  pictures are read once.

  Attributes:
    weights: by name of `score.METRICS`; with one weight of 1 the reward lies
      in [0, 1].
    text_view: "committed", or "predicted" with the proposals for what is
      still masked.

  Raises:
    ValueError: if there is no weight, or an option is unknown.
  """

  weights: Mapping[str, float] = dataclasses.field(
    default_factory=lambda: {"output_alignment": 1.0}
  )
  text_view: str = "committed"

  def __post_init__(self) -> None:
    unknown = [name for name in self.weights if name not in score.METRICS]
    if unknown or not self.weights:
      raise ValueError(
        f"weights must name some of {score.METRICS}, got {list(self.weights)}"
      )
    if not all(math.isfinite(weight) for weight in self.weights.values()):
      raise ValueError(f"weights must be finite, got {dict(self.weights)}")
    _check_view(self.text_view)

  def __call__(self, context: reward.Context, /) -> np.ndarray:
    """Return float32[B, R].

    Args:
      context: B rollouts at R points, pictures uint8[B, R, 64, 64, 3].

    Raises:
      TypeError: if an example is no `rules.Example`.
      ValueError: if the pictures have another size.
    """
    for row, example in enumerate(context.examples):
      if not isinstance(example, rules.Example):
        raise TypeError(
          "examples must be rules.Example for a scene reward, got "
          f"{type(example).__name__} at row {row}"
        )
    texts = context.viewed(self.text_view)
    read = {text: grammar.parse(text) for row in texts for text in set(row)}
    flat = context.pictures.reshape(-1, *context.pictures.shape[2:])
    firsts, index = reward.distinct(flat)
    seen = parse_picture.parse_all(flat[firsts])
    known: dict[tuple[int, str, int], float] = {}
    values = np.zeros(context.shape, np.float32)
    for row, point in np.ndindex(*context.shape):
      example, text = context.examples[row], texts[row][point]
      picture = index[row * context.shape[1] + point]
      key = (id(example), text, picture)
      if key not in known:
        known[key] = self._weighted(
          score.score_parsed(example, read[text], seen[picture])
        )
      values[row, point] = known[key]
    return values

  def _weighted(self, scores: Mapping[str, float]) -> float:
    """Return the weighted sum; what is undefined counts as 1."""
    return sum(
      weight * (1.0 if math.isnan(scores[name]) else scores[name])
      for name, weight in self.weights.items()
    )


@dataclasses.dataclass(frozen=True)
class FormatReward:
  """Whether a text has the form that it should have.

  Attributes:
    pattern: a regular expression that the whole text must match, for 1, else
      it is worth 0; a dot in it matches line ends too. None: the share of
      sentences that the grammar of scenes accepts, 0 without any.
    text_view: "committed", or "predicted" with the proposals for what is
      still masked.

  Raises:
    ValueError: if the pattern is no regular expression or the view unknown.
  """

  pattern: str | None = None
  text_view: str = "committed"

  def __post_init__(self) -> None:
    _check_view(self.text_view)
    try:
      re.compile(self.pattern or "", re.DOTALL)
    except re.error as error:
      raise ValueError(
        f"pattern must be a regular expression, got {self.pattern!r}: {error}"
      ) from error

  def __call__(self, context: reward.Context, /) -> np.ndarray:
    """Return float32[B, R] in [0, 1]."""
    return _of_texts(context.viewed(self.text_view), self._value)

  def _value(self, text: str) -> float:
    if self.pattern is None:
      return grammar.parse(text).accepted_rate
    return float(re.fullmatch(self.pattern, text, re.DOTALL) is not None)


@dataclasses.dataclass(frozen=True)
class LengthReward:
  """1 for a text of low to high words, falling linearly to 0 beyond.

  With low = 10, high = 20 and margin = 5, texts of 6, 15, 22 and 30 words are
  worth 0.2, 1, 0.6 and 0.

  Attributes:
    low: least number of words, parted by white space.
    high: greatest number of words.
    margin: from so many words below `low` or above `high` on it is 0.
    text_view: "committed", or "predicted" with the proposals for what is
      still masked.

  Raises:
    ValueError: if the numbers are out of order or the view unknown.
  """

  low: int
  high: int
  margin: int
  text_view: str = "committed"

  def __post_init__(self) -> None:
    if not 0 <= self.low <= self.high or self.margin < 1:
      raise ValueError(
        "low, high and margin must be 0 <= low <= high and at least 1, got "
        f"{self.low=} {self.high=} {self.margin=}"
      )
    _check_view(self.text_view)

  def __call__(self, context: reward.Context, /) -> np.ndarray:
    """Return float32[B, R] in [0, 1]."""
    return _of_texts(context.viewed(self.text_view), self._value)

  def _value(self, text: str) -> float:
    num = len(text.split())
    beyond = max(self.low - num, num - self.high, 0)
    return max(0.0, 1.0 - beyond / self.margin)


@dataclasses.dataclass(frozen=True, eq=False)
class PreservationReward:
  """How well the output keeps what the instruction does not touch.

  clip(PSNR / best_db, 0, 1) of output and source over the pixels to keep.
  Where there is no source, or no pixel to keep, nothing can be lost: 1. What
  an instruction leaves alone cannot be told from the pictures, so the user
  says it; in the scenes world the metric `image_consistency` knows it.

  Attributes:
    keep_mask: from an example to bool[H, W], True where the output must look
      like the source.
    best_db: PSNR in decibels that counts as perfect.

  Raises:
    ValueError: if `best_db` is not positive and finite.
  """

  keep_mask: Callable[[Any], np.ndarray]
  best_db: float = 40.0

  def __post_init__(self) -> None:
    if not 0.0 < self.best_db < math.inf:
      raise ValueError(f"best_db must be positive, got {self.best_db=}")

  def __call__(self, context: reward.Context, /) -> np.ndarray:
    """Return float32[B, R] in [0, 1].

    Args:
      context: B rollouts at R points.

    Raises:
      ValueError: if a source or a mask has another size than the pictures.
    """
    values = np.ones(context.shape, np.float32)
    size = context.pictures.shape[2:4]
    for row, source in enumerate(context.sources):
      if source is None:
        continue
      keep = np.asarray(self.keep_mask(context.examples[row]))
      if keep.shape != size or keep.dtype != np.bool_:
        raise ValueError(
          f"keep_mask must return bool{list(size)}, got "
          f"{keep.dtype}{list(keep.shape)} at row {row}"
        )
      if source.shape != (*size, 3):
        raise ValueError(
          f"a source must have the shape of the output, {[*size, 3]}, got "
          f"{list(source.shape)} at row {row}"
        )
      if keep.any():
        values[row] = self._values(context.pictures[row][:, keep], source[keep])
    return values

  def _values(self, kept: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return float[R] of the pixels uint8[R, M, 3] beside uint8[M, 3]."""
    error = np.square(kept.astype(np.float64) - wanted).mean((1, 2))
    least = _WHITE**2 * 10.0 ** (-self.best_db / 10.0)  # the error at 1
    decibels = 10.0 * np.log10(_WHITE**2 / np.maximum(error, least))
    return np.clip(decibels / self.best_db, 0.0, 1.0)
