"""Records in files: JSON lines, JSON, Parquet, Arrow, by number.

`open_table` finds what a path holds. A table answers the record of a number as
a plain mapping and reads no more than it needs: lines are found by their
offsets, a Parquet file is read one group of rows at a time.
"""

import bisect
import dataclasses
import hashlib
import itertools
import json
import mmap
import os
import pathlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from paradiff import remote
from paradiff.data import records

HUB = "hf://datasets/"
SUFFIXES = (".jsonl", ".json", ".parquet", ".arrow")
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "state.json")
_SHARD = re.compile(r"[-_.]?\d{5}-of-\d{5}$")
_DIGEST_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
  """Records by number.

  Attributes:
    root: folder that their paths are relative to.
    length: how many there are.
    digest: changes where the files change.
    get: the record of a number in [0, length); raises `records.BadRecord` if
      it cannot be read. May be called from several threads.
  """

  root: epath.Path
  length: int
  digest: str
  get: Callable[[int], Mapping[str, Any]]


def open_table(source: epath.PathLike, *, split: str = "train") -> Table:
  """Open a file, a folder with files of one kind, or a dataset of the hub.

  Args:
    source: a .jsonl, .json, .parquet or .arrow file; a folder that holds
      such files, itself or in `data`; or `hf://datasets/owner/name[@revision]`,
      whose Parquet files are fetched.
    split: which files of a folder are meant where they have several names,
      apart from numbers such as `-00000-of-00002`.

  Raises:
    FileNotFoundError: if there is nothing, or it cannot be fetched.
    ValueError: if it is not plain which files are meant, or one is damaged.
  """
  path = epath.Path(_fetched(os.fspath(source)))
  if not path.exists():
    raise FileNotFoundError(f"source must exist, got {os.fspath(source)!r}")
  files, root = _files(path, split)
  kind = files[0].suffix
  open_kind: dict[str, Callable[[epath.Path], _Rows]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".parquet": _parquet,
    ".arrow": _arrow,
  }
  parts = [open_kind[kind](file) for file in files]
  ends = list(itertools.accumulate(part.length for part in parts))
  sha = hashlib.sha256()
  for file in files:
    sha.update(f"{file.name}:{file.stat().length}:".encode())
    sha.update(_edges(file))

  def get(index: int) -> Mapping[str, Any]:
    if not 0 <= index < ends[-1]:
      raise IndexError(f"index must lie in [0, {ends[-1]}), got {index}")
    part = bisect.bisect_right(ends, index)
    return parts[part].get(index - (ends[part] - parts[part].length))

  return Table(root, ends[-1], sha.hexdigest()[:16], get)


@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
  """The records of one file."""

  length: int
  get: Callable[[int], Mapping[str, Any]]


def _fetched(source: str) -> str:
  """Return the local folder of a dataset of the hub; other names as they are.

  Raises:
    FileNotFoundError: if it cannot be fetched.
    ValueError: if the name is malformed.
  """
  if not source.startswith("hf://"):
    return source
  name, _, revision = source.removeprefix(HUB).partition("@")
  if not source.startswith(HUB) or name.count("/") != 1:
    raise ValueError(f"source must read {HUB}owner/name, got {source}")
  import huggingface_hub

  try:
    return huggingface_hub.snapshot_download(
      name,
      repo_type="dataset",
      revision=revision or None,
      allow_patterns=["*.parquet"],
    )
  except Exception as error:  # of the network, of the hub, of the disk
    raise FileNotFoundError(
      f"{source} must be a dataset that can be fetched, got {error}"
    ) from error


def _files(
  path: epath.Path, split: str
) -> tuple[Sequence[epath.Path], epath.Path]:
  """Return the files of records in their order, and their folder."""
  if not path.is_dir():
    if path.suffix not in SUFFIXES:
      raise ValueError(f"source must end in one of {SUFFIXES}, got {path}")
    return [path], path.parent
  found: dict[tuple[str, str], list[epath.Path]] = {}
  folders = [folder for folder in (path, path / "data") if folder.is_dir()]
  for folder in folders:
    for file in sorted(folder.iterdir(), key=os.fspath):
      # Beside Arrow files lie JSON files that describe them.
      if file.suffix in SUFFIXES and file.name not in _DESCRIPTIONS:
        name = _SHARD.sub("", file.stem)
        found.setdefault((name, file.suffix), []).append(file)
  mine = [key for key in found if key[0] == split] or list(found)
  if len(mine) != 1:
    raise ValueError(
      f"a folder must hold record files of the name {split}, or of one name, "
      f"got {sorted(name + suffix for name, suffix in found)} in {path}; name "
      "one of them"
    )
  return found[mine[0]], path


def _edges(path: epath.Path) -> bytes:
  """Return the first and last bytes of a file."""
  with path.open("rb") as file:
    first = file.read(_DIGEST_BYTES)
    file.seek(max(0, path.stat().length - _DIGEST_BYTES))
    return first + file.read()


def _json_lines(path: epath.Path) -> _Rows:
  """Find the lines of a file; empty ones do not count."""
  data: Any = b""
  if remote.is_remote(path):
    data = path.read_bytes()
  elif path.stat().length:
    with pathlib.Path(path).open("rb") as file:
      data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  spans, start, length = [], 0, len(data)
  while start < length:
    end = data.find(b"\n", start)
    end = length if end < 0 else end
    if data[start:end].strip():
      spans.append((start, end))
    start = end + 1

  def get(index: int) -> Mapping[str, Any]:
    first, last = spans[index]
    return _object(data[first:last])

  return _Rows(len(spans), get)


def _object(data: bytes) -> Mapping[str, Any]:
  try:
    value = json.loads(data)
  except ValueError as error:
    raise records.BadRecord("a line must be JSON", str(error)) from error
  return _checked(value)


def _checked(value: Any) -> Mapping[str, Any]:
  if not isinstance(value, dict):
    raise records.BadRecord(
      "a record must be a JSON object", type(value).__name__
    )
  return value


def _json_list(path: epath.Path) -> _Rows:
  try:
    values = json.loads(path.read_bytes())
  except ValueError as error:
    raise ValueError(f"{path} must be JSON, got {error}") from error
  if not isinstance(values, list):
    raise ValueError(
      f"{path} must hold a list of records, got {type(values).__name__}"
    )
  return _Rows(len(values), lambda index: _checked(values[index]))


def _parquet(path: epath.Path) -> _Rows:
  """Open a Parquet file; the group of rows read last stays in memory."""
  import pyarrow
  from pyarrow import parquet

  try:
    file = parquet.ParquetFile(path.open("rb"))
  except (pyarrow.ArrowException, OSError) as error:
    raise ValueError(f"{path} must be a Parquet file, got {error}") from error
  sizes = [
    file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)
  ]
  ends = list(itertools.accumulate(sizes))
  lock, last = threading.Lock(), (-1, None)

  def get(index: int) -> Mapping[str, Any]:
    nonlocal last
    group = bisect.bisect_right(ends, index)
    with lock:
      if last[0] != group:
        try:
          last = (group, file.read_row_group(group))
        except (pyarrow.ArrowException, OSError) as error:
          raise records.BadRecord(
            "a group of rows must be readable", str(error)
          ) from error
      table: Any = last[1]
    return table.slice(index - (ends[group] - sizes[group]), 1).to_pylist()[0]

  return _Rows(ends[-1] if ends else 0, get)


def _arrow(path: epath.Path) -> _Rows:
  """Open an Arrow stream, as the `datasets` library saves it."""
  import pyarrow
  from pyarrow import ipc

  try:
    data: Any = (
      pyarrow.BufferReader(path.read_bytes())
      if remote.is_remote(path)
      else pyarrow.memory_map(os.fspath(path))
    )
    table = ipc.open_stream(data).read_all()
  except (pyarrow.ArrowException, OSError) as error:
    raise ValueError(f"{path} must be an Arrow stream, got {error}") from error
  return _Rows(
    table.num_rows, lambda index: table.slice(index, 1).to_pylist()[0]
  )
