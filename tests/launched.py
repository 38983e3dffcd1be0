"""A loop as a process of its own, as people and schedulers start it."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from experiments import processes
from paradiff import checkpoints
from paradiff import metrics

ROOT = pathlib.Path(__file__).parents[1]


# What a loop needs beside its workdir, written there by the test.
NEEDS = {"sft": ("image_tokenizer", "tokenizer"), "rl": ("model", "model")}


def command(
  workdir: pathlib.Path, *flags: str, loop: str = "sft", before: str = ""
) -> list[str]:
  """Return the command line of a run of `mini_sft` or `mini_rl`.

  Args:
    workdir: of the run.
    *flags: of the run.
    loop: a name of NEEDS.
    before: Python that the process is to run before the loop: a fault.
  """
  field, folder = NEEDS[loop]
  start = ("-m", f"experiments.{loop}")
  if before:
    run = f"import runpy\nrunpy.run_module({start[1]!r}, run_name='__main__')"
    start = ("-c", f"{before}\n{run}")
  return [
    *(sys.executable, *start),
    f"--config=tests/mini_{loop}.py",
    f"--workdir={workdir}",
    f"--config.{field}={workdir.parent / folder}",
    *flags,
  ]


def environment(root: pathlib.Path) -> dict[str, str]:
  """Return an environment with one device and a cache of compiled programs."""
  kept = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  return {
    **kept,
    # Rewards of `mini_rl` are found there.
    "PYTHONPATH": f"{ROOT / 'tests'}:{os.environ.get('PYTHONPATH', '')}",
    "JAX_COMPILATION_CACHE_DIR": str(root / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }


def launch(
  workdir: pathlib.Path,
  *flags: str,
  loop: str = "sft",
  optimized: bool = True,
) -> subprocess.Popen[bytes]:
  """Start a run beside its log, `<workdir>.log`; see `_start`."""
  log = pathlib.Path(f"{workdir}.log")
  return _start(workdir, log, *flags, loop=loop, optimized=optimized)


def launch_many(
  workdir: pathlib.Path,
  count: int,
  *flags: str,
  own: tuple[str, ...] = (),
  before: str = "",
  loop: str = "sft",
) -> list[subprocess.Popen[bytes]]:
  """Start a run of several processes, each with a log of its own.

  Args:
    workdir: of the run; the logs are `<workdir>.<process>.log`.
    count: processes, with one device each.
    flags: of all of them.
    own: flags of the last one alone.
    before: Python that the last one alone runs before the loop.
    loop: a name of NEEDS.
  """
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{probe.getsockname()[1]}"
  started = []
  for process in range(count):
    is_last = process == count - 1
    where = (
      f"--coordinator={address}",
      f"--num_processes={count}",
      f"--process_id={process}",
    )
    log = pathlib.Path(f"{workdir}.{process}.log")
    words = (*flags, *(own if is_last else ()), *where)
    fault = before if is_last else ""
    started.append(
      _start(workdir, log, *words, loop=loop, optimized=False, before=fault)
    )
  return started


def _start(
  workdir: pathlib.Path,
  log: pathlib.Path,
  *flags: str,
  loop: str,
  optimized: bool,
  before: str = "",
) -> subprocess.Popen[bytes]:
  """Start a process; not `optimized` where it compiles for longer than it runs.

  ParaRL always does, and several processes compile each for itself.
  """
  own = {}
  if loop == "rl" or not optimized:
    own["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
  with log.open("a") as file:
    return subprocess.Popen(
      command(workdir, *flags, loop=loop, before=before),
      cwd=ROOT,
      stdout=file,
      stderr=file,
      env=environment(workdir.parent) | own,
    )


def signal_when(
  process: subprocess.Popen[bytes],
  happened: Callable[[], object],
  what: signal.Signals,
) -> int:
  """Send a signal as soon as `happened()`; return the exit code."""
  until = time.monotonic() + 120
  while not happened():
    assert process.poll() is None, "the run ended before the signal"
    assert time.monotonic() < until, "nothing happened in two minutes"
    time.sleep(0.002)
  process.send_signal(what)
  return process.wait(timeout=120)


@contextlib.contextmanager
def told_to_stop(at: int) -> Iterator[None]:
  """Let a loop in this process hear at step `at` that it is to stop."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      checkpoints.Checkpointer, "is_preempted", lambda self, step: step == at
    )
    with pytest.raises(processes.Preempted, match=f"saved .* {at}$"):
      yield


def last_step(workdir: pathlib.Path) -> int:
  """Return the newest step in the metrics; 0 if there is none."""
  rows = metrics.read(workdir)
  return rows[-1]["step"] if rows else 0


def saved_steps(workdir: pathlib.Path) -> list[int]:
  """Return the steps of the complete checkpoints, ascending."""
  folder = workdir / "checkpoints"
  names = os.listdir(folder) if folder.exists() else []
  return sorted(int(name) for name in names if name.isdigit())
