"""Where the numbers of a run are kept: a file that grows, or closed parts.

On a disk a line is appended to `metrics.jsonl` as soon as its step is over. An
object store cannot append: there lines are gathered for some seconds and then
become a file of their own, `metrics/00007.jsonl`, written once. A kill loses
what was gathered, never what was written. TensorBoard's event files are made
on the local disk there and follow in parts too; it reads a folder of them as
one run.
"""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorboardX
from etils import epath

from paradiff import remote
from paradiff.data import images

FILE_NAME = "metrics.jsonl"
PARTS = "metrics"
BOARD = "tensorboard"


def to_line(row: Mapping[str, Any]) -> str:
  """Return a step's values as a line."""
  return json.dumps(row) + "\n"


def paths(workdir: epath.PathLike) -> list[epath.Path]:
  """Return the files that hold a run's lines, in their order."""
  root = epath.Path(workdir)
  folder = root / PARTS
  parts = sorted(folder.glob("*.jsonl")) if folder.exists() else []
  return [path for path in (root / FILE_NAME, *parts) if path.exists()]


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
  """Return the complete lines of a run, oldest first.

  A last line that a kill left half-written is left out.

  Raises:
    ValueError: if another line is not a JSON object with a step.
  """
  return [row for path in paths(workdir) for row in read_file(path)]


def read_file(path: epath.Path) -> list[dict[str, Any]]:
  """Return the complete lines of one file.

  Raises:
    ValueError: as `read`.
  """
  lines = path.read_text().splitlines(keepends=True)
  rows = []
  for number, line in enumerate(lines, start=1):
    if number == len(lines) and not line.endswith("\n"):
      break
    try:
      rows.append(json.loads(line))
      int(rows[-1]["step"])
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f"{path} must hold a JSON object with a step on every line, got "
        f"{line[:80]!r} on line {number}"
      ) from error
  return rows


def cut(workdir: epath.PathLike, *, last_step: int) -> None:
  """Drop all lines behind a step.

  Raises:
    ValueError: as `read`.
  """
  for path in paths(workdir):
    rows = read_file(path)
    kept = [row for row in rows if row["step"] <= last_step]
    if kept:
      text = "".join(map(to_line, kept))
      images.write_atomically(path, text.encode())
    else:
      path.unlink()


class Lines:
  """Appends to `metrics.jsonl`."""

  def __init__(self, workdir: epath.PathLike) -> None:
    self._path = epath.Path(workdir) / FILE_NAME
    if not self._path.exists():
      self._path.write_text("")

  def add(self, line: str) -> None:
    """Write a line."""
    with self._path.open("a") as file:
      file.write(line)

  def flush(self) -> None:
    """Do nothing: every line is written."""


class Parts:
  """Writes lines as closed files, every few seconds and at each flush."""

  def __init__(
    self,
    workdir: epath.PathLike,
    *,
    every_secs: float,
    clock: Callable[[], float] = time.monotonic,
  ) -> None:
    """Go on behind the parts that are there."""
    self._folder = epath.Path(workdir) / PARTS
    numbers = [int(p.stem) for p in paths(workdir) if p.stem.isdigit()]
    self._next = max(numbers, default=-1) + 1
    self._every_secs, self._clock = every_secs, clock
    self._lines: list[str] = []
    self._closed_at = clock()

  def add(self, line: str) -> None:
    """Take in a line; write a part if it is time."""
    self._lines.append(line)
    if self._clock() - self._closed_at >= self._every_secs:
      self.flush()

  def flush(self) -> None:
    """Write what was gathered."""
    self._closed_at = self._clock()
    if not self._lines:
      return
    path = self._folder / f"{self._next:05d}.jsonl"
    images.write_atomically(path, "".join(self._lines).encode())
    self._next += 1
    self._lines = []


class Board:
  """TensorBoard's files, in the workdir or on their way there in parts.

  Attributes:
    events: the writer of now; it may change at each flush.
  """

  def __init__(self, workdir: epath.PathLike, *, purge_step: int) -> None:
    """Open the files; what was written from `purge_step` on is hidden."""
    self._target = epath.Path(workdir) / BOARD
    self._local = contextlib.ExitStack()
    self._is_remote = remote.is_remote(workdir)
    self._folder = os.fspath(self._target)
    self._num_parts = 0
    if self._is_remote:
      self._folder = self._local.enter_context(tempfile.TemporaryDirectory())
    self.events = tensorboardX.SummaryWriter(
      self._folder, purge_step=purge_step
    )

  def flush(self) -> None:
    """Bring all events to the workdir."""
    if not self._is_remote:
      self.events.flush()
      return
    self.events.close()
    self._move()
    self._num_parts += 1
    # Two files of one second would have one name.
    self.events = tensorboardX.SummaryWriter(
      self._folder, filename_suffix=f".{self._num_parts}"
    )

  def close(self) -> None:
    """Bring all events to the workdir and close the files."""
    self.events.close()
    if self._is_remote:
      self._move()
    self._local.close()

  def _move(self) -> None:
    for path in _files(self._folder):
      images.write_atomically(self._target / path.name, path.read_bytes())
      path.unlink()


def _files(folder: str) -> Iterator[epath.Path]:
  """Yield the files of a folder, in the order of their names."""
  yield from sorted(p for p in epath.Path(folder).iterdir() if p.is_file())
