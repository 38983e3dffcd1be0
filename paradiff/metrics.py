"""Numbers on their way out of a loop: averages, files and a progress line.

`Writer` has the method names of `clu.metric_writers.MetricWriter`, which needs
TensorFlow; where that is installed, clu's own writer can stand in its place.
The values go to TensorBoard event files and to JSON lines, one object a step
(`metric_files`), which survive kills: a run that resumes at step s first drops
every line behind s, so each step stands in the files once.
"""

import collections
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import jax
import numpy as np
from clu import metrics as clu_metrics
from etils import epath

from paradiff import metric_files
from paradiff import remote

read = metric_files.read


@jax.jit
def _start(values: dict[str, jax.Array]) -> dict[str, clu_metrics.Average]:
  return {
    name: clu_metrics.Average.from_model_output(value)
    for name, value in values.items()
  }


@jax.jit
def _merge(
  window: dict[str, clu_metrics.Average], values: dict[str, jax.Array]
) -> dict[str, clu_metrics.Average]:
  new = _start(values)
  return {name: average.merge(new[name]) for name, average in window.items()}


class Window:
  """Averages of step metrics between two reports, kept on the device."""

  def __init__(self) -> None:
    self._averages: dict[str, clu_metrics.Average] = {}

  def add(self, values: dict[str, jax.Array]) -> None:
    """Take in one step's metrics, float32[] each, without waiting for them."""
    started = bool(self._averages)
    self._averages = (
      _merge(self._averages, values) if started else _start(values)
    )

  def take(self) -> dict[str, float]:
    """Wait for the averages, return them and start anew."""
    averages = jax.device_get(self._averages)
    self._averages = {}
    return {name: float(a.compute()) for name, a in averages.items()}


class Writer:
  """Write metrics to TensorBoard and as JSON lines in a workdir.

  Steps must ascend. The scalars of one step may come in several calls; its
  line is written when the step is over, or at `flush`.

  Attributes:
    workdir: the folder of both files.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    *,
    resume_step: int | None = None,
    part_secs: float = 10.0,
  ) -> None:
    """Open the files.

    Args:
      workdir: a folder, created if need be; it may be remote.
      resume_step: keep what was written up to this step and drop the rest;
        None drops everything.
      part_secs: seconds between two parts where the workdir is remote.

    Raises:
      ValueError: if a metrics file is damaged.
    """
    self.workdir = epath.Path(workdir)
    self.workdir.mkdir(parents=True, exist_ok=True)
    last = -1 if resume_step is None else resume_step
    if resume_step is None:
      for path in metric_files.paths(workdir):
        path.unlink()
    metric_files.cut(workdir, last_step=last)
    self._file: metric_files.Lines | metric_files.Parts
    if remote.is_remote(workdir):
      self._file = metric_files.Parts(workdir, every_secs=part_secs)
    else:
      self._file = metric_files.Lines(workdir)
    self._row: dict[str, Any] = {}
    self._last_step = last
    self._board = metric_files.Board(workdir, purge_step=last + 1)

  def _end_row(self) -> None:
    if not self._row:
      return
    line = metric_files.to_line(self._row)
    self._last_step, self._row = self._row["step"], {}
    self._file.add(line)

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Record numbers of a step.

    Raises:
      ValueError: if the line of this step, or of a later one, is written.
    """
    if self._row and self._row["step"] != step:
      self._end_row()
    if step <= self._last_step:
      raise ValueError(
        f"steps must ascend, got step {step} after step {self._last_step}"
      )
    values = {name: float(value) for name, value in scalars.items()}
    self._row = {"step": int(step), **self._row, **values}
    for name, value in values.items():
      self._board.events.add_scalar(name, value, step)

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Record pictures uint8[N, H, W, 3] or [H, W, 3] of a step."""
    for name, image in images.items():
      image = np.asarray(image)
      if image.ndim == 4:
        self._board.events.add_images(name, image, step, dataformats="NHWC")
      else:
        self._board.events.add_image(name, image, step, dataformats="HWC")

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    """Record texts of a step."""
    for name, text in texts.items():
      self._board.events.add_text(name, text, step)

  def write_histograms(
    self,
    step: int,
    arrays: Mapping[str, np.ndarray],
    num_buckets: Mapping[str, int] | None = None,
  ) -> None:
    """Record the distribution of arrays of a step; 30 buckets by default."""
    for name, array in arrays.items():
      bins = (num_buckets or {}).get(name, 30)
      self._board.events.add_histogram(
        name, np.asarray(array), step, max_bins=bins
      )

  def write_hparams(self, hparams: Mapping[str, Any]) -> None:
    """Record the options of the run, flat."""
    self._board.events.add_text(
      "hparams",
      "\n".join(f"    {name}: {value!r}" for name, value in hparams.items()),
    )

  def flush(self) -> None:
    """Write everything so far; the current step's line is then closed."""
    self._end_row()
    self._file.flush()
    self._board.flush()

  def close(self) -> None:
    """Flush and close the files."""
    self._end_row()
    self._file.flush()
    self._board.close()


class Silent:
  """A `Writer` that writes nothing, for all processes of a run but one.

  Attributes:
    workdir: the run's folder.
  """

  def __init__(self, workdir: epath.PathLike) -> None:
    """Remember the folder."""
    self.workdir = epath.Path(workdir)

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Do nothing."""

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Do nothing."""

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    """Do nothing."""

  def write_hparams(self, hparams: Mapping[str, Any]) -> None:
    """Do nothing."""

  def flush(self) -> None:
    """Do nothing."""

  def close(self) -> None:
    """Do nothing."""


class Progress:
  """Steps done, speed and time left: one redrawn line, or a line now and then.

  The speed is that of the last half minute and leaves out the first step,
  which compiles, so that no pause lingers in the estimate.
  """

  def __init__(
    self,
    num_steps: int,
    *,
    stream: TextIO,
    start_step: int = 0,
    what: str = "step",
    every_secs: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
  ) -> None:
    """Show where the count begins.

    Args:
      num_steps: where the count ends.
      stream: where to write; a terminal gets one redrawn line.
      start_step: where this process begins to count.
      what: the word before the count.
      every_secs: seconds between two lines where the stream is no terminal.
      clock: seconds, ascending.
    """
    self._num_steps = num_steps
    self._stream = stream
    self._what = what
    self._is_tty = stream.isatty()
    self._every_secs = 0.2 if self._is_tty else every_secs
    self._clock = clock
    self._history: collections.deque[tuple[float, int]] = collections.deque()
    self._shown_at = clock()
    self._width = 0
    self._show(start_step, {})

  @property
  def steps_per_sec(self) -> float:
    """Speed of the last half minute; 0 before two steps are done."""
    if len(self._history) < 2:
      return 0.0
    (then, first), (now, last) = self._history[0], self._history[-1]
    return (last - first) / (now - then) if now > then else 0.0

  def update(self, step: int, **values: float) -> None:
    """Count `step` steps as done and show them with `values` if it is time."""
    now = self._clock()
    self._history.append((now, step))
    while len(self._history) > 2 and now - self._history[0][0] > 30.0:
      self._history.popleft()
    if now - self._shown_at >= self._every_secs or step >= self._num_steps:
      self._shown_at = now
      self._show(step, values)

  def _show(self, step: int, values: Mapping[str, float]) -> None:
    rate = self.steps_per_sec
    parts = [f"{self._what} {step}/{self._num_steps}"]
    if rate > 0.0:
      left = format_secs((self._num_steps - step) / rate)
      parts += [f"{rate:.3g}/s", f"{left} left"]
    # Not a number: nothing to show yet.
    known = {name: v for name, v in values.items() if not math.isnan(v)}
    parts += [f"{name} {value:.4g}" for name, value in known.items()]
    line = "  ".join(parts)
    if self._is_tty:
      self._stream.write("\r" + line.ljust(self._width))
      self._width = len(line)
    else:
      self._stream.write(line + "\n")
    self._stream.flush()

  def close(self) -> None:
    """End the redrawn line."""
    if self._is_tty:
      self._stream.write("\n")
      self._stream.flush()


def format_secs(secs: float) -> str:
  """Return `45s`, `3m05s` or `2h07m`."""
  whole = max(0, round(secs))
  if whole < 60:
    return f"{whole}s"
  if whole < 3600:
    return f"{whole // 60}m{whole % 60:02d}s"
  return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
