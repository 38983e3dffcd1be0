"""Laws of the SkyPilot files; what SkyPilot itself says where it is there."""
# mypy: disallow-untyped-defs=False

import json
import os
import pathlib
import subprocess
import sys

import launched
import mini_sft
import pytest
import recipes
import yaml

FILES = sorted((recipes.ROOT / "launch" / "sky").glob("*.yaml"))
NAMED = ("gpu", "slurm")  # where jax must be told who the others are
SECS = 300
PYTHON = os.environ.get("PARADIFF_SKY_PYTHON")
needs_sky = pytest.mark.skipif(
  PYTHON is None,
  reason=(
    "SkyPilot's own loader is not asked: make it an environment, `python -m "
    "venv DIR && DIR/bin/pip install "
    "'skypilot[gcp,kubernetes,slurm]==0.14.1'`, and set "
    "PARADIFF_SKY_PYTHON=DIR/bin/python"
  ),
)
each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def _read(path):
  return yaml.safe_load(path.read_text())


def _start(path, home, **variables):
  """Start the run section as SkyPilot does: bash, in the project's folder."""
  task = _read(path)
  env = {k: v for k, v in task["envs"].items() if v is not None}
  return subprocess.Popen(
    ["bash", "-c", task["run"]],
    cwd=recipes.ROOT,
    env={**launched.environment(home), **env, "HOME": str(home), **variables},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _node(rank, ips):
  return {
    "SKYPILOT_NODE_IPS": "\n".join(ips),
    "SKYPILOT_NUM_NODES": str(len(ips)),
    "SKYPILOT_NODE_RANK": str(rank),
  }


def test_there_is_a_file_for_each_kind_of_machine():
  names = {path.stem for path in FILES}
  assert names == {"tpu_spot", "tpu_queued", "gke", "gpu", "slurm"}


@each
def test_a_run_that_was_told_to_stop_is_started_again_and_no_other(path):
  found = _read(path)["resources"]["job_recovery"]
  assert found == {"max_restarts_on_errors": 0, "recover_on_exit_codes": [143]}


@each
def test_nothing_is_left_to_chance(path):
  task = _read(path)
  assert task["workdir"] == "."
  # SkyPilot refuses a task until it is said.
  assert task["envs"]["WORKDIR"] is None
  assert (recipes.ROOT / task["envs"]["CONFIG"]).exists()
  assert recipes.hosts(path) == []
  assert path.name in path.read_text().split("name: paradiff")[0]


@each
def test_the_run_section_is_the_sweep_with_the_number_of_the_job(
  path, tmp_path
):
  recipes.stand_in(
    tmp_path / "paradiff" / "bin" / "python",
    "names = [n for n in os.environ if n.startswith('JAX_')"
    " and not n.startswith(('JAX_COMPILATION', 'JAX_PERSISTENT'))]\n"
    "print(json.dumps([words, {n: os.environ[n] for n in names}]))",
  )
  before = {k: v for k, v in os.environ.items() if k.startswith("JAX_")}
  for rank, expected in (("3", "--index=3"), (None, "--index=0")):
    numbered = {} if rank is None else {"SKYPILOT_JOB_RANK": rank}
    started = _start(
      path,
      tmp_path,
      WORKDIR="gs://b/a name",
      **_node(1, ("10.0.0.5", "10.0.0.7")),
      **numbered,
    )
    words, variables = json.loads(started.communicate()[0])
    assert words == [
      *("-m", "launch.sweep", "--experiment=sft"),
      "--config=experiments/configs/sft_micro.py",
      "--workdir=gs://b/a name",
      expected,
    ]
    named = {
      "JAX_COORDINATOR_ADDRESS": "10.0.0.5:8476",
      "JAX_NUM_PROCESSES": "2",
      "JAX_PROCESS_ID": "1",
    }
    told = named if path.stem in NAMED else {}
    assert variables == {**before, **told}


def test_two_machines_of_a_run_section_find_each_other(tmp_path):
  mini_sft.write_image_tokenizer(tmp_path / "tokenizer")
  config = tmp_path / "swept.py"
  config.write_text(
    "import mini_sft\n\n\n"
    "def get_config():\n"
    "  config = mini_sft.get_config()\n"
    f"  config.image_tokenizer = {str(tmp_path / 'tokenizer')!r}\n"
    # Refused, by both, which only a run of two knows.
    "  config.mesh.data = 1\n"
    "  return config\n\n\n"
    "def sweep(add):\n"
    "  add({'seed': 0})\n"
    "  add({'seed': 1})\n"
  )
  recipes.stand_in(
    tmp_path / "paradiff" / "bin" / "python",
    f"os.execv({sys.executable!r}, [{sys.executable!r}, *words])",
  )
  (path,) = (path for path in FILES if path.stem == "gpu")
  started = [
    _start(
      path,
      tmp_path,
      CONFIG=str(config),
      WORKDIR=str(tmp_path / "sweep"),
      # Below the ports that the system hands out.
      COORDINATOR_PORT=str(24_000 + os.getpid() % 4_000),
      PYTHONPATH=f"{recipes.ROOT}{os.pathsep}{recipes.ROOT / 'tests'}",
      SKYPILOT_JOB_RANK="1",
      **_node(rank, ("127.0.0.1", "127.0.0.1")),
    )
    for rank in range(2)
  ]
  said = [process.communicate(timeout=SECS)[0] for process in started]
  for text, process in zip(said, started, strict=True):
    assert process.returncode == 1
    assert "all 2 processes, got" in text and "none of process [1]" in text


_LOAD = """
import json, sys, sky, yaml
for path in sys.argv[1:]:
  task = yaml.safe_load(open(path))
  if task["envs"]["WORKDIR"] is None:
    try:
      sky.Task.from_yaml(path)
    except ValueError as error:
      assert "WORKDIR" in str(error), error
    else:
      raise AssertionError(f"{path} must be refused without WORKDIR")
    task["envs"]["WORKDIR"] = "gs://bucket/name"
  made = sky.Task.from_yaml_config(task)
  print(json.dumps([
    [str(r.cloud), dict(r.accelerators), r.accelerator_args, r.use_spot,
     r.job_recovery] for r in made.resources
  ]))
"""


def _load(tmp_path, *paths):
  assert PYTHON is not None
  return subprocess.run(
    [PYTHON, "-c", _LOAD, *map(str, paths)],
    cwd=tmp_path,
    env={
      **{k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
      "HOME": str(tmp_path),
      "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
    },
    capture_output=True,
    text=True,
  )


@needs_sky
def test_skypilot_reads_every_file_as_it_is_meant(tmp_path):
  done = _load(tmp_path, *FILES)
  assert done.returncode == 0, done.stderr
  rows = [
    json.loads(row) for row in done.stdout.splitlines() if row.startswith("[[")
  ]
  found = dict(zip((path.stem for path in FILES), rows, strict=True))
  wanted = {
    "tpu_spot": [("GCP", {"tpu-v6e-8": 1}, True)],
    "tpu_queued": [("GCP", {"tpu-v6e-8": 1}, False)],
    "gke": [("Kubernetes", {"tpu-v6e-slice": 8}, False)],
    "gpu": [
      ("None", {name: 8}, True) for name in ("A100-80GB", "H100", "H200")
    ],
    "slurm": [("Slurm", {"H100": 8}, False)],
  }
  for name, resources in found.items():
    shown = [(c, a, s) for c, a, _, s, _ in resources]
    assert sorted(shown, key=str) == wanted[name]
    for _, _, _, _, recovery in resources:
      assert recovery["recover_on_exit_codes"] == [143]
  assert found["tpu_queued"][0][2]["gcp_queued_resource"]


@needs_sky
def test_skypilot_would_refuse_a_slip(tmp_path):
  path = tmp_path / "slip.yaml"
  path.write_text(FILES[-1].read_text().replace("job_recovery", "job_recovry"))
  assert _load(tmp_path, path).returncode != 0


@needs_sky
def test_the_options_that_the_files_name_exist(tmp_path):
  assert PYTHON is not None
  done = subprocess.run(
    [str(pathlib.Path(PYTHON).parent / "sky"), "jobs", "launch", "--help"],
    env={**os.environ, "HOME": str(tmp_path), "COLUMNS": "200"},
    capture_output=True,
    text=True,
  )
  for option in ("--num-jobs", "--env", "--gpus", "--use-spot", "--num-nodes"):
    assert option in done.stdout, done.stderr
