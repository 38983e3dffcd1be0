"""Checkpoints of a run (Orbax), and what trees of parameters share.

A `Checkpointer` keeps two things apart: the newest few states, to resume from,
and the best by a metric. Neither ever removes the other's. A save is written
beside its final name and renamed when complete, so a killed save leaves
nothing that a restore would take up.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from paradiff import remote
from paradiff import train_state


class Damaged(ValueError):
  """A checkpoint cannot be read; the message names it."""


class NotSaved(RuntimeError):
  """A checkpoint could not be written; the message says why."""


class Checkpointer:
  """Save and restore a run's state, data position and identity.

  The identity is plain data that defines the run: variant, layout, options.
  A folder whose checkpoints have another identity is refused.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    *,
    identity: Mapping[str, Any],
    num_kept: int = 2,
    best_metric: str | None = None,
    best_mode: str = "max",
    report: Callable[[str], Any] = lambda line: None,
  ) -> None:
    """Open `workdir/checkpoints`, and `workdir/best` given a metric.

    Args:
      workdir: the run's folder, created if need be.
      identity: JSON data that every checkpoint of the run carries.
      num_kept: newest checkpoints to keep, at least 1.
      best_metric: the metric that decides which checkpoint is the best.
      best_mode: "max" or "min".
      report: told a line where a damaged checkpoint is passed over.

    Raises:
      ValueError: if `num_kept` or `best_mode` is out of range.
    """
    if num_kept < 1:
      raise ValueError(f"num_kept must be at least 1, got {num_kept}")
    if best_mode not in ("max", "min"):
      raise ValueError(f'best_mode must be "max" or "min", got {best_mode!r}')
    self._identity = json.loads(json.dumps(identity))
    self._best_metric = best_metric
    self._report = report
    root = remote.absolute(workdir)
    # Orbax removes what a killed save left when it opens a folder.
    self._folder = root / "checkpoints"
    self._newest = ocp.CheckpointManager(
      self._folder,
      item_handlers=_handlers(),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=num_kept, cleanup_tmp_directories=True
      ),
    )
    self._best: ocp.CheckpointManager | None = None
    if best_metric is not None:
      self._best = ocp.CheckpointManager(
        root / "best",
        item_handlers=_handlers(),
        options=ocp.CheckpointManagerOptions(
          max_to_keep=1,
          best_fn=lambda metrics: metrics[best_metric],
          best_mode=best_mode,
          keep_checkpoints_without_metrics=False,
          cleanup_tmp_directories=True,
          # Processes meet under these names: both may save the same step.
          multiprocessing_options=ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix="best"
          ),
        ),
      )

  @property
  def latest_step(self) -> int | None:
    """Step of the newest complete checkpoint; None without one."""
    return self._newest.latest_step()

  @property
  def best_step(self) -> int | None:
    """Step of the best checkpoint so far; None without one."""
    return None if self._best is None else self._best.best_step()

  def _args(
    self, state: train_state.TrainState, position: int
  ) -> ocp.args.Composite:
    meta = {"position": position, "identity": self._identity}
    return ocp.args.Composite(
      state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
    )

  def save(
    self,
    state: train_state.TrainState,
    *,
    step: int,
    position: int,
    metrics: Mapping[str, float] | None = None,
  ) -> None:
    """Begin to save; returns once the state is copied off the devices.

    Args:
      state: the state after `step` steps; may be donated afterwards.
      step: how many steps are done.
      position: batches taken from the data so far.
      metrics: scores of this state; without the deciding one it cannot
        become the best.

    Raises:
      NotSaved: if this save cannot begin or one before it has failed.
    """
    with _writing():
      self._newest.save(step, args=self._args(state, position))
      if self._best is None or not metrics or self._best_metric not in metrics:
        return
      if step not in self._best.all_steps():  # it is there after a resume
        self._best.save(
          step, args=self._args(state, position), metrics=dict(metrics)
        )

  def restore(
    self, like: train_state.TrainState
  ) -> tuple[train_state.TrainState, int] | None:
    """Read the newest checkpoint that can be read.

    A damaged one is put aside, as `<step>.damaged`, and the one before it is
    taken, unless there is no other.

    Args:
      like: arrays, or shapes with shardings, that the result is to match.

    Returns:
      State and data position, or None if there is no checkpoint.

    Raises:
      Damaged: if the only checkpoint cannot be read.
      ValueError: if the checkpoint is of another run.
    """
    while (step := self.latest_step) is not None:
      try:
        return self._read(step, like)
      except Damaged as error:
        if len(self._newest.all_steps()) == 1:
          raise
        self._put_aside(step)
        self._report(f"{error}\nGoing on from step {self.latest_step}.\n")
    return None

  def _put_aside(self, step: int) -> None:
    path = self._folder / str(step)
    if jax.process_index() == 0:
      aside = path.with_name(f"{path.name}.damaged")
      if aside.exists():
        aside.rmtree()
      path.rename(aside)
    multihost_utils.sync_global_devices(f"put aside {step}")
    self._newest.reload()

  def _read(
    self, step: int, like: train_state.TrainState
  ) -> tuple[train_state.TrainState, int]:
    path = self._folder / str(step)
    with reading(path):
      meta = self._newest.restore(
        step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
      )["meta"]
      saved = self._newest.item_metadata(step)["state"].tree["params"]
      identity, position = meta["identity"], int(meta["position"])
    if identity != self._identity:
      raise ValueError(
        f"{path} must be a checkpoint of this run, got one with\n"
        + "\n".join(differences(self._identity, identity))
        + "\nUse another workdir, or the configuration that began this one."
      )
    check_shapes(saved, like.params, source=str(path))
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    with reading(path):
      state = self._newest.restore(
        step, args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes))
      )["state"]
    return state, position

  def is_preempted(self, step: int) -> bool:
    """Return whether the run is to save `step` and stop: a SIGTERM came.

    All processes of a run get True at the same step. It takes the distributed
    runtime (`jax.distributed.initialize`); without it the answer is False.
    """
    return bool(self._newest.reached_preemption(step))

  def check(self) -> None:
    """Check, without waiting, that no save has failed.

    Raises:
      NotSaved: if one has.
    """
    with _writing():
      for manager in self._managers:
        manager.check_for_errors()

  def wait(self) -> None:
    """Wait until every save begun so far is complete.

    Raises:
      NotSaved: if one of them has failed.
    """
    with _writing():
      for manager in self._managers:
        manager.wait_until_finished()

  def close(self) -> None:
    """Wait for the saves and release the folders.

    Raises:
      NotSaved: if one of the saves has failed; the folders are released.
    """
    with _writing(), contextlib.ExitStack() as stack:
      for manager in self._managers:
        stack.callback(manager.close)  # it waits

  @property
  def _managers(self) -> list[ocp.CheckpointManager]:
    return [self._newest, *([] if self._best is None else [self._best])]


def _handlers() -> dict[str, ocp.CheckpointHandler]:
  return {
    "state": ocp.StandardCheckpointHandler(),
    "meta": ocp.JsonCheckpointHandler(),
  }


def _first_line(error: Exception) -> str:
  """Return the first line of a message, both ends of it if it is long."""
  first = [*str(error).strip().splitlines(), ""][0]
  if len(first) > 300:  # TensorStore ends with the reason
    first = f"{first[:150]} ... {first[-150:]}"
  return f"{type(error).__name__}: {first}"


@contextlib.contextmanager
def _writing() -> Iterator[None]:
  """Turn whatever writing a checkpoint raises into one clear error."""
  try:
    yield
  except Exception as error:  # Orbax and TensorStore raise many kinds
    raise NotSaved(
      f"a checkpoint must be written, got {_first_line(error)}"
    ) from error


@contextlib.contextmanager
def reading(path: epath.Path) -> Iterator[None]:
  """Turn whatever reading a damaged checkpoint raises into one clear error."""
  try:
    yield
  except Exception as error:  # Orbax and TensorStore raise many kinds
    raise Damaged(
      f"{path} must be a complete checkpoint of this program, got "
      f"{_first_line(error)}"
    ) from error


def flatten(tree: Any, *, prefix: str = "") -> dict[str, Any]:
  """Return {"a/b": leaf} of nested string-keyed mappings."""
  if not isinstance(tree, Mapping):
    return {prefix: tree}
  flat: dict[str, Any] = {}
  for name, node in tree.items():
    flat |= flatten(node, prefix=f"{prefix}/{name}" if prefix else str(name))
  return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Return the nested dicts of {"a/b": leaf}: the inverse of `flatten`."""
  tree: dict[str, Any] = {}
  for path, leaf in flat.items():
    *parents, name = path.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
      if not isinstance(node, dict):
        raise ValueError(f"a leaf must not have leaves beneath, got {path}")
    node[name] = leaf
  return tree


def differences(ours: Any, theirs: Any) -> list[str]:
  """Return a line for each leaf that differs, with both values."""
  here, there = flatten(ours), flatten(theirs)
  absent = "absent"
  return [
    f"  {name}: {there.get(name, absent)!r}, here {here.get(name, absent)!r}"
    for name in sorted({*here, *there})
    if here.get(name, absent) != there.get(name, absent)
  ]


def check_shapes(found: Any, expected: Any, *, source: str) -> None:
  """Check that two trees have the same names and shapes.

  Args:
    found: tree of arrays.
    expected: tree of arrays or shapes.
    source: the file that `found` is from, for the message.

  Raises:
    ValueError: naming the source and the first differences.
  """
  shapes = [
    {name: tuple(leaf.shape) for name, leaf in flatten(tree).items()}
    for tree in (expected, found)
  ]
  lines = differences(*shapes)
  if lines:
    more = [f"  and {len(lines) - 5} more"] if len(lines) > 5 else []
    raise ValueError(
      f"{source} must hold the parameters of this model, got shapes\n"
      + "\n".join(lines[:5] + more)
    )
