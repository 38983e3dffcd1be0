"""The scenes benchmark: 200 edits and 100 pictures from words, all held out.

The tasks are fixed by a seed and hold only compositions that training never
shows (`rules.is_held_out`). Every mean comes with a 95 % bootstrap interval;
systems are compared on the same resamples (paired), and every table shows a
system beside copying the input and any other baseline.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from paradiff.scenes import grammar
from paradiff.scenes import render
from paradiff.scenes import rules
from paradiff.scenes import score
from paradiff.scenes import world

NUM_PER_EDIT_CATEGORY = 40
NUM_PER_GENERATION_CATEGORY = 25
DEFAULT_SEED = 20260101
_INTERVAL = (2.5, 97.5)  # percentiles

Scores = Sequence[Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Interval:
  """A mean with its 95 % bootstrap interval over `num` tasks."""

  mean: float
  low: float
  high: float
  num: int


def build(*, seed: int = DEFAULT_SEED) -> tuple[rules.Example, ...]:
  """Return the benchmark's 300 tasks, no two alike.

  Args:
    seed: another seed gives other tasks of the same kind.

  Returns:
    40 tasks for each of the five edit categories, then 25 for each of the
    four groups of pictures from words.
  """
  rng = np.random.default_rng(seed)
  numbers = {
    **dict.fromkeys(rules.EDIT_CATEGORIES, NUM_PER_EDIT_CATEGORY),
    **dict.fromkeys(rules.GENERATION_CATEGORIES, NUM_PER_GENERATION_CATEGORY),
  }
  examples: list[rules.Example] = []
  for category, number in numbers.items():
    seen: set[tuple[str, world.Scene | None]] = set()
    while len(seen) < number:
      example = rules.sample(rng, split="test", category=category)
      task = (example.prompt, example.source)
      if task not in seen:
        seen.add(task)
        examples.append(example)
  return tuple(examples)


def copy_input(example: rules.Example) -> tuple[str, np.ndarray]:
  """Return the answer that copies the input: text and uint8[64, 64, 3].

  For a picture from words that is no text and an empty canvas.
  """
  if example.source is None:
    return "", render.render(world.Scene())
  text = grammar.write((), example.source)
  return text, render.render(example.source)


def copy_scores(
  examples: Sequence[rules.Example],
) -> list[dict[str, float]]:
  """Return the scores of `copy_input` on every example."""
  return [score.score(e, *copy_input(e)) for e in examples]


def groups(
  examples: Sequence[rules.Example],
) -> dict[str, np.ndarray]:
  """Return which tasks belong to each group that is reported.

  Args:
    examples: the tasks.

  Returns:
    bool[N] by name: `edit`, `edit: unambiguous`, `edit: free choice`, the
    edit categories, `generate` and its categories; empty groups left out.
  """
  category = np.asarray([e.category for e in examples])
  edit = np.asarray([e.kind == "edit" for e in examples], bool)
  free = np.asarray([e.is_free for e in examples], bool)
  members = {
    "edit": edit,
    "edit: unambiguous": edit & ~free,
    "edit: free choice": edit & free,
    **{name: category == name for name in rules.EDIT_CATEGORIES},
    "generate": ~edit,
    **{name: category == name for name in rules.GENERATION_CATEGORIES},
  }
  return {name: which for name, which in members.items() if which.any()}


def _bootstrap(
  values: np.ndarray, *, seed: int, num_resamples: int
) -> list[Interval]:
  """Return the interval of every column of float64[N, M]; nan is left out."""
  num = len(values)
  rng = np.random.default_rng(seed)
  weights = rng.multinomial(num, np.full(num, 1 / num), size=num_resamples)
  known = np.isfinite(values)
  filled = np.where(known, values, 0.0)
  sums, counts = weights @ filled, weights @ known.astype(np.float64)
  means = np.divide(
    sums, counts, out=np.full_like(sums, np.nan), where=counts > 0
  )
  intervals = []
  for column in range(values.shape[1]):
    num_known = int(known[:, column].sum())
    if num_known == 0:
      intervals.append(Interval(np.nan, np.nan, np.nan, 0))
      continue
    low, high = np.nanpercentile(means[:, column], _INTERVAL)
    mean = filled[:, column].sum() / num_known
    intervals.append(Interval(float(mean), float(low), float(high), num_known))
  return intervals


def _matrix(scores: Scores) -> np.ndarray:
  """Return float64[N, M], the scores in the order of `score.METRICS`."""
  rows = [[one[name] for name in score.METRICS] for one in scores]
  return np.asarray(rows, np.float64)


def summarise(
  examples: Sequence[rules.Example],
  scores: Scores,
  *,
  baseline: Scores | None = None,
  seed: int = 0,
  num_resamples: int = 2000,
) -> dict[str, dict[str, Interval]]:
  """Average scores by group.

  Args:
    examples: the tasks.
    scores: one result of `score.score` a task.
    baseline: another system's results on the same tasks; if given, the
      paired difference of `scores` to it is summarised instead.
    seed: of the resamples; equal for all groups of equal size.
    num_resamples: how many resamples.

  Returns:
    By name of the group, then of the metric.

  Raises:
    ValueError: if the lengths differ.
  """
  lengths = {len(examples), len(scores), len(baseline or scores)}
  if len(lengths) != 1:
    raise ValueError(
      f"there must be one score an example, got lengths {sorted(lengths)}"
    )
  values = _matrix(scores)
  if baseline is not None:
    values = values - _matrix(baseline)
  summary = {}
  for name, which in groups(examples).items():
    intervals = _bootstrap(
      values[which], seed=seed, num_resamples=num_resamples
    )
    summary[name] = dict(zip(score.METRICS, intervals, strict=True))
  return summary


def _cell(interval: Interval, *, signed: bool = False) -> str:
  """Return `.912 [.880, .941]`, or a dash where nothing is known."""
  if interval.num == 0:
    return "-"
  mark = "+" if signed else ""
  return (
    f"{interval.mean:{mark}.3f} [{interval.low:{mark}.3f}, "
    f"{interval.high:{mark}.3f}]"
  )


def table(
  examples: Sequence[rules.Example],
  scores: Scores,
  *,
  baselines: Mapping[str, Scores] | None = None,
  name: str = "model",
  metrics: Sequence[str] = score.METRICS,
  only: Collection[str] | None = None,
  seed: int = 0,
) -> str:
  """Write a Markdown table of a system beside its baselines.

  Args:
    examples: the tasks.
    scores: the system's results.
    baselines: further systems by name, such as the untrained model; copying
      the input comes first in any case.
    name: what to call the system.
    metrics: which of `score.METRICS` to show.
    only: names of the groups to show; default: all of them.
    seed: of the resamples.

  Returns:
    One row a group and metric: the number of tasks, every system's mean with
    its interval, and the system's paired lead over copying the input.
  """
  copied = copy_scores(examples)
  systems = {name: scores, "copy input": copied, **(baselines or {})}
  summaries = {
    key: summarise(examples, results, seed=seed)
    for key, results in systems.items()
  }
  lead = summarise(examples, scores, baseline=copied, seed=seed)
  header = ["group", "metric", "n", *systems, f"{name} - copy input"]
  rows = [header, ["---"] * len(header)]
  for group, row in summaries[name].items():
    for metric in metrics if only is None or group in only else ():
      rows.append(
        [
          group,
          metric,
          str(row[metric].num),
          *(_cell(summaries[key][group][metric]) for key in systems),
          _cell(lead[group][metric], signed=True),
        ]
      )
  return "\n".join(f"| {' | '.join(row)} |" for row in rows)
