"""Curves of trainings, from their metrics files, as SVG.

matplotlib is an extra of the package and imported only here, when it is used.
"""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from paradiff import metrics

SFT_PANELS = {
  "train/loss_text": "loss of the text",
  "train/loss_image": "loss of the picture",
}
RL_PANELS = {
  "reward/total": "reward of finished rollouts",
  "rl/dead_groups": "groups without a spread of rewards",
  "reward/clip_saturated": "CLIP scores cut at a standard deviation",
}
_WIDE = 20  # numbers in a curve from which on it is smoothed
_WINDOW = 5  # of the running mean
_PANEL_SIZE = (4.6, 3.2)  # inches


def require() -> Any:
  """Return matplotlib.

  Raises:
    ImportError: naming the extra that brings it.
  """
  try:
    import matplotlib.figure
    import matplotlib.ticker
  except ImportError as error:
    raise ImportError(
      "matplotlib must be installed for the report's plots, got none: "
      'pip install "paradiff[report]"'
    ) from error
  return matplotlib


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
  """A metric of one training, over several seeds.

  Attributes:
    steps: int[n], steps that all seeds have, ascending.
    values: float64[S, n].
  """

  steps: np.ndarray
  values: np.ndarray


def curve(folders: Sequence[epath.Path], name: str) -> Curve | None:
  """Read a metric of the workdirs of all seeds; None if one has none."""
  columns = [
    {row["step"]: row[name] for row in metrics.read(folder) if name in row}
    for folder in folders
  ]
  common = sorted(set.intersection(*map(set, columns))) if columns else []
  if not common:
    return None
  values = [[column[step] for step in common] for column in columns]
  return Curve(np.asarray(common), np.asarray(values, np.float64))


def smoothed(values: np.ndarray) -> np.ndarray:
  """Return float64[S, n], each the mean of the last `_WINDOW`, if n is large.

  The first ones are means of as many as there are.
  """
  if values.shape[1] < _WIDE:
    return values
  sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
  ends = np.arange(1, values.shape[1] + 1)
  starts = np.maximum(0, ends - _WINDOW)
  return (sums[:, ends] - sums[:, starts]) / (ends - starts)


def draw(
  panels: Mapping[str, str],
  folders: Mapping[str, Sequence[epath.Path]],
  *,
  what: str,
) -> bytes | None:
  """Draw a panel for each metric that there is, a line for each training.

  Args:
    panels: title by name of the metric.
    folders: workdirs of all seeds, by what the training is called.
    what: name of the horizontal axis.

  Returns:
    An SVG: the mean over seeds, shaded from the lowest to the highest seed;
    None if no training has any of the metrics.

  Raises:
    ImportError: if matplotlib is missing.
  """
  found: dict[str, dict[str, Curve]] = {}
  for name in panels:
    curves = {label: curve(seeds, name) for label, seeds in folders.items()}
    known = {label: c for label, c in curves.items() if c is not None}
    if known:
      found[name] = known
  if not found:
    return None
  matplotlib = require()
  width, height = _PANEL_SIZE
  figure = matplotlib.figure.Figure(
    figsize=(width * len(found), height), layout="constrained"
  )
  labels = list(folders)  # one colour a training in all panels
  for number, (name, known) in enumerate(found.items()):
    axes = figure.add_subplot(1, len(found), number + 1)
    for label, one in known.items():
      colour = f"C{labels.index(label)}"
      values = smoothed(one.values)
      marker = "o" if len(one.steps) < 2 else None
      axes.plot(
        one.steps, values.mean(axis=0), color=colour, label=label, marker=marker
      )
      if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(one.steps, low, high, color=colour, alpha=0.2, lw=0)
    axes.set_title(panels[name], fontsize=10)
    axes.set_xlabel(what)
    axes.grid(alpha=0.3)
    if number == 0:
      axes.legend(fontsize=8)
    if name.startswith("train/loss"):
      axes.set_yscale("log")
      plain = matplotlib.ticker.FormatStrFormatter("%g")
      axes.yaxis.set_major_formatter(plain)
      axes.yaxis.set_minor_formatter(plain)
  buffer = io.BytesIO()
  # No date and no random ids: the same numbers give the same file.
  with matplotlib.rc_context({"svg.hashsalt": "paradiff"}):
    figure.savefig(buffer, format="svg", metadata={"Date": None})
  return buffer.getvalue()


def plot(
  panels: Mapping[str, str],
  folders: Mapping[str, Sequence[epath.Path]],
  *,
  what: str,
) -> str | None:
  """Return what `draw` returns as a data URL."""
  drawn = draw(panels, folders, what=what)
  return None if drawn is None else data_url(drawn, "image/svg+xml")


def data_url(data: bytes, kind: str) -> str:
  """Return a file as a URL that holds it."""
  return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def secs_of(folder: epath.Path) -> float:
  """Return the seconds that a training's loop took, from its metrics."""
  total, before = 0.0, 0
  for row in metrics.read(folder):
    if "perf/steps_per_sec" in row:
      total += (row["step"] - before) / row["perf/steps_per_sec"]
      before = row["step"]
    total += sum(
      value
      for name, value in row.items()
      if name.startswith("perf/") and name.endswith("_secs")
    )
  return total
