"""Laws of a run in several processes: it is the run of one."""
# mypy: disallow-untyped-defs=False

import signal

import jax
import launched
import mini_sft
import numpy as np
import pytest

from paradiff import metrics
from paradiff import pretrained

NUM_STEPS = 48
FLAGS = (f"--config.num_steps={NUM_STEPS}", "--config.checkpoint.every=1000")
# The newest and the best are saved at the same step.
SCORED = ("--config.evaluate.every=24", "--config.checkpoint.every=24")
SECS = 240


def _wait(started):
  return [process.wait(timeout=SECS) for process in started]


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
  assert (
    launched.launch(root / "alone", *FLAGS, *SCORED).wait(timeout=SECS) == 0
  )
  return root / "alone"


@pytest.fixture(scope="module")
def moved(root, alone):
  """A run begun by four processes, gone on by two, ended by one."""
  workdir, steps = root / "moved", []
  for count, mesh in ((4, (2, 2)), (2, (2, 1))):
    started = launched.launch_many(
      workdir,
      count,
      *FLAGS,
      f"--config.mesh.data={mesh[0]}",
      f"--config.mesh.fsdp={mesh[1]}",
    )
    first = launched.last_step(workdir)
    # One of them is told; all are to stop at the same step.
    code = launched.signal_when(
      started[-1],
      lambda first=first: launched.last_step(workdir) >= first + 8,
      signal.SIGTERM,
    )
    assert {code, *_wait(started)} == {143}, _logs(workdir, count)
    steps.append(launched.saved_steps(workdir)[-1])
  assert launched.launch(workdir, *FLAGS).wait(timeout=SECS) == 0
  return workdir, steps


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
  workdir, steps = moved
  assert 0 < steps[0] < steps[1] < NUM_STEPS
  _same(workdir, alone, rtol=1e-3)
  steps = [row["step"] for row in metrics.read(workdir) if "train/loss" in row]
  assert steps == sorted(set(steps))


def test_a_process_that_dies_ends_the_run_and_nothing_is_lost(root, alone):
  workdir = root / "dying"
  flags = (*FLAGS, "--config.mesh.data=2", "--config.checkpoint.every=8")
  started = launched.launch_many(workdir, 2, *flags)
  launched.signal_when(
    started[1], lambda: launched.saved_steps(workdir), signal.SIGKILL
  )
  assert started[0].wait(timeout=SECS) == 1
  (log, _) = _logs(workdir, 2)
  assert "another process of the run must be gone" in log
  assert launched.saved_steps(workdir)
  assert _wait(launched.launch_many(workdir, 2, *flags)) == [0, 0]
  assert "resuming at step" in _logs(workdir, 2)[0]
  _same(workdir, alone, rtol=1e-3)


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
