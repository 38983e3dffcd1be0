"""A sweep: the runs that a config file declares, checked, and started.

Beneath `get_config` stands what varies:

  def sweep(add):
    for rate in (1e-3, 2e-3):
      add({"optim.learning_rate": rate})

  SWEEP="python -m launch.sweep --experiment=sft --config=FILE --workdir=ROOT"
  $SWEEP                       check every run and print it
  $SWEEP --local --parallel=2  run them here, two at a time
  $SWEEP --index=3             run one; its workdir is ROOT/003

Without --index the number comes from the engine that runs the jobs: Slurm's
SLURM_ARRAY_TASK_ID, SkyPilot's SKYPILOT_JOB_RANK, Kubernetes's
JOB_COMPLETION_INDEX. Every run is re-startable, so the same command again does
what is left.
"""

import collections
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from types import ModuleType
from typing import Any, TextIO

import ml_collections
from absl import app
from absl import flags
from etils import epath

from experiments import clip
from experiments import common
from experiments import rl_config
from experiments import sft_config
from paradiff.data import images

# What a config is built into; that of the tokenizer is checked by its loop.
EXPERIMENTS: Mapping[str, type | None] = {
  "clip": clip.Experiment,
  "rl": rl_config.Experiment,
  "sft": sft_config.Experiment,
  "tokenizer": None,
}
INDEX_VARIABLES = (
  "SLURM_ARRAY_TASK_ID",
  "SKYPILOT_JOB_RANK",
  "JOB_COMPLETION_INDEX",
)
FILE_NAME = "sweep.json"
_POLL_SECS = 0.2

Changes = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Runs that differ in a few fields.

  Attributes:
    experiment: a name in EXPERIMENTS.
    config: the config file, with `:argument` if it takes one.
    workdir: ROOT; run i writes into ROOT/00i.
    runs: fields that differ, by dotted name, for each run.
  """

  experiment: str
  config: str
  workdir: str
  runs: tuple[Changes, ...]

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
      *(f"--config.{name}={value}" for name, value in self.runs[index].items()),
      f"--workdir={self.folder(index)}",
    ]


def folder(workdir: epath.PathLike, index: int) -> epath.Path:
  """Return the workdir of a run of the sweep in `workdir`."""
  return epath.Path(workdir) / f"{index:03d}"


def _load(path: str) -> ModuleType:
  if not os.path.exists(path):
    raise FileNotFoundError(f"config must be a Python file, got {path!r}")
  spec = importlib.util.spec_from_file_location("swept_config", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _checked(
  config: ml_collections.ConfigDict, changes: Changes, *, experiment: str
) -> None:
  """Apply the changes as flags would, and build what the loop builds.

  Raises:
    ValueError: if a field is unknown or has another type or range.
  """
  wrong = {
    name: value
    for name, value in changes.items()
    if not isinstance(value, bool | int | float | str)
  }
  if wrong:
    raise ValueError(f"values must be numbers, words or bools, got {wrong}")
  try:
    config.lock().update_from_flattened_dict(changes)
  except (KeyError, AttributeError, TypeError) as error:
    raise ValueError(error.args[0] if error.args else str(error)) from error
  built = EXPERIMENTS[experiment]
  if built is not None:
    common.build(built, config)


def read(experiment: str, config: str, workdir: str) -> Sweep:
  """Read and check the sweep of a config file.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the experiment is unknown, the file declares no runs, or
      one of them is wrong; naming it.
  """
  if experiment not in EXPERIMENTS:
    raise ValueError(
      f"experiment must be one of {tuple(EXPERIMENTS)}, got {experiment!r}"
    )
  path, _, argument = config.partition(":")
  module = _load(path)
  if not hasattr(module, "sweep"):
    raise ValueError(f"{path} must define sweep(add), got no such function")
  runs: list[Changes] = []
  module.sweep(lambda changes: runs.append(dict(changes)))
  if not runs:
    raise ValueError(f"sweep(add) of {path} must add a run, got none")
  for index, changes in enumerate(runs):
    made = module.get_config(argument) if argument else module.get_config()
    try:
      _checked(made, changes, experiment=experiment)
    except ValueError as error:
      raise ValueError(f"run {index} of {path}, {changes}: {error}") from error
    if changes in runs[:index]:
      raise ValueError(f"runs must differ, got {changes} twice in {path}")
  return Sweep(experiment, config, workdir, tuple(runs))


def write(sweep: Sweep) -> None:
  """Write ROOT/sweep.json, which says what run has which number.

  Raises:
    ValueError: if ROOT holds another sweep.
  """
  path = epath.Path(sweep.workdir) / FILE_NAME
  data = json.loads(json.dumps(dataclasses.asdict(sweep)))
  del data["workdir"]
  if path.exists():
    found = json.loads(path.read_text())
    if found != data:
      raise ValueError(
        f"{path} must hold this sweep, got another: {found}; use a new workdir"
      )
    return
  text = json.dumps(data, indent=2) + "\n"
  images.write_atomically(path, text.encode())


def index_of(environment: Mapping[str, str]) -> int | None:
  """Return the number that an engine gives to its job; None without one.

  Raises:
    ValueError: if two engines disagree.
  """
  found = {n: int(environment[n]) for n in INDEX_VARIABLES if n in environment}
  if len(set(found.values())) > 1:
    raise ValueError(f"a job must have one number, got {found}; give --index")
  return next(iter(found.values()), None)


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


def define_flags() -> None:
  """Define the flags: late, for modules may share names."""
  names = ", ".join(EXPERIMENTS)
  flags.DEFINE_string("experiment", None, f"One of {names}.")
  flags.DEFINE_string("config", None, "The config file, with sweep(add).")
  flags.DEFINE_string("workdir", None, "ROOT: run i writes into ROOT/00i.")
  flags.DEFINE_integer("index", None, "Run this one; default: the engine's.")
  flags.DEFINE_bool("local", False, "Run all of them on this machine.")
  flags.DEFINE_integer("parallel", 1, "How many at a time, with --local.")
  flags.mark_flags_as_required(["experiment", "config", "workdir"])


def main(argv: Sequence[str]) -> None:
  values = flags.FLAGS
  if len(argv) > 1:
    raise app.UsageError(f"there must be no further arguments, got {argv[1:]}")
  try:
    sweep = read(values.experiment, values.config, values.workdir)
    index = values.index
    if index is None and not values.local:
      index = index_of(os.environ)
    if index is None and not values.local:
      for number in range(len(sweep.runs)):
        print(f"{number:3}  {' '.join(sweep.command(number)[1:])}")
      return
    write(sweep)
    if index is not None:
      command = sweep.command(index)
      # In its place, so that signals and exit codes are the run's own.
      os.execv(command[0], command)
    codes = Local(sweep, values.parallel, sys.stderr).run()
  except (ValueError, OSError, IndexError) as error:
    sys.exit(f"error: {error}")
  sys.exit(max((code % 256 for code in codes.values()), default=0))


if __name__ == "__main__":
  define_flags()
  app.run(main)
