"""Laws of a run in several processes: it is the run of one."""
# mypy: disallow-untyped-defs=False

import dataclasses
import pathlib
import re
import signal
import time

import jax
import launched
import mini_sft
import numpy as np
import pytest

from paradiff import metrics
from paradiff import pretrained

NUM_STEPS = 64
FAILS_AT = 26  # of a checkpoint each 8 steps
FLAGS = (f"--config.num_steps={NUM_STEPS}", "--config.checkpoint.every=1000")
# The newest and the best are saved at the same step.
SCORED = ("--config.evaluate.every=32", "--config.checkpoint.every=32")
SECS = 240
ENDS_SECS = 60.0  # all processes, after one of them has failed
FAULT = f"""
import sys, time
from paradiff import metrics
update = metrics.Progress.update
def fails(self, done, **values):
  if done == {FAILS_AT}:
    sys.stderr.write(f"failed at {{time.time()}}\\n")
    raise KeyError("a fault of this machine")
  update(self, done, **values)
metrics.Progress.update = fails
"""


def _wait(started):
  return [process.wait(timeout=SECS) for process in started]


def _launch_alone(workdir, *flags):
  started = launched.launch(workdir, *FLAGS, *flags, optimized=False)
  return started.wait(timeout=SECS)


def _logs(workdir, count):
  return [
    (workdir.parent / f"{workdir.name}.{process}.log").read_text()
    for process in range(count)
  ]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("many")
  mini_sft.write_image_tokenizer(root / "tokenizer")
  return root


@pytest.fixture(scope="module")
def alone(root):
  """The run of one process."""
  assert _launch_alone(root / "alone", *SCORED) == 0
  return root / "alone"


@dataclasses.dataclass
class Moved:
  """A run that four processes begin, two go on with, and one ends.

  Attributes:
    workdir: of the run.
    saved: the newest checkpoint after each part but the last.
    secs: that each process lived on after the fault, and after the kill.
    logs: of the two processes with a fault, and of the two with a kill.
  """

  workdir: pathlib.Path
  saved: list[int] = dataclasses.field(default_factory=list)
  secs: list[float] = dataclasses.field(default_factory=list)
  logs: list[list[str]] = dataclasses.field(default_factory=list)

  def launch(self, count, *flags, **options):
    for log in self.workdir.parent.glob(f"{self.workdir.name}.*.log"):
      log.unlink()
    return launched.launch_many(self.workdir, count, *FLAGS, *flags, **options)

  def end(self, codes, wanted):
    logs = _logs(self.workdir, len(codes))
    assert codes == wanted, logs
    self.logs.append(logs)
    self.saved.append(launched.saved_steps(self.workdir)[-1])


@pytest.fixture(scope="module")
def moved(root):
  run = Moved(root / "moved")
  four = run.launch(4, "--config.mesh.data=2", "--config.mesh.fsdp=2")
  # One of them is told; all are to stop at the same step.
  code = launched.signal_when(
    four[-1], lambda: launched.last_step(run.workdir) >= 4, signal.SIGTERM
  )
  run.end([*_wait(four[:-1]), code], [143] * 4)
  assert 0 < run.saved[0] < FAILS_AT - FAILS_AT % 8
  two = ("--config.mesh.data=2", "--config.checkpoint.every=8")
  # In one of them alone something raises.
  started = run.launch(2, *two, before=FAULT)
  run.end(_wait(started), [1, 1])
  failed = re.search(r"^failed at (\S+)$", run.logs[-1][1], re.MULTILINE)
  run.secs.append(time.time() - float(failed[1]))
  # The first, which the others are connected with, is killed.
  started = run.launch(2, *two)
  code = launched.signal_when(
    started[0],
    lambda: launched.last_step(run.workdir) > FAILS_AT,
    signal.SIGKILL,
  )
  killed = time.time()
  others = _wait(started[1:])
  # jax aborts them where it is the first to see that.
  run.end([code, *({-signal.SIGABRT: 1}.get(c, c) for c in others)], [-9, 1])
  run.secs.append(time.time() - killed)
  assert _launch_alone(run.workdir) == 0
  return run


def _same(workdir, other, *, rtol):
  rows, others = metrics.read(workdir), metrics.read(other)
  mine, theirs = (
    {row["step"]: row["train/loss"] for row in r if "train/loss" in row}
    for r in (rows, others)
  )
  assert mine[NUM_STEPS] == pytest.approx(theirs[NUM_STEPS], rel=rtol)
  params, wanted = (
    pretrained.load(folder / "model", "transformer")[0]
    for folder in (workdir, other)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-4),
    params,
    wanted,
  )


def test_two_processes_train_as_one_does(root, alone):
  workdir = root / "two"
  started = launched.launch_many(
    workdir, 2, *FLAGS, *SCORED, "--config.mesh.data=2"
  )
  assert _wait(started) == [0, 0], _logs(workdir, 2)
  _same(workdir, alone, rtol=1e-3)
  # One of them writes: every step once, one evaluation at a time.
  for name in ("train/loss", "eval/output_alignment"):
    steps, wanted = (
      [row["step"] for row in metrics.read(folder) if name in row]
      for folder in (workdir, alone)
    )
    assert steps == wanted
  assert not list(workdir.rglob("*.part"))


def test_a_run_goes_on_with_any_number_of_processes(moved, alone):
  _same(moved.workdir, alone, rtol=1e-3)
  rows = metrics.read(moved.workdir)
  steps = [row["step"] for row in rows if "train/loss" in row]
  assert steps == sorted(set(steps))


def test_what_fails_in_one_process_ends_all_at_once_saying_why(moved):
  first, second = moved.logs[1]
  # Where it happened the log also says at which line.
  assert "error: process 1 failed: KeyError: 'a fault of this machine'" in first
  assert "goes on from the last checkpoint" in first
  assert "Traceback" not in first and "must be gone" not in first
  assert "in fails" in second
  assert "\nKeyError: 'a fault of this machine'\n" in second
  assert moved.secs[0] < ENDS_SECS
  # What was saved before is whole, and is what the others go on from.
  assert moved.saved[1] == FAILS_AT - FAILS_AT % 8
  for log in moved.logs[2]:
    assert f"resuming at step {moved.saved[1]}\n" in log


def test_a_process_that_dies_ends_the_run_and_nothing_is_lost(moved):
  (_, second) = moved.logs[2]
  assert "another process of the run must be gone" in second or (
    "another task died" in second
  )
  assert moved.secs[1] < ENDS_SECS
  assert moved.saved[2] >= moved.saved[1]
  log = pathlib.Path(f"{moved.workdir}.log").read_text()
  assert f"resuming at step {moved.saved[2]}\n" in log


def test_processes_with_other_configs_are_refused_at_once(root):
  workdir = root / "unlike"
  started = launched.launch_many(
    workdir, 2, *FLAGS, own=("--config.optim.learning_rate=0.1",)
  )
  assert _wait(started) == [1, 1]
  for log in _logs(workdir, 2):
    assert "must be given the same config" in log
    assert "process 0 in [1]" in log
  assert not workdir.exists()
