"""Laws of what a run says where it fails.

That all of several processes end is shown in `test_many_processes`.
"""
# mypy: disallow-untyped-defs=False

import jax
import pytest

from experiments import common
from experiments import failures
from experiments import processes


def _refuse():
  processes.named(processes.Processes(process_id=0), {})


def _refuse_in_loop():
  with common.closing():
    _refuse()


def _fall_over():
  common.is_due(1, "x", 2)  # no message of this project


def _stumble():
  names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
  processes.named(processes.Processes(), dict.fromkeys(names, "ten"))


def _raised(do):
  with pytest.raises((ValueError, TypeError, OSError)) as caught:
    do()
  return caught.value


def test_a_check_of_this_project_speaks_for_itself():
  error = _raised(_refuse)
  assert failures.is_refusal(error)
  with pytest.raises(SystemExit, match="^error: coordinator, num_processes"):
    common._fail(error, "run")


@pytest.mark.parametrize(
  "do", [_refuse_in_loop, _fall_over, _stumble, lambda: int("ten")]
)
def test_what_says_little_without_its_traceback_keeps_it(do):
  error = _raised(do)
  assert not failures.is_refusal(error)
  common._fail(error, "run")  # returns, for the traceback to be shown


def test_only_a_loop_has_checkpoints_to_go_on_from():
  def read():
    open("/nowhere/at/all")

  def read_in_loop():
    with common.closing():
      read()

  for do, goes_on in ((read, False), (read_in_loop, True)):
    with pytest.raises(SystemExit, match="No such file") as ended:
      common._fail(_raised(do), "run")
    assert ("goes on from it" in str(ended.value)) == goes_on


def test_memory_of_its_own_is_no_lost_process(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
  assert not processes.is_lost(full)
