"""Laws of the gcloud recipe, and of finding the other hosts of a TPU slice."""
# mypy: disallow-untyped-defs=False

import json
import os
import shutil
import subprocess

import jax
import pytest
import recipes

from experiments import processes

SCRIPT = recipes.ROOT / "launch" / "tpu_vm.sh"
FLAGS = ("--experiment=sft", "--config=c.py", "--workdir=gs://b/a name")
# A machine with a state; runs end as LEAVE says, in turn.
_GCLOUD = """
root = pathlib.Path(os.environ["ROOT"])
with (root / "calls").open("a") as file:
  file.write(json.dumps(words) + chr(10))
state, ends = root / "state", root / "ends"
if "describe" in words:
  if not state.exists():
    sys.exit(1)
  print(state.read_text())
elif "create" in words:
  state.write_text(os.environ.get("BECOMES", "ACTIVE"))
elif "delete" in words:
  state.unlink()
elif any("launch.sweep" in word for word in words):
  left = ends.read_text().split() if ends.exists() else []
  left = left or os.environ["LEAVE"].split()
  code, *rest = left
  ends.write_text(" ".join(rest))
  if code == "taken":
    state.write_text("SUSPENDED")
    sys.exit(1)
  sys.exit(int(code))
"""


def _run(tmp_path, leave, **variables):
  """Return the script's process when it has ended, and what gcloud heard."""
  recipes.stand_in(tmp_path / "bin" / "gcloud", _GCLOUD)
  env = recipes.with_first(
    tmp_path / "bin", ROOT=str(tmp_path), LEAVE=leave, POLL_SECS="0",
    PROJECT="p", ZONE="z", TPU="v6e-16", **variables,
  )  # fmt: skip
  done = subprocess.run(
    [str(SCRIPT), "edit", "3", *FLAGS],
    cwd=recipes.ROOT,
    env=env,
    capture_output=True,
    text=True,
    timeout=60,
  )
  calls = (tmp_path / "calls").read_text().splitlines()
  return done, [json.loads(call) for call in calls]


def _count(calls, word):
  return sum(word in call for call in calls)


def test_a_machine_is_made_used_and_given_back(tmp_path):
  done, calls = _run(tmp_path, "0")
  assert done.returncode == 0, done.stderr
  assert _count(calls, "create") == _count(calls, "delete") == 1
  (create,) = (call for call in calls if "create" in call)
  assert {"--accelerator-type=v6e-16", "--spot", "--node-id=edit"} <= set(
    create
  )
  (copy,) = (call for call in calls if "scp" in call)
  *_, run = (call for call in calls if "ssh" in call)
  for call in (copy, run):
    assert "--worker=all" in call
  (command,) = (word for word in run if word.startswith("--command="))
  assert "-m launch.sweep --experiment=sft" in command
  assert "--workdir=gs://b/a\\ name --index=3" in command
  assert not (tmp_path / "state").exists()


def test_a_run_that_saved_or_lost_its_machine_is_begun_again(tmp_path):
  done, calls = _run(tmp_path, "143 taken 255 0")
  assert done.returncode == 0, done.stderr
  assert _count(calls, "create") == _count(calls, "delete") == 4


def test_a_run_that_fails_is_not_begun_again_and_costs_nothing_more(tmp_path):
  done, calls = _run(tmp_path, "1 0")
  assert done.returncode == 1
  assert "run 3 left with 1" in done.stderr
  assert _count(calls, "create") == _count(calls, "delete") == 1


def test_a_machine_that_is_not_spot_and_variables_that_are_missing(tmp_path):
  _, calls = _run(tmp_path, "0", CREATE_FLAGS="")
  assert _count(calls, "--spot") == 0
  env = {k: v for k, v in os.environ.items() if k not in ("PROJECT", "ZONE")}
  done = subprocess.run(
    [str(SCRIPT), "edit", "3"], env=env, capture_output=True, text=True
  )
  assert done.returncode != 0 and "must name the project" in done.stderr
  assert recipes.hosts(SCRIPT) == []


@pytest.mark.skipif(
  shutil.which("gcloud") is None,
  reason="gcloud must be installed for its reading of the flags",
)
def test_gcloud_knows_every_flag(tmp_path):
  _, calls = _run(tmp_path, "0")
  kinds = {" ".join(call[:4]): call for call in calls}
  assert len(kinds) == 5  # describe, create, scp, ssh, delete
  for call in kinds.values():
    done = subprocess.run(
      ["gcloud", *call],
      env={**os.environ, "CLOUDSDK_CONFIG": str(tmp_path / "config")},
      capture_output=True,
      text=True,
    )
    # It reads them, and only then asks who one is.
    assert "not currently have an active account" in done.stderr, done.stderr


@pytest.mark.parametrize(
  ("environment", "expected"),
  [
    ({"MEGASCALE_NUM_SLICES": "1"}, False),
    ({"MEGASCALE_NUM_SLICES": "2", "TPU_WORKER_HOSTNAMES": "a"}, True),
  ],
)
def test_slices_of_one_host_each_look_for_each_other(environment, expected):
  assert processes.is_one_of_many(environment) == expected


@pytest.mark.parametrize(
  ("environment", "expected"),
  [
    ({}, False),
    ({"TPU_ML_PLATFORM": "JAX"}, True),
    ({"TPU_ML_PLATFORM": "JAX", "TPU_SKIP_MDS_QUERY": "1"}, False),
  ],
)
def test_a_tpu_vm_asks_its_metadata_for_the_others(environment, expected):
  assert processes.may_be_one_of_many(environment) == expected


@pytest.mark.parametrize("found", [True, False])
def test_a_tpu_without_metadata_is_alone(monkeypatch, found):
  for name in ("JAX_COORDINATOR_ADDRESS", "SLURM_NTASKS", "TPU_SKIP_MDS_QUERY"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("TPU_ML_PLATFORM", "JAX")
  calls = []

  def initialize(*given, **options):
    calls.append(given)
    if not given and not found:
      raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  processes.join(processes.Processes())
  assert [given[1:] for given in calls] == ([()] if found else [(), (1, 0)])
