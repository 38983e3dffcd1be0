"""Mesh axes, the one table from logical to mesh axes, and named shardings.

A parallelism strategy is a mesh shape, never a code path: `data` replicates
the parameters, `fsdp` splits them along the width, `tensor` splits heads, MLP
and vocabulary. An axis of size 1 is off.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

AXES = ("data", "fsdp", "tensor")
LOGICAL: dict[str, str | tuple[str, ...]] = {
  "batch": ("data", "fsdp"),
  "embed": "fsdp",
  "heads": "tensor",
  "mlp": "tensor",
  "vocab": "tensor",
}
Names = tuple[str | None, ...]


def make_mesh(
  *,
  data: int = 1,
  fsdp: int = 1,
  tensor: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> jax.sharding.Mesh:
  """Make the mesh (data, fsdp, tensor).

  Args:
    data: devices along the data axis, at least 1.
    fsdp: devices along the parameter-splitting axis, at least 1.
    tensor: devices along the head- and MLP-splitting axis, at least 1.
    devices: the devices to use; default: the first data * fsdp * tensor.

  Raises:
    ValueError: if fewer devices exist than the mesh needs.
  """
  devices = jax.devices() if devices is None else list(devices)
  shape = (data, fsdp, tensor)
  needed = int(np.prod(shape))
  if min(shape) < 1 or needed > len(devices):
    raise ValueError(
      "mesh sizes must be positive and their product at most the number of "
      f"devices, got {data=} {fsdp=} {tensor=} and {len(devices)} devices"
    )
  auto = (jax.sharding.AxisType.Auto,) * len(AXES)
  return jax.make_mesh(shape, AXES, axis_types=auto, devices=devices[:needed])


def spec(names: Names) -> jax.sharding.PartitionSpec:
  """Return the mesh axes of an array whose dimensions have logical `names`.

  Args:
    names: a name of LOGICAL for each dimension, None where it is replicated.

  Raises:
    ValueError: if a name is not in LOGICAL.
  """
  for name in names:
    if name is not None and name not in LOGICAL:
      raise ValueError(
        f"logical axes must be of {tuple(LOGICAL)} or None, got {names}"
      )
  axes = [None if name is None else LOGICAL[name] for name in names]
  return jax.sharding.PartitionSpec(*axes)


def shardings(mesh: jax.sharding.Mesh, logical_axes: Any) -> Any:
  """Map a tree of logical axis names to a tree of named shardings."""
  return jax.tree.map(
    lambda names: jax.sharding.NamedSharding(mesh, spec(names)),
    logical_axes,
    is_leaf=lambda node: isinstance(node, tuple),
  )


def check_even(shapes: Any, places: Any) -> None:
  """Check that every array can be cut as its sharding says.

  Args:
    shapes: tree of arrays or of their shapes.
    places: the same tree of named shardings.

  Raises:
    ValueError: naming the first that cannot.
  """

  def check(path: Any, leaf: Any, place: jax.sharding.NamedSharding) -> None:
    for size, axes in zip(leaf.shape, place.spec, strict=False):
      names = (axes,) if isinstance(axes, str) else axes or ()
      parts = int(np.prod([place.mesh.shape[name] for name in names]))
      if size % parts:
        raise ValueError(
          f"the mesh axes {names} must divide each axis that lies on them, got "
          f"{parts} devices and {jax.tree_util.keystr(path)} of {leaf.shape}"
        )

  jax.tree_util.tree_map_with_path(check, shapes, places)


def constrain(x: jax.Array, names: Names) -> jax.Array:
  """Pin `x` to its logical axes under `jax.set_mesh`; else return it as is."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, spec(names))


def row_shards(mesh: jax.sharding.Mesh | None = None) -> int:
  """Return in how many parts a mesh has the rows of a batch.

  Args:
    mesh: default: that of `jax.set_mesh`; 1 without one.
  """
  found = jax.sharding.get_abstract_mesh() if mesh is None else mesh
  axes = LOGICAL["batch"]
  return 1 if found.empty else int(np.prod([found.shape[a] for a in axes]))
