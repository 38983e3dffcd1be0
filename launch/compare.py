"""The runs of a sweep side by side: one table and one plot.

  python -m launch.compare --workdir=ROOT --metrics=train/loss,eval/solved

Reads what `launch.sweep` wrote, also while it runs; writes ROOT/compare.md and
ROOT/compare.svg (extra [report]) and prints the table.
"""

import collections
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app
from absl import flags
from etils import epath

from experiments import common
from experiments import curves
from launch import runs as runs_lib
from paradiff import metrics as metrics_lib
from paradiff.data import images

TABLE_NAME, PLOT_NAME = "compare.md", "compare.svg"


@dataclasses.dataclass(frozen=True)
class Result:
  """What a run of a sweep has come to.

  Attributes:
    index: its number.
    changes: the fields in which it differs.
    state: "done", "begun" or "not begun".
    last: by metric, the newest step that has it, and its value.
  """

  index: int
  changes: Mapping[str, Any]
  state: str
  last: Mapping[str, tuple[int, float]]

  @property
  def label(self) -> str:
    """The last parts of the names that differ, with their values."""
    parts = [f"{k.split('.')[-1]}={v}" for k, v in self.changes.items()]
    return f"{self.index}: {' '.join(parts)}"


def read(workdir: epath.PathLike, metrics: Sequence[str]) -> list[Result]:
  """Read the runs of a sweep.

  Raises:
    FileNotFoundError: if there is no sweep in the folder.
    ValueError: if runs have begun and none has one of the metrics.
  """
  root = epath.Path(workdir)
  path = root / runs_lib.FILE_NAME
  if not path.exists():
    raise FileNotFoundError(
      f"workdir must be one of launch.sweep, got no {path}"
    )
  sweep = runs_lib.Sweep(workdir=str(root), **json.loads(path.read_text()))
  results, known = [], set()
  for index, changes in enumerate(sweep.runs):
    folder = sweep.folder(index)
    rows = metrics_lib.read(folder) if folder.exists() else []
    known |= {name for row in rows for name in row}
    last = {
      name: (row["step"], row[name])
      for row in rows
      for name in metrics
      if name in row
    }
    is_done = (folder / common.DONE_NAME).exists()
    state = "done" if is_done else "begun" if rows else "not begun"
    results.append(Result(index, changes, state, last))
  missing = [name for name in metrics if known and name not in known]
  if missing:
    raise ValueError(
      f"metrics must be among {sorted(known - {'step'})}, got {missing}"
    )
  return results


def table(results: Sequence[Result], metrics: Sequence[str]) -> str:
  """Write a Markdown table; a metric has its last value and the step."""
  names = list(dict.fromkeys(name for r in results for name in r.changes))
  header = ["run", *names, "state", *metrics]
  rows = [header, ["---"] * len(header)]
  for result in results:
    cells = [str(result.index)]
    cells += [str(result.changes.get(name, "")) for name in names]
    cells.append(result.state)
    for name in metrics:
      step, value = result.last.get(name, (0, 0.0))
      cells.append(f"{value:.4g} at {step}" if name in result.last else "-")
    rows.append(cells)
  return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def define_flags() -> None:
  """Define the flags: late, for modules may share names."""
  flags.DEFINE_string("workdir", None, "ROOT of the sweep.")
  flags.DEFINE_list("metrics", ["train/loss"], "What is compared.")
  flags.mark_flag_as_required("workdir")


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"there must be no further arguments, got {argv[1:]}")
  root, metrics = epath.Path(flags.FLAGS.workdir), flags.FLAGS.metrics
  try:
    results = read(root, metrics)
    text = table(results, metrics)
    images.write_atomically(root / TABLE_NAME, text.encode())
    folders = {r.label: [runs_lib.folder(root, r.index)] for r in results}
    drawn = curves.draw({n: n for n in metrics}, folders, what="step")
    if drawn is not None:
      images.write_atomically(root / PLOT_NAME, drawn)
  except (ValueError, OSError, ImportError) as error:
    sys.exit(f"error: {error}")
  states = collections.Counter(result.state for result in results)
  print(text, end="")
  print(", ".join(f"{number} {state}" for state, number in states.items()))


if __name__ == "__main__":
  define_flags()
  app.run(main)
