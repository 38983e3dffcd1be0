"""Parameter trees to safetensors files, one tensor in memory at a time.

With the source's headers the files come out byte for byte as they were; without
them, shards and index are laid out the way transformers does it.
"""

import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from paradiff import checkpoints
from paradiff import pretrained
from paradiff.convert import plan as plan_lib
from paradiff.convert import rules as rules_lib
from paradiff.convert import tensors as tensors_lib

MAX_SHARD_BYTES = 5_000_000_000
_CODES = {np.dtype(dtype): code for code, dtype in pretrained.DTYPES.items()}
Read = Callable[[str], np.ndarray]
Entry = tuple[str, tuple[int, ...]]  # dtype in the format's words, and shape
Entries = Mapping[str, Entry]


class Reader:
  """The published tensors of a parameter tree, made when asked for."""

  def __init__(
    self,
    rules: Iterable[rules_lib.Rule],
    params: Any,
    *,
    carried: Mapping[str, np.ndarray] | None = None,
    on_tensor: Callable[[int], None] | None = None,
  ) -> None:
    """Find out where each published tensor is.

    Args:
      rules: the rules.
      params: tree of arrays, of numpy or of jax on this process's devices.
      carried: the tensors that the rules ignore.
      on_tensor: called with the bytes of each parameter that was asked for.

    Raises:
      plan.Mismatch: if the rules do not cover the parameters.
      ValueError: if a parameter is spread over other processes.
    """
    self._params = checkpoints.flatten(params)
    for name, leaf in self._params.items():
      if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        raise ValueError(
          f"{name} must be on this process's devices, got {leaf.sharding}"
        )
    self._carried = dict(carried or {})
    self._on_tensor = on_tensor
    plan = plan_lib.expected(tuple(rules), params)
    self._places = {
      source: (leaf, layer)
      for leaf in plan.leaves
      for layer, source in enumerate(leaf.sources)
    }

  def entries(self) -> dict[str, Entry]:
    """Return dtype and shape of every tensor, by name."""
    found = {
      name: (
        _CODES[np.dtype(self._params[leaf.target].dtype)],
        leaf.published_shape,
      )
      for name, (leaf, _) in self._places.items()
    }
    for name, array in self._carried.items():
      found[name] = (_CODES[array.dtype], array.shape)
    return found

  def __call__(self, name: str) -> np.ndarray:
    """Return one published tensor, contiguous.

    Raises:
      ValueError: if no parameter makes it.
    """
    if name in self._carried:
      return np.ascontiguousarray(self._carried[name])
    if name not in self._places:
      raise ValueError(f"a tensor must come of a parameter, got {name}")
    leaf, layer = self._places[name]
    array = self._params[leaf.target]
    if leaf.stacked:  # on the devices: only this layer comes to the host
      array = array[layer]
    array = leaf.transform.to_published(np.asarray(jax.device_get(array)))
    if self._on_tensor is not None:
      self._on_tensor(array.nbytes)
    return array


def write_file(path: pathlib.Path, header: bytes, read: Read) -> None:
  """Write one file with exactly this header.

  Raises:
    ValueError: if a tensor is of another dtype or shape than the header says.
  """
  tensors = tensors_lib.parse_header(header, path)
  with path.open("wb") as file:
    file.write(len(header).to_bytes(8, "little") + header)
    for name, tensor in tensors.items():
      array = read(name)
      if array.dtype != tensor.numpy_dtype or array.shape != tensor.shape:
        raise ValueError(
          f"{name} must be {tensor.dtype} of {tensor.shape} as in its source, "
          f"got {array.dtype} of {array.shape}"
        )
      file.write(array.reshape(-1).view(np.uint8).data)


def header_of(entries: Entries) -> bytes:
  """Return the header of a file with these tensors, in this order."""
  fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  end = 0
  for name, (dtype, shape) in entries.items():
    start, end = end, end + nbytes((dtype, shape))
    fields[name] = {
      "dtype": dtype,
      "shape": list(shape),
      "data_offsets": [start, end],
    }
  text = json.dumps(fields, separators=(",", ":")).encode()
  return text + b" " * (-len(text) % 8)  # the data begin aligned


def write_standard(
  folder: pathlib.Path,
  entries: Entries,
  read: Read,
  *,
  stem: str = "model",
  max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
  """Write tensors as transformers does: shards and an index, or one file.

  Args:
    folder: an existing folder.
    entries: dtype and shape of every tensor, by name.
    read: gives a tensor.
    stem: first part of the files' names.
    max_shard_bytes: no file has more, unless it is of a single tensor.
  """
  shards: list[dict[str, Entry]] = [{}]
  used = 0
  for name in sorted(entries):
    size = nbytes(entries[name])
    if shards[-1] and used + size > max_shard_bytes:
      shards.append({})
      used = 0
    shards[-1][name] = entries[name]
    used += size
  write_shards(folder, shards, read, stem=stem)


def write_shards(
  folder: pathlib.Path, shards: Sequence[Entries], read: Read, *, stem: str
) -> None:
  """Write one file for each of `shards` and their index; one needs none."""
  if len(shards) == 1:
    header = header_of(shards[0])
    write_file(folder / f"{stem}.safetensors", header, read)
    return
  places: dict[str, str] = {}
  for i, shard in enumerate(shards, start=1):
    file_name = f"{stem}-{i:05}-of-{len(shards):05}.safetensors"
    write_file(folder / file_name, header_of(shard), read)
    places |= dict.fromkeys(shard, file_name)
  total = sum(nbytes(entry) for shard in shards for entry in shard.values())
  index = {"metadata": {"total_size": total}, "weight_map": places}
  (folder / f"{stem}.safetensors.index.json").write_text(to_text(index))


def to_text(data: Any) -> str:
  """Return JSON text as the Hugging Face libraries write it."""
  return json.dumps(data, indent=2, sort_keys=True) + "\n"


def nbytes(entry: Entry) -> int:
  """Return the bytes of a tensor of this dtype and shape."""
  dtype, shape = entry
  return math.prod(shape) * np.dtype(pretrained.DTYPES[dtype]).itemsize
