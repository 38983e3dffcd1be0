"""Laws of a sweep on Slurm itself; skipped where Slurm is not installed."""
# mypy: disallow-untyped-defs=False

import pathlib
import subprocess
import sys
import time

import jax
import launched
import mini_sft
import numpy as np
import pytest
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
    yield {**env, **_run_environment(tmp_path_factory.getbasetemp())}


def _run_environment(folder):
  env = launched.environment(folder)
  return {**env, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}


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
  flags = (f"--config={config}",)
  env = {**cluster, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
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
  env = {**cluster, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
  job = _submit(
    env, tmp_path / "sweep", "--array=0", flags=(f"--config={config}",)
  )
  _wait(env, job)
  log = (tmp_path / "sweep_0.log").read_text()
  assert "must be" in log
  assert not (tmp_path / "sweep" / "000" / "model").exists()
