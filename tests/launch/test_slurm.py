"""Laws of a sweep on Slurm itself; skipped where Slurm is not installed."""
# mypy: disallow-untyped-defs=False

import os
import pathlib
import re
import subprocess
import sys
import time

import jax
import launched
import mini_sft
import numpy as np
import pytest
import recipes
import slurm_cluster

from paradiff import metrics
from paradiff import pretrained

ROOT = pathlib.Path(__file__).parents[2]
MISSING = slurm_cluster.missing()
pytestmark = pytest.mark.skipif(
  bool(MISSING), reason=f"Slurm must be installed, got no {MISSING}"
)
SWEEP = (
  "--experiment=sft",
  "--config=tests/mini_sft.py",
)
SECS = 300


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
  root = tmp_path_factory.mktemp("slurm")
  with slurm_cluster.start(root) as env:
    run = launched.environment(tmp_path_factory.getbasetemp())
    yield {
      **run,
      "SLURM_CONF": env["SLURM_CONF"],
      "PYTHON": sys.executable,
      "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    }


def _submit(env, workdir, *options, flags=()):
  """Submit the sweep; return the job's number."""
  command = [
    *("sbatch", "--parsable", f"--chdir={ROOT}"),
    f"--output={workdir}_%a.log",
    *options,
    "launch/slurm/sweep.sbatch",
    *SWEEP,
    f"--workdir={workdir}",
    *flags,
  ]
  made = subprocess.run(
    command, env=env, cwd=ROOT, capture_output=True, text=True, check=True
  )
  return made.stdout.strip()


def _wait(env, job):
  until = time.monotonic() + SECS
  while time.monotonic() < until:
    shown = subprocess.run(
      ["squeue", "--noheader", f"--jobs={job}", "--format=%t"],
      env=env,
      capture_output=True,
      text=True,
    )
    if not shown.stdout.split():
      return
    time.sleep(1.0)
  raise TimeoutError(f"job {job} must end, got {shown.stdout}")


def _config(folder, **changes):
  """Write a config of the miniature with an image tokenizer beside it."""
  mini_sft.write_image_tokenizer(folder / "tokenizer")
  lines = [f"  config.{name} = {value!r}" for name, value in changes.items()]
  path = folder / "swept.py"
  path.write_text(
    "import mini_sft\n\n\n"
    "def get_config():\n"
    "  config = mini_sft.get_config()\n"
    f"  config.image_tokenizer = {str(folder / 'tokenizer')!r}\n"
    + "\n".join(lines)
    + "\n  return config\n\n\n"
    "def sweep(add):\n"
    "  for rate in (1e-3, 2e-3):\n"
    "    add({'optim.learning_rate': rate})\n"
  )
  return path


def _params(workdir):
  return pretrained.load(workdir / "model", "transformer")[0]


def test_an_array_runs_a_sweep_and_a_requeued_run_ends_as_if_unbroken(
  cluster, tmp_path
):
  config = _config(tmp_path, num_steps=240, batch_size=64)
  flags, env = (f"--config={config}",), cluster
  job = _submit(env, tmp_path / "sweep", "--array=0-1", flags=flags)
  run = tmp_path / "sweep" / "001"
  until = time.monotonic() + SECS
  while launched.last_step(run) < 8:
    assert time.monotonic() < until, (tmp_path / "sweep_1.log").read_text()
    time.sleep(0.1)
  # As a scheduler that wants the machine back.
  subprocess.run(["scontrol", "requeue", f"{job}_1"], env=env, check=True)
  _wait(env, job)
  log = (tmp_path / "sweep_1.log").read_text()
  assert "told to stop, saved step" in log
  assert "resuming at step" in log
  steps = [r["step"] for r in metrics.read(run) if "train/loss" in r]
  assert steps == sorted(set(steps))
  assert steps[-1] == 240
  whole = _submit(env, tmp_path / "whole", "--array=1", flags=flags)
  _wait(env, whole)
  jax.tree.map(
    np.testing.assert_array_equal,
    _params(run),
    _params(tmp_path / "whole" / "001"),
  )
  assert (tmp_path / "sweep" / "000" / "model").exists()


def test_a_run_that_fails_is_not_put_back(cluster, tmp_path):
  config = _config(tmp_path, num_steps=8, batch_size=7, **{"mesh.data": 2})
  job = _submit(
    cluster, tmp_path / "sweep", "--array=0", flags=(f"--config={config}",)
  )
  _wait(cluster, job)
  log = (tmp_path / "sweep_0.log").read_text()
  assert "must be" in log
  assert not (tmp_path / "sweep" / "000" / "model").exists()


def _two_nodes(env):
  """Return sbatch's options and the environment of a run of two ranks."""
  # Below the ports that the system hands out, of which srun takes some.
  address = f"127.0.0.1:{28_000 + os.getpid() % 4_000}"
  # The names of these nodes do not resolve; a cluster's do.
  env = {**env, "JAX_COORDINATOR_ADDRESS": address}
  return ("--array=0", "--nodes=2", "--ntasks-per-node=1"), env


def test_a_requeued_run_of_two_nodes_is_the_run_of_one_process(
  cluster, tmp_path
):
  config = _config(tmp_path, num_steps=120, **{"mesh.data": 2})
  options, env = _two_nodes(cluster)
  flags = (f"--config={config}",)
  job = _submit(env, tmp_path / "sweep", *options, flags=flags)
  run, log = tmp_path / "sweep" / "000", tmp_path / "sweep_0.log"
  until = time.monotonic() + SECS
  while launched.last_step(run) < 8:
    assert time.monotonic() < until, log.read_text()
    time.sleep(0.1)
  subprocess.run(["scontrol", "requeue", f"{job}_0"], env=env, check=True)
  _wait(env, job)
  # Both ranks say so, and at the same step.
  told = re.findall(r"told to stop, saved step (\d+)", log.read_text())
  assert len(told) == 2, log.read_text()
  assert 8 <= int(told[0]) == int(told[1]) < 120
  assert log.read_text().count(f"resuming at step {told[0]}") == 2
  alone = launched.launch(
    tmp_path / "alone",
    "--config.num_steps=120",
    "--config.optim.learning_rate=1e-3",
  )
  assert alone.wait(timeout=SECS) == 0
  steps, wanted = (
    [r["step"] for r in metrics.read(folder) if "train/loss" in r]
    for folder in (run, tmp_path / "alone")
  )
  # A window of the metrics ends where the run was told to stop.
  assert steps == sorted({*wanted, int(told[0])})
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    _params(run),
    _params(tmp_path / "alone"),
  )


def test_a_mesh_that_leaves_a_node_without_work_is_refused(cluster, tmp_path):
  config = _config(tmp_path, num_steps=8, **{"mesh.data": 1})
  options, env = _two_nodes(cluster)
  flags = (f"--config={config}",)
  began = time.monotonic()
  _wait(env, _submit(env, tmp_path / "sweep", *options, flags=flags))
  assert time.monotonic() - began < SECS / 2  # no rank waits for the other
  log = (tmp_path / "sweep_0.log").read_text()
  assert log.count("the mesh must have devices of all 2 processes") >= 2
  assert not (tmp_path / "sweep" / "000" / "model").exists()


def test_a_task_that_is_alone_sees_all_gpus_of_its_node(cluster):
  code = (
    "import jax\n"
    "from experiments import processes\n"
    "processes.join(processes.Processes())\n"
    "print(jax.config.values['jax_cuda_visible_devices'])"
  )
  done = subprocess.run(
    ["srun", "--mpi=none", "--ntasks=1", sys.executable, "-c", code],
    cwd=ROOT,
    env=cluster,
    capture_output=True,
    text=True,
  )
  assert done.stdout.split() == ["all"], done.stderr


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    (("--nodes=1",), "0,1,2,3"),
    (("--nodes=2",), "0,1,2,3"),
    (("--nodes=2", "--ntasks-per-node=1"), "0,1,2,3"),
    (("--nodes=1", "--ntasks-per-node=2"), "None"),
  ],
)
def test_a_task_takes_all_gpus_of_a_node_that_it_has_to_itself(
  cluster, tmp_path, options, expected
):
  program = tmp_path / "python"
  recipes.stand_in(program, "print(os.environ.get('JAX_LOCAL_DEVICE_IDS'))")
  # There are none here: only what the script makes of their number is tried.
  env = {**cluster, "SLURM_GPUS_ON_NODE": "4", "PYTHON": str(program)}
  _wait(env, _submit(env, tmp_path / "sweep", "--array=0", *options))
  log = (tmp_path / "sweep_0.log").read_text()
  assert set(log.split()) == {expected}
