"""The processes of a run: find the others, and hear when to stop.

Every run joins JAX's distributed runtime, also one that is alone: only then is
a SIGTERM, with which schedulers announce that a machine will be taken away, a
notice that all processes act on at the same step. They save and leave with
exit code 143, which tells a scheduler to put the job back into its queue.

Several processes are found by jax itself on Cloud TPU, Slurm and Kubernetes
with JobSet. Elsewhere they are named, by flags or by JAX_COORDINATOR_ADDRESS,
JAX_NUM_PROCESSES and JAX_PROCESS_ID.
"""

import contextlib
import dataclasses
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from paradiff.data import caching

# After which the others give up a process that is gone without a word.
HEARTBEAT_SECS = 60
PREEMPTED_EXIT_CODE = 143  # 128 + SIGTERM: what schedulers expect
_MESSAGE_BYTES = 1024  # of one process to the others
# What an exchange with a process that is gone begins to say.
_LOST = (
  "ABORTED:",
  "CANCELLED:",
  "DEADLINE_EXCEEDED:",
  "INTERNAL:",
  "UNAVAILABLE:",
  "UNKNOWN:",
)

T = TypeVar("T")


class Preempted(Exception):
  """The run was told to stop and has saved; the message names the step."""


class Failed(RuntimeError):
  """Something failed in one of several processes; the message says where."""


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
    or int(environment.get("MEGASCALE_NUM_SLICES") or "1") > 1
    or "JAX_COORDINATOR_ADDRESS" in environment
  )


def may_be_one_of_many(environment: Mapping[str, str]) -> bool:
  """Return whether a TPU VM's metadata must be asked if there are others.

  The environment of a bare one names none. jax, when it is imported, writes
  TPU_ML_PLATFORM where it sees TPU chips; TPU_SKIP_MDS_QUERY says that there is
  no metadata to ask.
  """
  return (
    "TPU_ML_PLATFORM" in environment and "TPU_SKIP_MDS_QUERY" not in environment
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


def check_alone(what: str) -> None:
  """Check that the run has one process.

  Args:
    what: what is run, for the message.

  Raises:
    ValueError: in all processes, if there are several.
  """
  if jax.process_count() > 1:
    raise ValueError(
      f"{what} must run in one process, got {jax.process_count()}"
    )


def check_mesh(mesh: jax.sharding.Mesh) -> None:
  """Check that each process of a run has a part in its mesh.

  Raises:
    ValueError: in all processes, naming those that would have nothing to do.
  """
  used = {device.process_index for device in mesh.devices.flat}
  idle = sorted(set(range(jax.process_count())) - used)
  if idle:
    raise ValueError(
      f"the mesh must have devices of all {jax.process_count()} processes, got "
      f"{dict(mesh.shape)} with none of process {idle}"
    )


def is_lost(error: Exception) -> bool:
  """Return whether an error means that another process of the run is gone.

  A program that is run as it is dispatched, as small ones are on a CPU, tells
  of it by a ValueError with the status before its message.
  """
  if jax.process_count() == 1:
    return False
  if isinstance(error, jax.errors.JaxRuntimeError):
    return not str(error).startswith("RESOURCE_EXHAUSTED:")  # its own memory
  return isinstance(error, ValueError) and str(error).startswith(_LOST)


def gathered(tree: Any) -> Any:
  """Return arrays that every process can read, whole; all must call it.

  What this process can read already, it keeps.
  """

  def whole(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
      return multihost_utils.process_allgather(leaf, tiled=True)
    return leaf

  return jax.tree.map(whole, tree)


def together(do: Callable[[], T]) -> T:
  """Return what `do` returns, unless it raises in one process: then all raise.

  Else the others would wait for the one at their next exchange. All must call
  it, and `do` must not wait for what another's failure would keep back. A run
  of one process just calls `do`.

  Raises:
    Failed: in all processes if it raises in any, naming the first of them; in
      those from what was raised.
  """
  if jax.process_count() == 1:
    return do()
  error: BaseException | None = None
  try:
    result = do()
  except BaseException as caught:  # also where a user interrupts only one
    error = caught
  said = "" if error is None else f"{type(error).__name__}: {error}"
  told = np.zeros(_MESSAGE_BYTES, np.uint8)
  words = np.frombuffer(said.encode()[:_MESSAGE_BYTES], np.uint8)
  told[: len(words)] = words
  for process, row in enumerate(multihost_utils.process_allgather(told)):
    if row.any():
      found = row.tobytes().rstrip(b"\0").decode(errors="replace")
      raise Failed(
        f"all processes must succeed, got {found} in process {process}"
      ) from error
  return result


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
  if found is None and is_one_of_many(os.environ):
    jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECS)
    return
  if found is None and may_be_one_of_many(os.environ):
    # Neither metadata (ValueError) nor a server of it: a TPU of another kind.
    with contextlib.suppress(ValueError, OSError):
      jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECS)
      return
  bind = None
  if found is None:
    with socket.socket() as probe:
      probe.bind(("127.0.0.1", 0))
      bind = f"127.0.0.1:{probe.getsockname()[1]}"
    found = Processes(bind, 1, 0)
  jax.distributed.initialize(
    found.coordinator,
    found.num_processes,
    found.process_id,
    # Else Slurm's tasks, also one that is alone, take one GPU each.
    cluster_detection_method="deactivate",
    coordinator_bind_address=bind,
    heartbeat_timeout_seconds=HEARTBEAT_SECS,
  )
