"""The report of `experiments.reproduce`: one HTML page, and its tables.

`report.html` needs no other file: plots and pictures are inside. `report.md`
has the same findings and tables as Markdown.
"""

import collections
import dataclasses
import importlib.resources
import io
from collections.abc import Mapping, Sequence

import jinja2
import numpy as np
import PIL.Image

from experiments import curves
from experiments import reproduce_parts as parts_lib
from experiments import reproduce_prompts as prompts_lib
from experiments import reproduce_runs as runs
from experiments import reproduce_stages as stages
from experiments import reproduce_tables as tables_lib
from paradiff import metrics
from paradiff.data import images
from paradiff.evaluate import bootstrap
from paradiff.scenes import render
from paradiff.scenes import score

_TEMPLATE = "reproduce_report.html"
_SOLVED = score.METRICS.index("solved")


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture in a grid: as a data URL, its text, and whether it is solved."""

  url: str
  text: str = ""
  is_solved: bool = False


@dataclasses.dataclass(frozen=True)
class GridRow:
  """A row of a grid; None where there is no picture."""

  label: str
  pictures: tuple[Picture | None, ...]


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the report, ready to be written.

  Attributes:
    letter: of the part.
    title: its heading.
    note: which seeds it has.
    findings: what came out.
    tables: its tables.
    plot: data URL of its curves, or None.
    prompts: of the grid's columns.
    grid: pictures, a row a system.
  """

  letter: str
  title: str
  note: str
  findings: tuple[tables_lib.Finding, ...]
  tables: tuple[tables_lib.Table, ...]
  plot: str | None
  prompts: tuple[str, ...]
  grid: tuple[GridRow, ...]


def _png(picture: np.ndarray) -> str:
  """Return uint8[H, W, 3] as the data URL of a PNG."""
  buffer = io.BytesIO()
  PIL.Image.fromarray(picture).save(buffer, "PNG", optimize=True)
  return curves.data_url(buffer.getvalue(), "image/png")


def make_grid(
  run: stages.Run, answers: Mapping[parts_lib.System, list[stages.Answers]]
) -> tuple[GridRow, ...]:
  """Return input, an allowed target, and what each system made, first seed."""
  places = prompts_lib.shown(len(run.examples))
  examples = [run.examples[i] for i in places]
  sources = tuple(
    None if e.source is None else Picture(_png(render.render(e.source)))
    for e in examples
  )
  targets = tuple(
    Picture(_png(render.render(e.target)), e.reasoning) for e in examples
  )
  rows = [GridRow("input", sources), GridRow("an allowed answer", targets)]
  for system, by_seed in answers.items():
    first = by_seed[0]
    made = tuple(
      Picture(
        _png(first.pictures[column]),
        str(first.texts[i]),
        bool(first.scores[i, _SOLVED]),
      )
      for column, i in enumerate(places)
    )
    rows.append(GridRow(system.label, made))
  return tuple(rows)


def _plot(run: stages.Run, part: parts_lib.Part) -> str | None:
  """Draw the curves of a part's trainings."""
  num_seeds = 1 if part.is_single_seed else run.scale.num_seeds
  folders = {
    runs.TRAININGS[name].label: [
      run.folder(name, seed) for seed in range(num_seeds)
    ]
    for name in part.curves
  }
  if runs.TRAININGS[part.curves[0]].kind == "sft":
    return curves.plot(curves.SFT_PANELS, folders, what="step")
  return curves.plot(curves.RL_PANELS, folders, what="iteration")


def make_section(
  run: stages.Run, letter: str, *, num_resamples: int
) -> Section:
  """Read what a part left behind and put it into tables, plots and pictures.

  Raises:
    ValueError: if a file is damaged or of other settings.
    ImportError: if matplotlib is missing.
  """
  part = parts_lib.PARTS[letter]
  answers = stages.load_part(run, part)
  scores = {
    system: np.stack([one.scores for one in by_seed])
    for system, by_seed in answers.items()
  }
  measured = tables_lib.measure(
    part, scores, run.examples, num_resamples=num_resamples
  )
  num_seeds = max(len(by_seed) for by_seed in answers.values())
  note = (
    f"{num_seeds} seeds of every training."
    if num_seeds > 1
    else "One seed of every training: the intervals are over prompts alone and "
    "say nothing of the luck of a seed."
  )
  return Section(
    letter=letter,
    title=part.title,
    note=note,
    findings=tuple(tables_lib.findings(part, measured)),
    tables=tuple(tables_lib.tables(part, measured)),
    plot=_plot(run, part),
    prompts=tuple(
      run.examples[i].prompt for i in prompts_lib.shown(len(run.examples))
    ),
    grid=make_grid(run, answers),
  )


def _cells(*values: object) -> tuple[tables_lib.Cell, ...]:
  return tuple(tables_lib.Cell(str(value)) for value in values)


def make_summary(
  run: stages.Run, letters: Sequence[str]
) -> tuple[tables_lib.Table, ...]:
  """Return what was run: sizes, prompts by category, and seconds."""
  sizes = [
    (name.replace("_", " "), value)
    for name, value in dataclasses.asdict(run.scale).items()
  ]
  categories = collections.Counter(e.category for e in run.examples)
  # A training of several parts was done once.
  jobs = {
    (model, seed): systems
    for letter in letters
    for model, seed, systems in stages.jobs(parts_lib.PARTS[letter], run.scale)
  }
  answered = {
    (system, seed): stages.load(run, system, seed).secs
    for letter in letters
    for _, seed, systems in stages.jobs(parts_lib.PARTS[letter], run.scale)
    for system in systems
  }
  rows = []
  for model, seed in jobs:
    is_shipped = model == runs.SHIPPED
    spent = [
      t for (s, n), t in answered.items() if (s.model, n) == (model, seed)
    ]
    rows.append(
      _cells(
        "SFT (shipped)" if is_shipped else runs.TRAININGS[model].label,
        "-" if is_shipped else seed,
        "-"
        if is_shipped
        else metrics.format_secs(curves.secs_of(run.folder(model, seed))),
        len(spent),
        metrics.format_secs(sum(spent)),
      )
    )
  return (
    tables_lib.Table(
      "Sizes", ("what", "number"), tuple(_cells(*row) for row in sizes)
    ),
    tables_lib.Table(
      "Held-out prompts",
      ("category", "prompts"),
      tuple(_cells(*item) for item in categories.items()),
      note="No two alike. A category with fewer different prompts than its "
      "share leaves the rest to the others of its kind.",
    ),
    tables_lib.Table(
      "Runs",
      ("training", "seed", "training took", "decodings", "answers took"),
      tuple(rows),
    ),
  )


def write(
  run: stages.Run,
  letters: Sequence[str],
  *,
  num_resamples: int = bootstrap.NUM_RESAMPLES,
) -> None:
  """Write `report.html` and `report.md` of the parts that are done.

  Args:
    run: where everything lies.
    letters: of the parts, all of which must be done.
    num_resamples: of the bootstrap.

  Raises:
    ValueError: if a file is damaged or of other settings.
    ImportError: if matplotlib is missing.
  """
  sections = [
    make_section(run, letter, num_resamples=num_resamples) for letter in letters
  ]
  summary = make_summary(run, letters)
  source = importlib.resources.files("experiments") / _TEMPLATE
  environment = jinja2.Environment(
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  page = environment.from_string(source.read_text()).render(
    sections=sections, summary=summary, num_resamples=num_resamples
  )
  images.write_atomically(run.root / "report.html", page.encode())
  lines = ["# The paper's claims in miniature", "## What came out"]
  for section in sections:
    lines.append(f"{section.title}. {section.note}")
    lines.append(
      "\n".join(f"- **{f.verdict}**: {f.text}" for f in section.findings)
    )
  lines += ["## What was run", *map(tables_lib.markdown, summary)]
  for section in sections:
    lines.append(f"## {section.title}")
    lines += map(tables_lib.markdown, section.tables)
  text = "\n\n".join(lines) + "\n"
  images.write_atomically(run.root / "report.md", text.encode())
