"""Memory of reading a published checkpoint, against the result's own.

  python -m benchmarks.conversion_memory --gibibytes=2 --devices=8 --mesh=1,4,2

Builds a synthetic checkpoint of at least that size, reads it in a process with
that many virtual CPU devices and samples the process's anonymous memory
(RssAnon: mapped pages of the files are not in it). What is above the result's
own bytes must stay within 1.5 times the largest shard. Prints a line of JSON.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

from absl import app
from absl import flags

GIBIBYTES = flags.DEFINE_float("gibibytes", 2.0, "Least size of the weights.")
DEVICES = flags.DEFINE_integer("devices", 1, "Virtual CPU devices.")
MESH = flags.DEFINE_list("mesh", None, "data,fsdp,tensor; default: no mesh.")
FAMILY = flags.DEFINE_string("family", "parallel_a", "Whose format.")
_READ = flags.DEFINE_string(
  "read", None, "Internal: read this folder instead of building one."
)
BOUND = 1.5  # of the largest addressable shard
_SAMPLE_SECS = 0.001


def anonymous_bytes() -> int:
  """Return the resident anonymous memory of this process."""
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith("RssAnon:"):
      return int(line.split()[1]) * 1024
  raise RuntimeError("/proc/self/status must have RssAnon, got none")


class Peak:
  """Samples the anonymous memory in a thread, from one moment on."""

  def __enter__(self) -> "Peak":
    self.start = self.peak = anonymous_bytes()
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._sample)
    self._thread.start()
    return self

  def _sample(self) -> None:
    while not self._stop.wait(_SAMPLE_SECS):
      self.peak = max(self.peak, anonymous_bytes())

  def __exit__(self, *_: object) -> None:
    self._stop.set()
    self._thread.join()
    self.peak = max(self.peak, anonymous_bytes())

  @property
  def added(self) -> int:
    """Bytes at the peak above those at the start."""
    return self.peak - self.start


def build(folder: pathlib.Path, gibibytes: float, family: str) -> int:
  """Write a checkpoint of at least this size; return its bytes."""
  from paradiff.convert import synthetic

  # The proportions of the published models: F = 3 D, D = 128 H.
  width = 2048 if gibibytes >= 1 else 512
  block_bytes = 2 * (4 + 9) * width**2
  num_layers = int(gibibytes * 2**30) // block_bytes + 1
  sizes = synthetic.Sizes(
    width=width,
    num_layers=num_layers,
    num_heads=width // 128,
    mlp_width=3 * width,
    num_shards=4,
    spare_rows=64 if family == "parallel_a" else 3,  # then 4 divides them
  )
  synthetic.build(folder, family, sizes=sizes)
  files = list(folder.rglob("*.safetensors"))
  return sum(file.stat().st_size for file in files)


def measure(
  folder: pathlib.Path, family: str, mesh_sizes: Sequence[int] | None
) -> dict[str, object]:
  """Read a checkpoint and return what that took."""
  import jax

  from paradiff import sharding
  from paradiff.convert import model as model_lib

  mesh = None
  if mesh_sizes is not None:
    data, fsdp, tensor = mesh_sizes
    mesh = sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor)
  # What a process allocates once, whatever it reads, is not the question.
  from paradiff.convert import synthetic

  with tempfile.TemporaryDirectory() as small:
    synthetic.build(small, family)
    model_lib.read(small, family)
  with Peak() as memory:
    start = time.monotonic()
    model = model_lib.read(folder, family, mesh=mesh)
    jax.block_until_ready(model.params)
    seconds = time.monotonic() - start
  shards = [
    shard.data.nbytes
    for leaf in jax.tree.leaves([model.params, model.image_params])
    for shard in leaf.addressable_shards
  ]
  overhead = memory.added - sum(shards)
  return {
    "devices": jax.device_count(),
    "mesh": mesh_sizes,
    "result_bytes": sum(shards),
    "largest_shard_bytes": max(shards),
    "peak_bytes": memory.added,
    "overhead_bytes": overhead,
    "overhead_shards": round(overhead / max(shards), 4),
    "within_bound": overhead <= BOUND * max(shards),
    "seconds": round(seconds, 2),
  }


def main(argv: Sequence[str]) -> None:
  del argv
  if _READ.value is not None:
    sizes = [int(size) for size in MESH.value] if MESH.value else None
    folder = pathlib.Path(_READ.value)
    print(json.dumps(measure(folder, FAMILY.value, sizes)))
    return
  folder = pathlib.Path(tempfile.mkdtemp(prefix="conversion_memory_"))
  try:
    file_bytes = build(folder / "source", GIBIBYTES.value, FAMILY.value)
    flag = f"--xla_force_host_platform_device_count={DEVICES.value}"
    environment = {**os.environ, "XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.conversion_memory"]
    command += [f"--read={folder / 'source'}", f"--family={FAMILY.value}"]
    if MESH.value:
      command.append(f"--mesh={','.join(MESH.value)}")
    result = subprocess.run(
      command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    figures = json.loads(result.stdout.splitlines()[-1])
    print(json.dumps({"file_bytes": file_bytes, **figures}))
  finally:
    shutil.rmtree(folder)


if __name__ == "__main__":
  app.run(main)
