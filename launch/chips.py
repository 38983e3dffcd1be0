"""TPU chips, and slices of them described on a machine that has none.

Source of the figures: docs.cloud.google.com/tpu/docs, the pages v5e, v5p and
v6e, read in November 2026; memory is what libtpu 0.0.42 reports as available.
"""

import dataclasses
import os
from typing import Any

import jax
from jax.experimental import topologies

GIB = 2**30
MIN_JAX = (0, 8)


@dataclasses.dataclass(frozen=True)
class Chip:
  """What one chip can do at best.

  Attributes:
    flops: bfloat16 operations a second.
    hbm_bytes: of its memory, as much as the compiler hands out.
    hbm_rate: bytes a second from and to it.
    ici_rate: bytes a second that all links to other chips send.
  """

  flops: float
  hbm_bytes: float
  hbm_rate: float
  ici_rate: float


# The links' published rates count both directions.
CHIPS = {
  "v5e": Chip(197e12, 15.75 * GIB, 819e9, 200e9),
  "v5p": Chip(459e12, 95.74 * GIB, 2765e9, 600e9),
  "v6e": Chip(918e12, 31.25 * GIB, 1638e9, 400e9),
}


def chip_of(topology: str) -> Chip:
  """Return the chip of a topology such as "v5e:4x4".

  Raises:
    ValueError: if the chip is not known.
  """
  name = topology.partition(":")[0]
  if name not in CHIPS:
    raise ValueError(
      f"topology must be one of {tuple(CHIPS)} with a shape, as v5e:4x4, got "
      f"{topology!r}"
    )
  return CHIPS[name]


def find_devices(topology: str) -> list[Any]:
  """Return descriptions of a slice's devices, which only compilers can use.

  Args:
    topology: chip and shape, such as "v5e:4x4" or "v5p:2x2x4".

  Raises:
    ImportError: if there is no libtpu, or jax is too old.
    ValueError: if there is no such slice.
  """
  chip_of(topology)
  if jax.__version_info__ < MIN_JAX:
    # Of 0.7.2 and its libtpu, 0.0.23: whoever asks a compiled step for its
    # shardings, as jax itself does, waits without end while memory fills up.
    raise ImportError(
      f"jax must be {'.'.join(map(str, MIN_JAX))} or newer to compile for a "
      f"TPU that is not there, got {jax.__version__}"
    )
  # No TPU is asked for, and other processes may use the library too.
  for name, value in {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  }.items():
    os.environ.setdefault(name, value)
  try:
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  except (ImportError, RuntimeError, ValueError) as error:
    if "libtpu" in str(error) or isinstance(error, ImportError):
      raise ImportError(
        "libtpu must be installed to compile for a TPU: pip install "
        f"'paradiff[tpu]'; got {str(error)[:200]}"
      ) from error
    raise ValueError(
      f"topology must be one that exists, as v5e:4x4, got {topology!r}: "
      f"{str(error)[:200]}"
    ) from error
  return list(found.devices)
