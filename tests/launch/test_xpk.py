"""Laws of the xpk command; what xpk itself makes of it where it is there."""
# mypy: disallow-untyped-defs=False

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import launched
import mini_sft
import pytest
import recipes
import yaml

SCRIPT = recipes.ROOT / "launch" / "xpk.sh"
XPK = os.environ.get("PARADIFF_XPK") or shutil.which("xpk")
needs_xpk = pytest.mark.skipif(
  XPK is None,
  reason=(
    "xpk's own dry run is not asked: make it an environment, `python -m venv "
    "DIR && DIR/bin/pip install xpk==1.16.0 kubernetes-validate`, and set "
    "PARADIFF_XPK=DIR/bin/xpk"
  ),
)
FLAGS = ("--experiment=sft", "--config=tests/mini_sft.py", "--workdir=gs://b/n")
_RECORD = (
  "with open(os.environ['CALLS'], 'a') as file:\n"
  "  file.write(json.dumps(words) + '\\n')"
)


def _run(*arguments, env):
  return subprocess.run(
    [str(SCRIPT), *arguments], env=env, capture_output=True, text=True
  )


def _calls(tmp_path, *arguments, **variables):
  """Return what the script asks xpk for."""
  recipes.stand_in(tmp_path / "bin" / "xpk", _RECORD)
  calls = tmp_path / "calls"
  env = recipes.with_first(tmp_path / "bin", CALLS=str(calls), **variables)
  done = _run(*arguments, env=env)
  assert done.returncode == 0, done.stderr
  return [yaml.safe_load(line) for line in calls.read_text().splitlines()]


def test_each_run_is_a_workload_that_is_told_its_number(tmp_path):
  calls = _calls(
    tmp_path, "edit", "0-2", *FLAGS, CLUSTER="c", IMAGE="i", TPU="v6e-16",
    SLICES="2", XPK_FLAGS="--project=p --spot",
  )  # fmt: skip
  assert len(calls) == 3
  for index, words in enumerate(calls):
    assert words[:2] == ["workload", "create"]
    assert {
      f"--workload=edit-{index}",
      *("--cluster=c", "--docker-image=i", "--tpu-type=v6e-16"),
      *("--num-slices=2", "--project=p", "--spot", "--max-restarts=20"),
      *(
        "--restart-on-exit-codes=1,143",
        "--termination-grace-period-seconds=300",
      ),
    } <= set(words)
    (command,) = (word for word in words if word.startswith("--command="))
    # JOB_COMPLETION_INDEX is a worker's number in its slice, not the run's.
    run = f"exec python -m launch.sweep {' '.join(FLAGS)} --index={index}"
    assert command.endswith(f"; {run}")
    assert not set("\"'\\\n") & set(command)


def test_one_run_of_a_sweep_on_machines_with_gpus(tmp_path):
  (words,) = _calls(
    tmp_path, "edit", "7", *FLAGS, CLUSTER="c", IMAGE="i", GPU="h100-80gb-8",
    NODES="2",
  )  # fmt: skip
  assert {"--workload=edit-7", "--device-type=h100-80gb-8"} <= set(words)
  assert "--num-nodes=2" in words


@pytest.mark.parametrize(
  ("variables", "flags", "said"),
  [
    ({}, FLAGS, "must name the cluster"),
    ({"CLUSTER": "c"}, FLAGS, "must name the container image"),
    ({"CLUSTER": "c", "IMAGE": "i"}, FLAGS, "must name the slice"),
    (
      {"CLUSTER": "c", "IMAGE": "i", "TPU": "v6e-8"},
      ("--workdir=a b",),
      "must be plain words, .*: --workdir=a b",
    ),
  ],
)
def test_what_is_missing_or_would_be_garbled_is_refused(
  tmp_path, variables, flags, said
):
  recipes.stand_in(tmp_path / "xpk", "sys.exit('nothing may be asked for')")
  done = _run(
    "edit", "0", *flags, env=recipes.with_first(tmp_path, **variables)
  )
  assert done.returncode != 0
  assert re.search(said, done.stderr)
  assert "nothing may" not in done.stderr


def test_no_site_is_named():
  for path in (SCRIPT, SCRIPT.with_suffix(".Dockerfile")):
    assert recipes.hosts(path) == []


def _manifest(tmp_path, **variables):
  """Return the JobSet that xpk would give to the cluster."""
  assert XPK is not None
  out = tmp_path / "manifest.yaml"
  flags = "--dry-run --skip-validation --project=p --zone=us-central1-a"
  done = _run(
    "edit", "2", *FLAGS,
    env=recipes.with_first(
      pathlib.Path(XPK).parent, HOME=str(tmp_path), CLUSTER="c", IMAGE="i",
      XPK_FLAGS=f"{flags} --output-manifest-file={out}", **variables,
    ),
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr
  return yaml.safe_load(out.read_text())


def _check_schema(tmp_path, job):
  """Check a Job with the schema of Kubernetes, in xpk's environment."""
  path = tmp_path / "job.yaml"
  path.write_text(yaml.safe_dump(job))
  code = (
    "import sys, yaml, kubernetes_validate as k\n"
    "k.validate(yaml.safe_load(open(sys.argv[1])), k.latest_version(), "
    "strict=True)"
  )
  assert XPK is not None
  python = pathlib.Path(XPK).parent / "python"
  done = subprocess.run(
    [str(python), "-c", code, str(path)], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


@needs_xpk
@pytest.mark.parametrize(
  ("variables", "jobs", "pods"),
  [
    ({"TPU": "v6e-16", "SLICES": "2"}, 2, 4),
    ({"TPU": "v5litepod-16", "SLICES": "2"}, 2, 4),
    ({"TPU": "v5p-8"}, 1, 1),
    ({"GPU": "h100-mega-80gb-8", "NODES": "2"}, 1, 2),
    ({"GPU": "h200-141gb-8"}, 1, 1),
  ],
  ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_xpk_makes_what_kubernetes_takes(tmp_path, variables, jobs, pods):
  manifest = _manifest(tmp_path, **variables)
  assert manifest["kind"] == "JobSet"
  assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 20
  (made,) = manifest["spec"]["replicatedJobs"]
  spec = made["template"]["spec"]
  assert (made["replicas"], spec["completions"]) == (jobs, pods)
  # What fails the run for good is any code that is not among these.
  (rule,) = spec["podFailurePolicy"]["rules"]
  assert rule["onExitCodes"]["operator"] == "NotIn"
  assert {1, 143} <= set(rule["onExitCodes"]["values"])
  assert 2 not in rule["onExitCodes"]["values"]
  pod = spec["template"]["spec"]
  assert pod["terminationGracePeriodSeconds"] == 300
  kind = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}}
  _check_schema(tmp_path, {**kind, "spec": spec})


@needs_xpk
def test_a_pod_that_is_told_to_stop_saves_and_leaves_with_143(tmp_path):
  mini_sft.write_image_tokenizer(tmp_path / "tokenizer")
  (job,) = _manifest(tmp_path, GPU="h200-141gb-8")["spec"]["replicatedJobs"]
  (pod, *_) = job["template"]["spec"]["template"]["spec"]["containers"]
  shell = pod["command"]
  assert shell[:2] == ["bash", "-c"]
  # Here the sweep is the loop: what is tried is the shell that xpk writes.
  workdir = tmp_path / "run"
  real = launched.command(workdir, "--config.num_steps=100000")
  recipes.stand_in(
    tmp_path / "bin" / "python",
    "assert words[:2] == ['-m', 'launch.sweep'], words\n"
    f"os.execv({sys.executable!r}, {real!r})",
  )
  run = shell[2].replace("/usr/share/workload", str(tmp_path))
  log = tmp_path / "log"
  with log.open("w") as file:
    started = subprocess.Popen(
      ["bash", "-c", run],
      cwd=recipes.ROOT,
      env={
        **launched.environment(tmp_path),
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "NNODES": "1",
        "NODE_RANK": "0",
        "JAX_COORDINATOR_ADDRESS": "127.0.0.1",
        "JAX_COORDINATOR_PORT": str(20_000 + os.getpid() % 4_000),
      },
      stdout=file,
      stderr=file,
    )
  until = time.monotonic() + 120
  while launched.last_step(workdir) < 8:
    assert started.poll() is None and time.monotonic() < until, log.read_text()
    time.sleep(0.1)
  started.send_signal(signal.SIGTERM)
  assert started.wait(timeout=120) == 143, log.read_text()
  assert "told to stop, saved step" in log.read_text()
  assert launched.saved_steps(workdir)
