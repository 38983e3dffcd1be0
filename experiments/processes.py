"""The processes of a run: find the others, and hear when to stop.

Every run joins JAX's distributed runtime, also one that is alone: only then is
a SIGTERM, with which schedulers announce that a machine will be taken away, a
notice that all processes act on at the same step. They save and leave with
exit code 143, which tells a scheduler to put the job back into its queue.

Several processes are found by jax itself on Cloud TPU, Slurm and Kubernetes
with JobSet. Elsewhere they are named, by flags or by JAX_COORDINATOR_ADDRESS,
JAX_NUM_PROCESSES and JAX_PROCESS_ID.
"""

import dataclasses
import os
import socket
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from paradiff.data import caching

# After which the others give up a process that is gone without a word.
HEARTBEAT_SECS = 60
PREEMPTED_EXIT_CODE = 143  # 128 + SIGTERM: what schedulers expect


class Preempted(Exception):
  """The run was told to stop and has saved; the message names the step."""


@dataclasses.dataclass(frozen=True)
class Processes:
  """How the processes of a run find each other.

  Attributes:
    coordinator: host:port of process 0; None to let jax find the cluster.
    num_processes: of the run.
    process_id: this one's number, in [0, num_processes).
  """

  coordinator: str | None = None
  num_processes: int | None = None
  process_id: int | None = None


def named(
  processes: Processes, environment: Mapping[str, str]
) -> Processes | None:
  """Return what flags or else the environment name; None if neither does.

  Raises:
    ValueError: if only some of the three are named, or a number is wrong.
  """
  given = dataclasses.asdict(processes)
  names = dict.fromkeys(given, "")
  if all(value is None for value in given.values()):
    names = dict(
      coordinator="JAX_COORDINATOR_ADDRESS",
      num_processes="JAX_NUM_PROCESSES",
      process_id="JAX_PROCESS_ID",
    )
    given = {key: environment.get(name) for key, name in names.items()}
    if given["num_processes"] is None and given["process_id"] is None:
      # A cluster may name its coordinator alone; jax finds the rest.
      return None
  missing = [names[key] or key for key, value in given.items() if value is None]
  if missing:
    raise ValueError(
      "coordinator, num_processes and process_id must be given together, got "
      f"no {', '.join(missing)}"
    )
  num, this = int(given["num_processes"]), int(given["process_id"])
  if not 0 <= this < num:
    raise ValueError(
      f"process_id must lie in [0, num_processes), got {this} of {num}"
    )
  return Processes(str(given["coordinator"]), num, this)


def is_one_of_many(environment: Mapping[str, str]) -> bool:
  """Return whether jax will find other processes by itself."""
  return (
    int(environment.get("SLURM_NTASKS", "1")) > 1
    or len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
    or "JAX_COORDINATOR_ADDRESS" in environment
  )


def is_first() -> bool:
  """Return whether this process writes what a run writes once."""
  return jax.process_index() == 0


def check_same(what: str, data: Any) -> None:
  """Check that all processes of a run were given the same.

  Args:
    what: the name of the data, for the message.
    data: JSON data.

  Raises:
    ValueError: in all processes, naming those that differ from the first.
  """
  digest = np.frombuffer(caching.digest(data).encode(), np.uint8)
  rows = np.atleast_2d(multihost_utils.process_allgather(digest))
  others = np.flatnonzero((rows != rows[0]).any(axis=-1)).tolist()
  if others:
    raise ValueError(
      f"all processes must be given the same {what}, got another than that of "
      f"process 0 in {others}; this is process {jax.process_index()}"
    )


def gathered(tree: Any) -> Any:
  """Return arrays that every process can read, whole; all must call it."""
  if jax.process_count() == 1:
    return tree
  return multihost_utils.process_allgather(tree, tiled=True)


def wait_for_all(what: str) -> None:
  """Wait until all processes of a run have come here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def join(processes: Processes) -> None:
  """Join the distributed runtime; before jax has looked for its devices.

  Raises:
    ValueError: as `named`.
  """
  found = named(processes, os.environ)
  if found is not None:
    jax.distributed.initialize(
      found.coordinator,
      found.num_processes,
      found.process_id,
      heartbeat_timeout_seconds=HEARTBEAT_SECS,
    )
  elif is_one_of_many(os.environ):
    jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECS)
  else:
    with socket.socket() as probe:
      probe.bind(("127.0.0.1", 0))
      address = f"127.0.0.1:{probe.getsockname()[1]}"
    jax.distributed.initialize(address, 1, 0, coordinator_bind_address=address)
