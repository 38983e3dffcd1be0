"""The runs of a sweep: numbered, written down, and run on this machine."""

import collections
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any, TextIO

from etils import epath

from experiments import common
from paradiff.data import images

FILE_NAME = "sweep.json"
_POLL_SECS = 0.2

Changes = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Runs that differ in a few fields.

  Attributes:
    experiment: a module of `experiments`.
    config: the config file, with `:argument` if it takes one.
    workdir: ROOT; run i writes into ROOT/00i.
    runs: fields that differ, by dotted name, for each run.
    overrides: flags `--config.x=y` of every run.
  """

  experiment: str
  config: str
  workdir: str
  runs: tuple[Changes, ...]
  overrides: tuple[str, ...] = ()

  def folder(self, index: int) -> epath.Path:
    """Return the workdir of a run."""
    return folder(self.workdir, index)

  def command(self, index: int) -> list[str]:
    """Return the command line of a run.

    Raises:
      IndexError: if there is no such run.
    """
    if not 0 <= index < len(self.runs):
      raise IndexError(
        f"index must lie in [0, {len(self.runs)}), the runs of the sweep, got "
        f"{index}"
      )
    return [
      *(sys.executable, "-m", f"experiments.{self.experiment}"),
      f"--config={self.config}",
      *self.overrides,
      *(f"--config.{name}={value}" for name, value in self.runs[index].items()),
      f"--workdir={self.folder(index)}",
    ]


def folder(workdir: epath.PathLike, index: int) -> epath.Path:
  """Return the workdir of a run of the sweep in `workdir`."""
  return epath.Path(workdir) / f"{index:03d}"


def write(sweep: Sweep) -> None:
  """Write ROOT/sweep.json, which says what run has which number.

  Raises:
    ValueError: if ROOT holds another sweep.
  """
  path = epath.Path(sweep.workdir) / FILE_NAME
  data = json.loads(json.dumps(dataclasses.asdict(sweep)))
  del data["workdir"]
  if not sweep.overrides:  # as before there were any
    del data["overrides"]
  if path.exists():
    found = json.loads(path.read_text())
    if found != data:
      raise ValueError(
        f"{path} must hold this sweep, got another: {found}; use a new workdir"
      )
    return
  text = json.dumps(data, indent=2) + "\n"
  images.write_atomically(path, text.encode())


@dataclasses.dataclass
class Local:
  """The runs of a sweep as processes on this machine.

  Attributes:
    sweep: the runs.
    parallel: how many at a time.
    stream: where a line is written when a run begins or ends.
  """

  sweep: Sweep
  parallel: int
  stream: TextIO

  def __post_init__(self) -> None:
    if self.parallel < 1:
      raise ValueError(f"parallel must be at least 1, got {self.parallel}")
    self._running: dict[int, subprocess.Popen[bytes]] = {}
    self._is_stopped = False

  def run(self) -> dict[int, int]:
    """Run what is not done yet; return the exit codes of what was run.

    A run that fails does not stop the others. A SIGTERM is passed on, and
    nothing new is begun.
    """
    todo = collections.deque(
      index
      for index in range(len(self.sweep.runs))
      if not (self.sweep.folder(index) / common.DONE_NAME).exists()
    )
    self._say(f"{len(todo)} of {len(self.sweep.runs)} runs to do")
    before = signal.signal(signal.SIGTERM, self._stop)
    codes: dict[int, int] = {}
    try:
      while self._running or (todo and not self._is_stopped):
        while todo and len(self._running) < self.parallel:
          self._begin(todo.popleft())
        for index, process in list(self._running.items()):
          if process.poll() is not None:
            codes[index] = self._end(index)
        time.sleep(_POLL_SECS)
    finally:
      for process in self._running.values():
        process.terminate()
      signal.signal(signal.SIGTERM, before)
    return codes

  def _begin(self, index: int) -> None:
    folder = self.sweep.folder(index)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
      self._running[index] = subprocess.Popen(
        self.sweep.command(index), stdout=log, stderr=log
      )
    self._say(f"run {index} begins: {dict(self.sweep.runs[index])}")

  def _end(self, index: int) -> int:
    code = self._running.pop(index).returncode
    folder = self.sweep.folder(index)
    if code == 0:
      (folder / common.DONE_NAME).write_text("")
      self._say(f"run {index} is done")
    else:
      self._say(f"run {index} left with code {code}, see {folder / 'log.txt'}")
    return code

  def _stop(self, number: int, frame: FrameType | None) -> None:
    del frame
    self._is_stopped = True
    for process in self._running.values():
      process.send_signal(number)

  def _say(self, line: str) -> None:
    self.stream.write(f"{line}\n")
    self.stream.flush()
