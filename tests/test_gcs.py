"""A run whose workdir is gs://, with the clients that a real one has.

`gcs_server` answers in place of the service. They are told where it is by their
environment, and only once, so the run has a process of its own.
"""

import os
import pathlib
import subprocess
import sys

import gcs_server
import pytest

pytest.importorskip("gcsfs")

_RUN = """
import io, sys
import jax, numpy as np
import mini_sft
from etils import epath
from experiments import sft
from paradiff import metrics, pipeline

tokenizer, local = sys.argv[1:]
mini_sft.write_image_tokenizer(epath.Path(tokenizer))
config = mini_sft.get_config()
config.image_tokenizer, config.num_steps = tokenizer, 16

def train(workdir):
  stream = io.StringIO()
  model = sft.train_and_evaluate(config, workdir, stream=stream)
  return jax.device_get(model.params), stream.getvalue()

root = epath.Path("gs://bucket/runs/one")
whole, _ = train(str(root))
names = {path.name for path in root.iterdir()}
wanted = {"checkpoints", "model", "metrics", "tensorboard", "config.json"}
assert wanted <= names, names
(root / "checkpoints" / "16").rmtree()  # as if it had been killed
(root / "model").rmtree()
resumed, told = train(str(root))
assert "resuming at step 8" in told, told
expected, _ = train(local)
for found in (whole, resumed):
  jax.tree.map(np.testing.assert_array_equal, found, expected)
there = metrics.read(root)
assert [row["step"] for row in there] == [4, 8, 12, 16], there
model = pipeline.ParallelPipeline.from_pretrained(str(root / "model"))
loaded = jax.device_get(model.params)
jax.tree.map(np.testing.assert_array_equal, loaded, expected)
"""


def test_a_run_in_a_bucket_resumes_and_ends_as_one_on_disk(tmp_path):
  script = tmp_path / "run.py"
  script.write_text(_RUN)
  tests = pathlib.Path(__file__).parent
  path = os.pathsep.join([str(tests), str(tests.parent)])
  with gcs_server.Server() as server:
    done = subprocess.run(
      [sys.executable, script, tmp_path / "tokenizer", tmp_path / "local"],
      env={
        **os.environ,
        **server.environment,
        "PYTHONPATH": path,
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
      },
      cwd=tmp_path,
      capture_output=True,
      text=True,
      timeout=240,
    )
    names = {name for _, name in server.store.objects}
  assert done.returncode == 0, done.stderr[-4000:]
  assert "runs/one/checkpoints/16/_CHECKPOINT_METADATA" in names
  assert not [name for name in names if name.endswith(".part")]
  assert not list(tmp_path.glob("gs:*"))  # nor beside where it was started
