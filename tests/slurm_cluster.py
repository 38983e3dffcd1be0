"""A private Slurm of two nodes on this machine: real daemons, loopback only.

Needs slurmctld, slurmd, slurm-client and munge; no root but its own, no
systemd, no database.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
_CONF = """\
ClusterName=paradiff
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
JobRequeue=1
KillWait=60
SchedulerParameters=batch_sched_delay=1,sched_interval=2
SlurmdParameters=config_overrides
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 \
Port=[{ports[1]}-{ports[2]}] CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=cpu Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP \
OverSubscribe=YES:4
"""


def missing() -> list[str]:
  """Return the programs that are not there."""
  return [name for name in PROGRAMS if shutil.which(name) is None]


@contextlib.contextmanager
def start(root: pathlib.Path) -> Iterator[dict[str, str]]:
  """Start the daemons; give the environment in which its commands work."""
  for name in ("state", "spool-node1", "spool-node2"):
    (root / name).mkdir(parents=True)
  root.chmod(0o755)
  key = root / "munge.key"
  key.write_bytes(os.urandom(1024))
  key.chmod(0o600)
  first = 17_000 + os.getpid() % 10_000  # three in a row
  conf = root / "slurm.conf"
  conf.write_text(
    _CONF.format(
      host=socket.gethostname(),
      root=root,
      ports=(first, first + 1, first + 2),
    )
  )
  env = {**os.environ, "SLURM_CONF": str(conf)}
  munge = [
    "munged",
    "--force",
    f"--key-file={key}",
    f"--socket={root}/munge.socket",
    f"--pid-file={root}/munged.pid",
    f"--log-file={root}/munged.log",
    f"--seed-file={root}/munge.seed",
  ]
  commands = [munge, ["slurmctld", "-f", str(conf), "-c"]]
  commands += [["slurmd", "-f", str(conf), "-N", f"node{i}"] for i in (1, 2)]
  try:
    for command in commands:
      subprocess.run(command, env=env, check=True, capture_output=True)
    _wait_for_nodes(env)
    yield env
  finally:
    for name in ("slurmd-node1", "slurmd-node2", "slurmctld", "munged"):
      _stop(root / f"{name}.pid")


def _stop(path: pathlib.Path) -> None:
  """Stop a daemon; one that has just begun may not hear a SIGTERM."""
  if not path.exists():
    return
  with contextlib.suppress(ProcessLookupError, ValueError):
    pid = int(path.read_text())
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + 10
    while time.monotonic() < until:
      os.kill(pid, 0)
      time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)


def _wait_for_nodes(env: dict[str, str]) -> None:
  until = time.monotonic() + 60
  while True:
    found = subprocess.run(
      ["sinfo", "--noheader", "--format=%t %D"],
      env=env,
      capture_output=True,
      text=True,
    )
    if found.stdout.split() == ["idle", "2"]:
      return
    if time.monotonic() > until:
      raise TimeoutError(f"two nodes must be idle, got {found}")
    time.sleep(0.5)
