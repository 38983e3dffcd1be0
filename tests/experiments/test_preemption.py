"""A run that is told to stop saves, leaves with 143, and goes on exactly."""
# mypy: disallow-untyped-defs=False

import contextlib
import io
import resource
import signal
import subprocess

import jax
import launched
import mini_sft
import numpy as np
import pytest

from experiments import common
from experiments import processes
from experiments import sft
from paradiff import checkpoints
from paradiff import metrics

NUM_STEPS = 240
# The notice of a signal may take a second: steps must not be too fast.
LENGTH = (f"--config.num_steps={NUM_STEPS}", "--config.batch_size=64")
# Never by itself before the end: what is saved was saved for the signal.
RARELY = (*LENGTH, "--config.checkpoint.every=1000")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
  """Return an unbroken run, one that was stopped and relaunched, and more."""
  root = tmp_path_factory.mktemp("runs")
  mini_sft.write_image_tokenizer(root / "tokenizer")
  whole, broken = root / "whole", root / "broken"
  assert launched.launch(whole, *RARELY).wait(timeout=300) == 0
  code = launched.signal_when(
    launched.launch(broken, *RARELY),
    lambda: launched.last_step(broken) >= 8,
    signal.SIGTERM,
  )
  steps = launched.saved_steps(broken)
  log = (root / "broken.log").read_text()
  assert launched.launch(broken, *RARELY).wait(timeout=300) == 0
  return whole, broken, code, steps, log


def test_it_saves_where_it_stands_and_says_so(stopped):
  _, _, code, steps, log = stopped
  assert code == processes.PREEMPTED_EXIT_CODE == 128 + signal.SIGTERM
  (step,) = steps
  assert 8 <= step < NUM_STEPS
  assert f"told to stop, saved step {step}\n" in log
  assert "Traceback" not in log


def test_the_relaunched_run_ends_as_the_unbroken_one(stopped):
  whole, broken, _, (step,), _ = stopped
  assert (
    f"resuming at step {step}\n" in (broken.parent / "broken.log").read_text()
  )
  one, other = (
    (workdir / "model" / "transformer.safetensors").read_bytes()
    for workdir in (whole, broken)
  )
  assert one == other
  losses = [
    {row["step"]: row["train/loss"] for row in metrics.read(workdir)}
    for workdir in (whole, broken)
  ]
  # A window of averages ends where the run was stopped, so that one differs.
  same = [s for s in losses[0] if not step < s <= step + 4]
  assert len(same) >= NUM_STEPS / 4 - 2
  np.testing.assert_array_equal(*[[x[s] for s in same] for x in losses])


def test_the_log_of_a_damaged_checkpoint_says_what_is_taken(stopped, tmp_path):
  root = stopped[0].parent
  workdir = root / "damaged"
  often = "--config.checkpoint.every=40"
  code = launched.signal_when(
    launched.launch(workdir, *LENGTH, often),
    lambda: len(launched.saved_steps(workdir)) >= 2,
    signal.SIGKILL,
  )
  assert code == -signal.SIGKILL
  *_, before, newest = launched.saved_steps(workdir)
  folder = workdir / "checkpoints" / str(newest) / "state"
  for file in folder.rglob("*"):
    if file.is_file():
      file.write_bytes(file.read_bytes()[:8])
  assert launched.launch(workdir, *LENGTH, often).wait(timeout=300) == 0
  log = (root / "damaged.log").read_text()
  assert f"checkpoints/{newest} must be a complete checkpoint" in log
  assert f"Going on from step {before}." in log
  whole, again = (
    (w / "model" / "transformer.safetensors").read_bytes()
    for w in (stopped[0], workdir)
  )
  assert whole == again


@contextlib.contextmanager
def _files_of_at_most(num_bytes):
  """Let longer files fail to be written, as if there were no more room."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_without_room_a_run_stops_and_keeps_its_last_checkpoint(
  tmp_path, monkeypatch
):
  mini_sft.write_image_tokenizer(tmp_path / "tokenizer")
  config = mini_sft.get_config()
  config.image_tokenizer = str(tmp_path / "tokenizer")
  whole = sft.train_and_evaluate(config, tmp_path / "whole")
  saved = []
  with contextlib.ExitStack() as stack:
    update = metrics.Progress.update

    def fill(self, done, **values):
      if not saved and done % 8 == 4:  # no save begins here
        saved.extend(launched.saved_steps(tmp_path / "run"))
        if saved:
          stack.enter_context(_files_of_at_most(20_000))
      update(self, done, **values)

    monkeypatch.setattr(metrics.Progress, "update", fill)
    with pytest.raises(checkpoints.NotSaved, match="File too large"):
      sft.train_and_evaluate(config, tmp_path / "run")
  monkeypatch.undo()
  assert launched.saved_steps(tmp_path / "run")[-1] == saved[-1] < 80
  stream = io.StringIO()
  again = sft.train_and_evaluate(config, tmp_path / "run", stream=stream)
  assert f"resuming at step {saved[-1]}\n" in stream.getvalue()
  jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


def test_everything_is_closed_though_one_thing_fails():
  closed = []

  class Thing:
    def __init__(self, name):
      self.name = name

    def close(self):
      closed.append(self.name)
      if self.name == "b":
        raise OSError("no room")

  with (
    pytest.raises(OSError, match="no room"),
    common.closing(*map(Thing, "abc")),
  ):
    raise RuntimeError("of the loop")
  assert closed == ["a", "b", "c"]


def test_a_workdir_that_cannot_be_written_is_refused_at_once(tmp_path):
  (tmp_path / "file").write_text("in the way")
  done = subprocess.run(
    launched.command(tmp_path / "file" / "run"),
    cwd=launched.ROOT,
    env=launched.environment(tmp_path),
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 1
  assert "workdir must be a folder that can be written" in done.stderr
  assert "Not a directory" in done.stderr and "Traceback" not in done.stderr


NONE = processes.Processes()


def test_flags_come_before_the_environment():
  environment = {
    "JAX_COORDINATOR_ADDRESS": "a:1",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
  }
  found = processes.named(NONE, environment)
  assert found == processes.Processes("a:1", 4, 3)
  flags = processes.Processes("b:2", 2, 0)
  assert processes.named(flags, environment) == flags
  assert processes.named(NONE, {}) is None
  # JobSet names the coordinator alone, and jax finds the rest.
  assert processes.named(NONE, {"JAX_COORDINATOR_ADDRESS": "a:1"}) is None
  assert processes.is_one_of_many({"JAX_COORDINATOR_ADDRESS": "a:1"})


def test_half_named_processes_are_refused():
  with pytest.raises(ValueError, match="got no coordinator, process_id"):
    processes.named(processes.Processes(num_processes=2), {})
  with pytest.raises(ValueError, match="got no JAX_COORDINATOR_ADDRESS"):
    environment = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}
    processes.named(NONE, environment)
  with pytest.raises(ValueError, match="must lie in .*, got 2 of 2"):
    processes.named(processes.Processes("a:1", 2, 2), {})


@pytest.mark.parametrize(
  ("environment", "expected"),
  [
    ({}, False),
    ({"SLURM_NTASKS": "1"}, False),
    ({"SLURM_NTASKS": "2"}, True),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
  ],
)
def test_only_several_processes_look_for_each_other(environment, expected):
  assert processes.is_one_of_many(environment) == expected
