"""From scores to tables and sentences: all that the report says in numbers.

Everything is in points of 100, with 95 % intervals over seeds and prompts; all
systems share the resamples, so differences are paired.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments import reproduce_parts as parts_lib
from paradiff.evaluate import bootstrap
from paradiff.scenes import benchmark
from paradiff.scenes import rules
from paradiff.scenes import score

METRICS = (*score.SIX_METRICS, "solved")
ALL = "all"
GROUPS = (ALL, "edit: unambiguous", "edit: free choice", "generate")
MINUS = " minus "
Row = Mapping[str, benchmark.Interval]


@dataclasses.dataclass(frozen=True)
class Cell:
  """A cell of a table.

  Attributes:
    text: what it says.
    mark: "up" or "down" for a difference that is clear of zero, else "".
  """

  text: str
  mark: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
  """A table.

  Attributes:
    title: what it shows.
    header: names of the columns.
    rows: cells, as many as columns.
    note: how to read it.
  """

  title: str
  header: tuple[str, ...]
  rows: tuple[tuple[Cell, ...], ...]
  note: str = ""


@dataclasses.dataclass(frozen=True)
class Finding:
  """What came out for one claim.

  Attributes:
    text: the claim, the numbers and what they say.
    verdict: "holds", "reversed", "not clear", "met" or "not met".
  """

  text: str
  verdict: str


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
  """The numbers of a part.

  Attributes:
    means: by group, system and metric.
    leads: by group, pair and metric, first minus second.
  """

  means: Mapping[str, Mapping[parts_lib.System, Row]]
  leads: Mapping[str, Mapping[parts_lib.Pair, Row]]


def members(
  examples: Sequence[rules.Example], *, by_category: bool = False
) -> dict[str, np.ndarray]:
  """Return bool[N], which prompts are in each of GROUPS; none is empty.

  Args:
    examples: N, the prompts.
    by_category: edits by category in the place of edits by choice.
  """
  every = {
    ALL: np.ones(len(examples), bool),
    **benchmark.groups(examples),
    **{
      name: np.asarray([example.category == name for example in examples])
      for name in rules.EDIT_CATEGORIES
    },
  }
  names = (ALL, *rules.EDIT_CATEGORIES) if by_category else GROUPS
  return {name: every[name] for name in names if np.any(every.get(name, False))}


def measure(
  part: parts_lib.Part,
  scores: Mapping[parts_lib.System, np.ndarray],
  examples: Sequence[rules.Example],
  *,
  num_resamples: int = bootstrap.NUM_RESAMPLES,
) -> Measured:
  """Average the scores of a part and hold its systems against each other.

  Args:
    part: what is compared.
    scores: float64[S, N, M] in the order of `score.METRICS`, or [1, N, M].
    examples: N, the prompts.
    num_resamples: of the bootstrap.
  """
  columns = [score.METRICS.index(name) for name in METRICS]
  points = {s: 100.0 * array[..., columns] for s, array in scores.items()}
  num_seeds = max(len(array) for array in points.values())
  means: dict[str, dict[parts_lib.System, Row]] = {}
  leads: dict[str, dict[parts_lib.Pair, Row]] = {}
  groups = members(examples, by_category=part.by_category)
  for group, which in groups.items():
    resamples = bootstrap.draw(
      num_seeds, int(which.sum()), num_resamples=num_resamples
    )

    def row(values: list[benchmark.Interval]) -> Row:
      return dict(zip(METRICS, values, strict=True))

    here = {
      system: np.broadcast_to(
        array[:, which], (num_seeds, int(which.sum()), len(METRICS))
      )
      for system, array in points.items()
    }
    means[group] = {
      system: row(bootstrap.intervals(here[system], resamples))
      for system in part.systems
    }
    leads[group] = {
      (ours, theirs): row(
        bootstrap.differences(here[ours], here[theirs], resamples)
      )
      for ours, theirs in part.pairs
    }
  return Measured(means=means, leads=leads)


def _written(interval: benchmark.Interval, *, signed: bool = False) -> str:
  """Return `51.2 [48.0, 54.1]`, or a dash where nothing is known."""
  if interval.num == 0:
    return "-"
  mark = "+" if signed else ""
  low, high = f"{interval.low:{mark}.1f}", f"{interval.high:{mark}.1f}"
  return f"{interval.mean:{mark}.1f} [{low}, {high}]"


def _lead_cell(interval: benchmark.Interval) -> Cell:
  mark = ""
  if bootstrap.is_clear(interval):
    mark = "up" if interval.mean > 0 else "down"
  return Cell(_written(interval, signed=True), mark)


def _header(first: str) -> tuple[str, ...]:
  return ("prompts", first, *(name.replace("_", " ") for name in METRICS))


def _mean_table(measured: Measured) -> Table:
  rows = [
    (
      Cell(group),
      Cell(system.label),
      *(Cell(_written(row[name])) for name in METRICS),
    )
    for group, systems in measured.means.items()
    for system, row in systems.items()
  ]
  return Table("Means", _header("system"), tuple(rows))


def _lead_table(measured: Measured) -> Table:
  rows = [
    (
      Cell(group),
      Cell(f"{ours.label}{MINUS}{theirs.label}"),
      *(_lead_cell(row[name]) for name in METRICS),
    )
    for group, pairs in measured.leads.items()
    for (ours, theirs), row in pairs.items()
  ]
  return Table(
    "Paired differences",
    _header("difference"),
    tuple(rows),
    note="In bold: the interval is clear of zero.",
  )


def tables(part: parts_lib.Part, measured: Measured) -> list[Table]:
  """Return the tables of a part: differences, means, the paper's figures."""
  found = [_lead_table(measured), _mean_table(measured)]
  if part.paper:
    header, *rows = part.paper
    found.append(
      Table(
        "The paper's own figures",
        header,
        tuple(tuple(Cell(text) for text in row) for row in rows),
        note=part.paper_note,
      )
    )
  return found


def _verdict(claim: parts_lib.Claim, lead: benchmark.Interval) -> str:
  """Say what a difference says of a claim."""
  is_clear = bootstrap.is_clear(lead)
  if claim.is_no_loss:
    # Not known at all is no proof of no loss.
    return "met" if lead.num and lead.high >= 0.0 else "not met"
  if claim.least > 0.0:
    has_lead = is_clear and lead.mean >= claim.least
    return "met" if has_lead else "not met"
  if not is_clear:
    return "not clear"
  return "holds" if lead.mean > 0.0 else "reversed"


def findings(part: parts_lib.Part, measured: Measured) -> list[Finding]:
  """Return a finding for each claim of a part, from the numbers alone."""
  found = []
  for claim in part.claims:
    ours, theirs = claim.pair
    leads = {
      group: measured.leads[group][claim.pair][claim.metric]
      for group in measured.leads
    }
    lead, means = leads[ALL], measured.means[ALL]
    sentences = [
      claim.text,
      f"Here: {means[ours][claim.metric].mean:.1f} against "
      f"{means[theirs][claim.metric].mean:.1f} points of "
      f"{claim.metric.replace('_', ' ')}, a difference of "
      f"{_written(lead, signed=True)}.",
    ]
    if claim.paper is not None:
      sentences.append(f"The paper: {claim.paper:+.1f}.")
    apart = [
      f"{_written(leads[group], signed=True)} on {group.replace('edit: ', '')}"
      for group in leads
      if group != ALL and leads[group].num
    ]
    sentences.append(f"By kind of prompt: {'; '.join(apart)}.")
    found.append(Finding(" ".join(sentences), _verdict(claim, lead)))
  return found


def markdown(table: Table) -> str:
  """Write a table as Markdown; what is marked is bold."""
  rows = [
    table.header,
    ("---",) * len(table.header),
    *(
      tuple(f"**{cell.text}**" if cell.mark else cell.text for cell in row)
      for row in table.rows
    ),
  ]
  body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
  heading = f"### {table.title}" + (f"\n\n{table.note}" if table.note else "")
  return f"{heading}\n\n{body}"
