"""A run that is killed and relaunched ends as one that never was."""
# mypy: disallow-untyped-defs=False

import os
import random
import signal
import subprocess

import jax
import launched
import mini_sft
import numpy as np
import orbax.checkpoint as ocp
import pytest

from paradiff import metrics

NUM_STEPS = 160
LENGTH = f"--config.num_steps={NUM_STEPS}"


def _launch(workdir):
  return launched.launch(workdir, LENGTH)


def _half_saved(workdir):
  folder = workdir / "checkpoints"
  names = os.listdir(folder) if folder.exists() else []
  return [name for name in names if "tmp" in name]


def _state(workdir):
  folder = workdir / "checkpoints" / str(NUM_STEPS) / "state"
  with ocp.StandardCheckpointer() as reader:
    tree = reader.restore(folder)
  tree["key"] = jax.random.key_data(tree["key"])
  return jax.tree.map(np.asarray, tree)


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
  """Return an unbroken run and one that was killed three times."""
  root = tmp_path_factory.mktemp("runs")
  mini_sft.write_image_tokenizer(root / "tokenizer")
  whole, broken = root / "whole", root / "broken"
  # The first run fills the cache of compiled programs for the others.
  assert _launch(whole).wait(timeout=300) == 0
  draw = random.Random(0)
  early, middle, late = (draw.randrange(n, n + 40) for n in (4, 50, 100))
  for happened in (
    lambda: launched.last_step(broken) >= early,
    lambda: launched.last_step(broken) >= middle and _half_saved(broken),
    lambda: launched.last_step(broken) >= late,
  ):
    code = launched.signal_when(_launch(broken), happened, signal.SIGKILL)
    assert code == -signal.SIGKILL
    if "middle" in happened.__code__.co_freevars:
      assert _half_saved(broken), "the kill came after the save"
  assert _launch(broken).wait(timeout=300) == 0
  return whole, broken


def test_three_kills_change_no_bit_of_the_result(workdirs):
  whole, broken = map(_state, workdirs)
  assert int(whole["step"]) == NUM_STEPS
  assert jax.tree.structure(whole) == jax.tree.structure(broken)
  jax.tree.map(np.testing.assert_array_equal, whole, broken)
  one, other = (
    (workdir / "model" / "transformer.safetensors").read_bytes()
    for workdir in workdirs
  )
  assert one == other


def test_three_kills_leave_each_step_in_the_metrics_once(workdirs):
  whole, broken = (
    [
      {k: v for k, v in row.items() if not k.startswith("perf/")}
      for row in metrics.read(workdir)
    ]
    for workdir in workdirs
  )
  steps = [row["step"] for row in whole]
  assert steps == list(range(4, NUM_STEPS + 1, 4))
  assert whole == broken


def test_nothing_half_saved_is_left(workdirs):
  for workdir in workdirs:
    assert not _half_saved(workdir)
    left = [p.name for p in workdir.rglob("*.tmp")]
    assert not left


def test_another_config_is_refused_naming_both_values(workdirs):
  process = subprocess.run(
    [
      *launched.command(workdirs[0], LENGTH),
      "--config.optim.learning_rate=0.125",
    ],
    cwd=launched.ROOT,
    capture_output=True,
    text=True,
    env=launched.environment(workdirs[0].parent),
    timeout=300,
  )
  assert process.returncode != 0
  expected = "config/optim/learning_rate: 0.002, here 0.125"
  assert expected in process.stderr
