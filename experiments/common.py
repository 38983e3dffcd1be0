"""What every experiment shares: configs in, guards around the loop.

A config file is a `ConfigDict` with sub-trees; `build` turns a sub-tree into
the frozen dataclass that library code takes, so defaults live there and an
unknown or missing key fails by name. Nothing below `experiments/` sees a
`ConfigDict`.
"""

import collections
import contextlib
import dataclasses
import json
import math
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import ml_collections
from absl import app
from absl import flags
from absl import logging
from clu import platform
from etils import epath
from ml_collections import config_flags

from experiments import failures
from experiments import processes
from paradiff import checkpoints
from paradiff import metrics
from paradiff.data import images

T = TypeVar("T")

DONE_NAME = "done"  # in the workdir of a run that has ended well
# Keys of a config that may change when a run resumes.
FREE_KEYS = (
  "cache",
  "checkpoint",
  "evaluate",
  "image_tokenizer",
  "log",
  "mesh",
  "text_tokenizer",
)


def build(cls: type[T], subtree: Mapping[str, Any], **fixed: Any) -> T:
  """Construct a frozen dataclass from a sub-tree of a config.

  Args:
    cls: a dataclass; fields that are dataclasses take nested sub-trees.
    subtree: values by field name; a field left out has its default.
    **fixed: fields that the caller sets and the config may not.

  Raises:
    ValueError: naming unknown, missing or refused keys and the allowed ones.
  """
  fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
  allowed = sorted(set(fields) - set(fixed))
  unknown = sorted(set(subtree) - set(allowed))
  if unknown:
    raise ValueError(
      f"keys of {cls.__name__} must be among {allowed}, got {unknown}"
    )
  missing = [
    name
    for name, field in fields.items()
    if name not in subtree
    and name not in fixed
    and field.default is dataclasses.MISSING
    and field.default_factory is dataclasses.MISSING
  ]
  if missing:
    raise ValueError(
      f"{cls.__name__} must be given {missing}, got only {sorted(subtree)}"
    )
  hints = typing.get_type_hints(cls)
  values = {name: _value(hints[name], subtree[name]) for name in subtree}
  return cls(**values, **fixed)


def override(base: T, subtree: Mapping[str, Any]) -> T:
  """Return the dataclass `base` with the fields of a sub-tree replaced."""
  fields = {f.name for f in dataclasses.fields(base)}  # type: ignore[arg-type]
  unknown = sorted(set(subtree) - fields)
  if unknown:
    raise ValueError(
      f"keys of {type(base).__name__} must be among {sorted(fields)}, got "
      f"{unknown}"
    )
  hints = typing.get_type_hints(type(base))
  values = {}
  for name, value in subtree.items():
    old = getattr(base, name)
    nested = dataclasses.is_dataclass(old) and isinstance(value, _MAPPINGS)
    values[name] = (
      override(old, value) if nested else _value(hints[name], value)
    )
  return dataclasses.replace(base, **values)  # type: ignore[type-var]


_MAPPINGS = (Mapping, ml_collections.ConfigDict)


def _value(hint: Any, value: Any) -> Any:
  """Turn a config value into what the field is annotated with."""
  if isinstance(value, _MAPPINGS):
    options = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
      options = list(typing.get_args(hint))
    for option in options:
      if dataclasses.is_dataclass(option):
        return build(option, value)  # type: ignore[arg-type]
    if isinstance(value, ml_collections.ConfigDict):
      return value.to_dict()
    return dict(value)
  return tuple(value) if isinstance(value, list) else value


def plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Return a config as nested dicts of JSON data."""
  return json.loads(json.dumps(config.to_dict()))


def identity(config: ml_collections.ConfigDict, **parts: Any) -> dict[str, Any]:
  """Return what defines a run: the config without `FREE_KEYS`, and `parts`."""
  kept = {k: v for k, v in plain(config).items() if k not in FREE_KEYS}
  return {"config": kept, **parts}


def write_config(
  config: ml_collections.ConfigDict, workdir: epath.PathLike
) -> None:
  """Write `config.json` into the workdir, by one process of the run."""
  if not processes.is_first():
    return
  text = json.dumps(plain(config), indent=2) + "\n"
  images.write_atomically(epath.Path(workdir) / "config.json", text.encode())


def flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Return a config as {"optim/learning_rate": value}."""
  return checkpoints.flatten(plain(config))


def is_due(step: int, every: int, num_steps: int) -> bool:
  """Return whether something done every `every` steps and last is due."""
  return every > 0 and (step % every == 0 or step == num_steps)


class NonFinite(RuntimeError):
  """A loss or a gradient norm is not finite; the message names the step."""


class Guard:
  """Check each step's loss and gradient norm one step late.

  The numbers of step n are read only after step n + 1 is dispatched, so that
  the accelerator never waits for the host.

  Attributes:
    loss: the newest loss that was read; nan before the first.
  """

  def __init__(self) -> None:
    self._pending: collections.deque[tuple[int, Mapping[str, jax.Array]]] = (
      collections.deque()
    )
    self.loss = math.nan

  def push(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Take in a dispatched step's metrics and check the step before it.

    Raises:
      NonFinite: if that step's loss or gradient norm is not finite.
    """
    watched = {k: metrics[k] for k in ("train/loss", "train/grad_norm")}
    self._pending.append((step, watched))
    if len(self._pending) > 1:
      self._check()

  def drain(self) -> None:
    """Wait for all steps pushed and check them.

    Raises:
      NonFinite: as `push`.
    """
    while self._pending:
      self._check()

  def _check(self) -> None:
    step, metrics = self._pending.popleft()
    values = {name: float(x) for name, x in jax.device_get(metrics).items()}
    self.loss = values["train/loss"]
    if not all(math.isfinite(value) for value in values.values()):
      raise NonFinite(
        f"loss and gradient norm must be finite, got {values} at step {step}"
      )


def open_writer(
  workdir: epath.PathLike, *, resume_step: int | None
) -> metrics.Writer | metrics.Silent:
  """Return what writes a run's metrics; only the first process writes."""
  if not processes.is_first():
    return metrics.Silent(workdir)
  return metrics.Writer(workdir, resume_step=resume_step)


@contextlib.contextmanager
def closing(*resources: Any) -> Iterator[None]:
  """Close all resources in order, whatever happens, also to one of them.

  But not where another process of the run is gone: a save would wait for it.
  """
  with contextlib.ExitStack() as stack:
    for resource in reversed(resources):
      stack.callback(resource.close)
    try:
      yield
    except Exception as error:
      failures.mark_in_loop(error)
      if processes.is_lost(error):
        stack.pop_all()
      raise


def check_workdir(workdir: epath.PathLike) -> None:
  """Check that a run can write where it is to, before it has cost anything.

  Raises:
    ValueError: if it cannot, with the reason.
  """
  probe = epath.Path(workdir) / f".writable_{jax.process_index()}"
  try:
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.write_text("")
    probe.unlink()
  except ImportError as error:
    raise ValueError(
      f"workdir must be of a store whose package is installed, got {workdir}: "
      f"{error} (pip install 'paradiff[gcs]' for gs://)"
    ) from error
  except OSError as error:
    raise ValueError(
      f"workdir must be a folder that can be written, got {workdir}: "
      f"{error.strerror or error}"
    ) from error


def run(main: Callable[[ml_collections.ConfigDict, str], Any]) -> None:
  """Parse `--config` and `--workdir`, then call `main(config, workdir)`."""
  config_flag = config_flags.DEFINE_config_file(
    "config", None, "The config file.", lock_config=True
  )
  workdir_flag = flags.DEFINE_string(
    "workdir", None, "Checkpoints, metrics and samples; re-startable."
  )
  coordinator = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0; default: found or alone."
  )
  num_processes = flags.DEFINE_integer("num_processes", None, "Of the run.")
  process_id = flags.DEFINE_integer("process_id", None, "This one's number.")
  flags.mark_flags_as_required(["config", "workdir"])

  def start(argv: list[str]) -> None:
    if len(argv) > 1:
      raise app.UsageError(f"only flags are taken, got {argv[1:]}")
    logging.set_verbosity(logging.WARNING)  # Orbax tells every file it writes
    workdir = workdir_flag.value or ""
    try:
      processes.join(
        processes.Processes(
          coordinator.value, num_processes.value, process_id.value
        )
      )
      processes.check_same("config", plain(config_flag.value))
    except ValueError as error:
      sys.exit(f"error: {error}")
    platform.work_unit().set_task_status(
      f"process {jax.process_index()} of {jax.process_count()}"
    )
    failures.listen()
    try:
      check_workdir(workdir)
      main(config_flag.value, workdir)
      if processes.is_first():
        (epath.Path(workdir) / DONE_NAME).write_text("")
    except processes.Preempted as notice:
      sys.stderr.write(f"{notice}\nThe same command goes on from there.\n")
      sys.exit(processes.PREEMPTED_EXIT_CODE)
    except (Exception, KeyboardInterrupt) as error:
      _fail(error, workdir)
      raise

  app.run(start)


def _fail(error: BaseException, workdir: str) -> None:
  """End a run that has failed; return where its traceback is to be shown.

  Only what fails in all processes alike may leave in order: they wait for each
  other.
  """
  if isinstance(error, NonFinite):
    sys.exit(f"{error}\nThe last good checkpoint is in {workdir}.")
  if isinstance(error, processes.Failed):
    if error.__cause__ is not None:  # it happened here: show where
      return
    sys.exit(f"error: {error}")
  if isinstance(error, Exception) and processes.is_lost(error):
    failures.leave_lost(error)
  words = None
  if isinstance(error, checkpoints.NotSaved | OSError):
    words = f"error: {error}"
    if failures.is_in_loop(error):
      words += (
        f"\nThe last complete checkpoint in {workdir} is as it was; the same "
        "command goes on from it."
      )
  elif failures.is_refusal(error):
    words = f"error: {error}"
  if jax.process_count() > 1:
    failures.leave(
      words or traceback.format_exc().rstrip(),
      told=failures.line_of(f"{type(error).__name__}: {error}"),
    )
  if words:
    sys.exit(words)
