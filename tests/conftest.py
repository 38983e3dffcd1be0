"""Eight virtual CPU devices, strict shapes, and nothing from the network.

The environment must be set before jax is imported anywhere.
"""

import os
import pathlib

_MANY_MAPS = 30_000
_FLAGS = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in _FLAGS:
  os.environ["XLA_FLAGS"] = (
    f"{_FLAGS} --xla_force_host_platform_device_count=8".strip()
  )
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import pytest
from absl import flags

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

# grain reads absl flags, which no main function has parsed here.
flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="module", autouse=True)
def room_for_compiled_programs():
  """Forget compiled programs before the process runs out of memory maps.

  Each has some, Linux allows 65,530, and jaxlib 0.7's compiler crashes there.
  """
  yield
  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and maps.read_bytes().count(b"\n") > _MANY_MAPS:
    jax.clear_caches()


@pytest.fixture(scope="module")
def cache_of_compiled_programs(tmp_path_factory):
  """Share compiled programs between the runs of a module's tests."""
  before = jax.config.jax_compilation_cache_dir
  folder = str(tmp_path_factory.mktemp("compiled"))
  jax.config.update("jax_compilation_cache_dir", folder)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  yield
  jax.config.update("jax_compilation_cache_dir", before)
