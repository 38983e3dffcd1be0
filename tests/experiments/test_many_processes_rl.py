"""Laws of ParaRL in several processes: it is the run of one."""
# mypy: disallow-untyped-defs=False

import dataclasses
import pathlib
import signal
import sys
import time
import types

import jax
import launched
import mini_rl
import numpy as np
import pytest
from jax.experimental import multihost_utils

from experiments import processes
from experiments import rl_reward
from paradiff import metrics
from paradiff import pretrained

NUM_ITERATIONS = 12
# The statistics of the rewards and the weight of the KL are kept from batch to
# batch: both must be the same in all processes.
FLAGS = (
  f"--config.num_iterations={NUM_ITERATIONS}",
  "--config.num_microbatches=1",
  "--config.checkpoint.every=1000",
  "--config.rewards.red.normalise=zscore",
  "--config.kl.target=2e-4",
  "--config.kl.rate=1.0",
)
SECS = 300
ENDS_SECS = 60.0  # both processes, after one of them is gone
# A reward that fails in the third iteration.
FAULT = """
import mini_rl
uneven, calls = mini_rl.uneven, []
def fails(context):
  calls.append(context)
  if len(calls) > 2:
    raise RuntimeError("the judge is away")
  return uneven(context)
mini_rl.uneven = fails
"""


def _launch(workdir, *flags, **options):
  for log in workdir.parent.glob(f"{workdir.name}.?.log"):
    log.unlink()
  return launched.launch_many(workdir, 2, *FLAGS, *flags, loop="rl", **options)


def _logs(workdir):
  return [
    (workdir.parent / f"{workdir.name}.{i}.log").read_text() for i in (0, 1)
  ]


def _finish_alone(workdir):
  started = launched.launch(workdir, *FLAGS, loop="rl")
  assert started.wait(timeout=SECS) == 0
  return (workdir.parent / f"{workdir.name}.log").read_text()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("many")
  mini_rl.write_model(root / "model")
  return root


@pytest.fixture(scope="module")
def alone(root):
  """The run of one process."""
  _finish_alone(root / "alone")
  return root / "alone"


def _assert_same(workdir, other):
  """Check that two runs are one up to rounding.

  Not to the bit: gradients and statistics are added up in another order. By
  that alone parameters differ by some 1e-6 at the end, rewards by 1e-7.
  """
  mine, theirs = (metrics.read(folder) for folder in (workdir, other))
  assert [row["step"] for row in mine] == [*range(1, NUM_ITERATIONS + 1)]
  for name in ("reward/red", "reward/total", "rl/kl_coef", "train/grad_norm"):
    np.testing.assert_allclose(
      *[[row[name] for row in rows] for rows in (mine, theirs)],
      rtol=1e-3,
      atol=1e-5,
      err_msg=name,
    )
  params, wanted = (
    pretrained.load(folder / "model", "transformer")[0]
    for folder in (workdir, other)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5),
    params,
    wanted,
  )


@dataclasses.dataclass
class Broken:
  """A run of two that breaks off three times, and is ended by one.

  Attributes:
    workdir: of the run.
    saved: the newest checkpoint after each part but the last.
    logs: of both processes, likewise.
    secs: that the other process lived on after the kill.
    log: of the last part.
  """

  workdir: pathlib.Path
  saved: list[int] = dataclasses.field(default_factory=list)
  logs: list[list[str]] = dataclasses.field(default_factory=list)
  secs: float = 0.0
  log: str = ""

  def end(self, codes, wanted):
    self.logs.append(_logs(self.workdir))
    assert codes == wanted, self.logs[-1]
    self.saved.append(launched.saved_steps(self.workdir)[-1])


@pytest.fixture(scope="module")
def broken(root):
  run = Broken(root / "broken")
  # The reward of one of them fails.
  started = _launch(run.workdir, "--config.mesh.data=2", before=FAULT)
  run.end([process.wait(timeout=SECS) for process in started], [1, 1])

  def goes_on():
    return launched.last_step(run.workdir) > run.saved[-1]

  # One of them is told; the other is to stop with it.
  started = _launch(run.workdir, "--config.mesh.data=2")
  code = launched.signal_when(started[1], goes_on, signal.SIGTERM)
  wanted = [processes.PREEMPTED_EXIT_CODE] * 2
  run.end([started[0].wait(timeout=SECS), code], wanted)
  # One of them is killed.
  started = _launch(run.workdir, "--config.mesh.data=2")
  code = launched.signal_when(started[1], goes_on, signal.SIGKILL)
  killed = time.monotonic()
  run.end([started[0].wait(timeout=SECS), code], [1, -signal.SIGKILL])
  run.secs = time.monotonic() - killed
  run.log = _finish_alone(run.workdir)
  return run


def test_two_processes_train_as_one_does(root, alone):
  workdir = root / "two"
  # Each holds half of every parameter.
  started = _launch(workdir, "--config.mesh.fsdp=2")
  codes = [process.wait(timeout=SECS) for process in started]
  assert codes == [0, 0], _logs(workdir)
  _assert_same(workdir, alone)
  assert (workdir / "samples" / "rollouts_0000002.txt").exists()


def test_a_reward_that_fails_in_one_process_ends_both(broken):
  first, second = broken.logs[0]
  for log in (first, second):
    assert "all processes must succeed, got RewardError: reward 'red'" in log
    assert "the judge is away in process 1\n" in log
    assert "must be gone" not in log
  # Where it happened the log also says at which line.
  assert "Traceback" not in first and "in fails" in second
  assert broken.saved[0] == 2  # what was learned before


def test_a_run_of_two_stops_at_one_iteration(broken):
  saved = broken.saved[1]
  assert 2 < saved < NUM_ITERATIONS
  for log in broken.logs[1]:
    assert "resuming at iteration 2\n" in log
    assert f"told to stop, saved iteration {saved}\n" in log


def test_a_process_that_dies_ends_both(broken):
  first, second = broken.logs[2]
  for log in (first, second):
    assert f"resuming at iteration {broken.saved[1]}\n" in log
  assert "another process of the run must be gone" in first
  assert "Traceback" not in first
  assert broken.secs < ENDS_SECS
  assert broken.saved[2] == broken.saved[1]


def test_a_run_of_two_goes_on_in_one_and_nothing_is_lost(broken, alone):
  assert f"resuming at iteration {broken.saved[2]}\n" in broken.log
  _assert_same(broken.workdir, alone)


def test_processes_with_other_configs_are_refused_at_once(root):
  workdir = root / "unlike"
  started = _launch(workdir, own=("--config.group_size=4",))
  assert [process.wait(timeout=SECS) for process in started] == [1, 1]
  for log in _logs(workdir):
    assert "must be given the same config" in log
    assert "process 0 in [1]" in log and "Traceback" not in log
  assert not workdir.exists()


@pytest.mark.parametrize(
  ("num_prompts", "shares"),
  [
    (4, [[0, 1], [2], [3]]),
    (5, [[0, 1], [2, 3], [4]]),
    (1, [[0], [], []]),  # the first shows rollouts: it has one
  ],
)
def test_prompts_are_shared_out_whole(num_prompts, shares, monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  for process, wanted in enumerate(shares):
    monkeypatch.setattr(jax, "process_index", lambda process=process: process)
    own = rl_reward.own_prompts(num_prompts)
    assert [*range(num_prompts)][own] == wanted


def test_processes_without_a_part_of_the_mesh_are_named(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  devices = np.array([types.SimpleNamespace(process_index=i) for i in (0, 0)])
  mesh = types.SimpleNamespace(devices=devices, shape={"data": 2})
  with pytest.raises(ValueError, match=r"all 3 processes, .* none .* \[1, 2\]"):
    processes.check_mesh(mesh)


def test_what_must_run_alone_is_refused(monkeypatch):
  processes.check_alone("it")
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(ValueError, match="it must run in one process, got 2"):
    processes.check_alone("it")


def test_a_lost_process_is_told_from_bad_input(monkeypatch):
  gone = ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")
  assert not processes.is_lost(gone)  # a run of one has none to lose
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  assert processes.is_lost(gone)
  assert processes.is_lost(jax.errors.JaxRuntimeError("UNAVAILABLE: gone"))
  assert not processes.is_lost(ValueError("num_steps must be positive"))


def test_a_failure_anywhere_is_raised_everywhere(monkeypatch):
  assert processes.together(lambda: 7) == 7
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  others = []
  monkeypatch.setattr(
    multihost_utils,
    "process_allgather",
    lambda row: np.stack([row, others.pop() if others else np.zeros_like(row)]),
  )
  assert processes.together(lambda: 7) == 7
  with pytest.raises(processes.Failed, match="got SystemExit: .* in process 0"):
    processes.together(lambda: sys.exit("stopped by its user"))
  said = b"ValueError: no".ljust(1024, b"\0")
  others.append(np.frombuffer(said, np.uint8))
  with pytest.raises(processes.Failed, match="ValueError: no in process 1"):
    processes.together(lambda: 7)
