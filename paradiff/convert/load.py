"""Tensors of a checkpoint into sharded arrays, a shard at a time.

Each callback of `jax.make_array_from_callback` copies just its shard out of
the mapped files and hands over an array that is on its device already, so one
shard at most waits in host memory; jax would keep all of an array's shards
there until the last is made. Buffers begin at multiples of 64 bytes, which lets
jax take them over as they are on a CPU; elsewhere it would keep a second copy.
Mapped pages belong to the file and are no memory of the process.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from paradiff import checkpoints
from paradiff.convert import plan as plan_lib
from paradiff.convert import tensors as tensors_lib

_ALIGNMENT = 64  # bytes; what XLA asks of a buffer on a CPU
Progress = Callable[[int, int], None]
Index = tuple[slice, ...]
Key = tuple[range, ...]  # of an index, hashable


def load(
  checkpoint: Mapping[str, tensors_lib.LazyTensor],
  plan: plan_lib.Plan,
  targets: Any,
  *,
  dtype: Any = None,
  on_tensor: Progress | None = None,
) -> dict[str, Any]:
  """Read a checkpoint into arrays.

  Args:
    checkpoint: the published tensors.
    plan: from `plan.match`.
    targets: tree of shapes; those with a sharding are placed by it, the others
      on the first device.
    dtype: of the result; None keeps each tensor's own.
    on_tensor: called with bytes done and bytes in all, after each tensor's
      part of each shard.

  Returns:
    The tree, as nested dicts of `jax.Array`.
  """
  flat = checkpoints.flatten(targets)
  total = total_bytes(checkpoint, plan, targets, dtype=dtype)
  count = counter(total, on_tensor)
  return checkpoints.unflatten(
    {
      leaf.target: _place(
        leaf,
        checkpoint,
        sharding=_sharding(flat[leaf.target]),
        dtype=_dtype(leaf, checkpoint, dtype),
        count=count,
      )
      for leaf in plan.leaves
    }
  )


def counter(total: int, on_tensor: Progress | None) -> Callable[[int], None]:
  """Return what adds bytes up and reports them as done of `total`."""
  done = 0

  def count(nbytes: int) -> None:
    nonlocal done
    done += nbytes
    if on_tensor is not None:
      on_tensor(done, total)

  return count


def total_bytes(
  checkpoint: Mapping[str, tensors_lib.LazyTensor],
  plan: plan_lib.Plan,
  targets: Any,
  *,
  dtype: Any = None,
) -> int:
  """Return the bytes that `load` would copy: every distinct shard once."""
  flat = checkpoints.flatten(targets)
  return sum(
    _dtype(leaf, checkpoint, dtype).itemsize * math.prod(map(len, key))
    for leaf in plan.leaves
    for key in _owners(_sharding(flat[leaf.target]), leaf.shape)
  )


def _dtype(
  leaf: plan_lib.Leaf,
  checkpoint: Mapping[str, tensors_lib.LazyTensor],
  dtype: Any,
) -> np.dtype:
  """Return the dtype asked for, or that of the leaf's tensors."""
  if dtype is not None:
    return np.dtype(dtype)
  return checkpoint[leaf.sources[0]].numpy_dtype


def _sharding(target: Any) -> jax.sharding.Sharding:
  sharding = getattr(target, "sharding", None)
  return sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])


def _key(index: Index, shape: tuple[int, ...]) -> Key:
  return tuple(
    range(*part.indices(size)) for part, size in zip(index, shape, strict=True)
  )


def _owners(
  sharding: jax.sharding.Sharding, shape: tuple[int, ...]
) -> dict[Key, list[jax.Device]]:
  """Return the devices of this process by what they hold."""
  owners: dict[Key, list[jax.Device]] = {}
  indices = sharding.addressable_devices_indices_map(shape)
  for device, index in indices.items():
    if index is not None:
      owners.setdefault(_key(index, shape), []).append(device)
  return owners


def _place(
  leaf: plan_lib.Leaf,
  checkpoint: Mapping[str, tensors_lib.LazyTensor],
  *,
  sharding: jax.sharding.Sharding,
  dtype: np.dtype,
  count: Callable[[int], None],
) -> jax.Array:
  """Make one array, each of its shards on its device before the next."""
  waiting = _owners(sharding, leaf.shape)
  made: dict[Key, jax.Array] = {}

  def shard(index: Index | None) -> jax.Array:
    # jax asks in the order of the sharding's map: once a device, or once in
    # all if every device holds the same.
    key = _key(index or (), leaf.shape)
    data: jax.Array | np.ndarray
    if key in made:
      data = made[key]
    else:
      data = _read(leaf, checkpoint, key, dtype=dtype, count=count)
    made[key] = jax.device_put(data, waiting[key].pop(0))
    return made[key].block_until_ready()

  return jax.make_array_from_callback(leaf.shape, sharding, shard, dtype=dtype)


def _read(
  leaf: plan_lib.Leaf,
  checkpoint: Mapping[str, tensors_lib.LazyTensor],
  key: Key,
  *,
  dtype: np.dtype,
  count: Callable[[int], None],
) -> np.ndarray:
  """Return the part `key` of a leaf, in an aligned buffer of its own."""
  result = _aligned(tuple(map(len, key)), dtype)
  layers = key[0] if leaf.stacked else (0,)
  inner = key[1:] if leaf.stacked else key
  window = tuple(slice(part.start, part.stop) for part in inner)
  for i, layer in enumerate(layers):
    tensor = checkpoint[leaf.sources[layer]].view()
    source = leaf.transform.to_ours(tensor, leaf.part_shape)[window]
    part = result[i] if leaf.stacked else result
    _copy(part, source, leaf.transform.tiles)
    count(part.nbytes)
  return result


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """Return an empty array that begins at a multiple of the alignment."""
  nbytes = math.prod(shape) * dtype.itemsize
  buffer = np.empty(nbytes + _ALIGNMENT, np.uint8)
  start = -buffer.ctypes.data % _ALIGNMENT
  return buffer[start : start + nbytes].view(dtype).reshape(shape)


def _copy(
  target: np.ndarray, source: np.ndarray, tiles: tuple[int, ...]
) -> None:
  """Copy block by block; a whole transpose would miss the cache throughout."""
  if target.dtype == source.dtype:  # plain words are copied faster
    word = np.dtype(f"u{target.itemsize}")
    target, source = target.view(word), source.view(word)
  for block in _blocks(target.shape, tiles):
    target[block] = source[block]


def _blocks(shape: tuple[int, ...], tiles: tuple[int, ...]) -> Iterator[Index]:
  """Yield windows of at most `tiles` that cover an array."""
  steps = tiles or (0,) * len(shape)
  cuts = [
    [slice(i, i + step) for i in range(0, size, step)]
    if step
    else [slice(None)]
    for size, step in zip(shape, steps, strict=True)
  ]
  yield from itertools.product(*cuts)
