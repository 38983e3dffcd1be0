"""Safetensors read lazily: headers first, bytes when somebody asks for them.

A file is 8 bytes with the header's length, the header (JSON: name to dtype,
shape and byte range) and the tensors without gaps. `Checkpoint.open` reads the
headers of a folder and checks them against the files' real sizes, so a
truncated file is known before any tensor is read. Pickle files are refused.
"""

import collections
import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from paradiff import pretrained

# The names under which Hugging Face libraries save, in this order.
STEMS = ("model", "diffusion_pytorch_model")
PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".pickle")
_PICKLE_REASON = (
  "reading a pickle file runs whatever code is in it, so only safetensors are "
  "read; resave the weights as safetensors where you trust the file"
)
_MAX_HEADER = 100_000_000  # bytes, the format's own limit
_SPAN = "data_offsets"
_ENTRY = {"dtype", "shape", _SPAN}


@dataclasses.dataclass(frozen=True)
class LazyTensor:
  """One tensor of a file, not yet read.

  Attributes:
    name: its name in the file.
    path: the file.
    dtype: the format's word, such as "BF16".
    shape: its shape.
    start: its first byte, counted from the beginning of the file.
  """

  name: str
  path: pathlib.Path
  dtype: str
  shape: tuple[int, ...]
  start: int

  @property
  def nbytes(self) -> int:
    """Bytes of the tensor."""
    return math.prod(self.shape) * self.numpy_dtype.itemsize

  @property
  def numpy_dtype(self) -> np.dtype:
    """The dtype of `view`."""
    return np.dtype(pretrained.DTYPES[self.dtype])

  def view(self) -> np.ndarray:
    """Map the tensor: a read-only array whose pages belong to the file."""
    if not self.nbytes:
      return np.empty(self.shape, self.numpy_dtype)
    mapped = np.memmap(
      self.path, np.uint8, "r", offset=self.start, shape=(self.nbytes,)
    )
    return np.asarray(mapped).view(self.numpy_dtype).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class File:
  """One safetensors file.

  Attributes:
    path: the file.
    header: its exact bytes, padding included.
    tensors: the tensors by name, in the order of their bytes.
  """

  path: pathlib.Path
  header: bytes
  tensors: dict[str, LazyTensor]


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint(Mapping[str, LazyTensor]):
  """The tensors of a folder by name.

  Attributes:
    folder: the folder.
    files: its safetensors files, by name.
  """

  folder: pathlib.Path
  files: dict[str, File]

  @classmethod
  def open(cls, folder: str | os.PathLike[str]) -> "Checkpoint":
    """Read the headers of a local folder, and no tensor.

    Args:
      folder: with `model.safetensors`, or `model.safetensors.index.json` and
        the files that it names; or the same with `diffusion_pytorch_model`.

    Raises:
      FileNotFoundError: if the folder or a file of it is missing.
      ValueError: if a file is damaged, a pickle, or outside the folder.
    """
    root = local_folder(folder)
    found = [
      path
      for stem in STEMS
      for path in (
        root / f"{stem}.safetensors.index.json",
        root / f"{stem}.safetensors",
      )
      if path.is_file()
    ]
    if not found:
      raise _nothing_found(root)
    if len(found) > 1:
      raise ValueError(
        f"{root} must hold one checkpoint, got {[p.name for p in found]}"
      )
    if found[0].suffix == ".safetensors":
      file = read_file(found[0])
      return cls(root, {file.path.name: file})
    return cls(root, _read_index(found[0]))

  def __getitem__(self, name: str) -> LazyTensor:
    for file in self.files.values():
      if name in file.tensors:
        return file.tensors[name]
    raise KeyError(name)

  def __iter__(self) -> Iterator[str]:
    for file in self.files.values():
      yield from file.tensors

  def __len__(self) -> int:
    return sum(len(file.tensors) for file in self.files.values())


def local_folder(folder: str | os.PathLike[str]) -> pathlib.Path:
  """Return the path of an existing local folder.

  Raises:
    FileNotFoundError: if there is no such folder.
    ValueError: if it is remote or a file.
  """
  text = os.fspath(folder)
  if "://" in text:
    raise ValueError(
      "a checkpoint must be a local folder, since its files are mapped into "
      f"memory; copy it here first, got {text}"
    )
  root = pathlib.Path(text)
  if root.suffix in PICKLES and root.is_file():
    raise ValueError(f"{root} must not be a pickle: {_PICKLE_REASON}")
  if not root.exists():
    raise FileNotFoundError(f"a checkpoint must be a folder, got no {root}")
  if not root.is_dir():
    raise ValueError(f"a checkpoint must be a folder, got the file {root}")
  return root


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Read a file that holds a JSON object, or raise naming it."""
  if not path.is_file():
    raise FileNotFoundError(f"{path} must exist, got no such file")
  return _object(path.read_bytes(), what=str(path))


def read_file(path: pathlib.Path) -> File:
  """Read and check the header of one safetensors file.

  Raises:
    ValueError: naming the file, if it is no complete safetensors file.
  """
  size = path.stat().st_size
  with path.open("rb") as file:
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= _MAX_HEADER or length + 8 > size:
      raise ValueError(
        f"{path} must begin with the length of its header, got {size} bytes "
        f"that begin with {start.hex()!r}"
      )
    header = file.read(length)
  tensors = parse_header(header, path)
  stop = max(
    [8 + length, *(tensor.start + tensor.nbytes for tensor in tensors.values())]
  )
  if stop != size:
    state = "truncated" if size < stop else "too long"
    raise ValueError(
      f"{path} must have {stop} bytes by its header, got {size}: it is {state}"
    )
  return File(path, header, tensors)


def parse_header(header: bytes, path: pathlib.Path) -> dict[str, LazyTensor]:
  """Return the tensors that a header describes, in the order of their bytes.

  Raises:
    ValueError: naming the file, if the header contradicts itself.
  """
  entries = _object(header, what=f"the header of {path}")
  entries.pop("__metadata__", None)
  spans = []
  for name, entry in entries.items():
    if not isinstance(entry, dict) or set(entry) != _ENTRY:
      raise ValueError(f"{path}: {name} must have {_ENTRY}, got {entry}")
    dtype, shape, span = (entry[key] for key in ("dtype", "shape", _SPAN))
    if dtype not in pretrained.DTYPES:
      raise ValueError(
        f"{path}: {name} must be of a dtype in {list(pretrained.DTYPES)}, got "
        f"{dtype}"
      )
    if not _are_sizes(shape) or not _are_sizes(span) or len(span) != 2:
      raise ValueError(f"{path}: {name} must have sizes >= 0, got {entry}")
    first, last = span
    tensor = LazyTensor(
      name, path, dtype, tuple(shape), 8 + len(header) + first
    )
    if last - first != tensor.nbytes:
      raise ValueError(
        f"{path}: {name} must have {tensor.nbytes} bytes, got {entry}"
      )
    spans.append((first, last, tensor))
  spans.sort(key=lambda span: span[:2])
  end = 0
  for first, last, tensor in spans:
    if first != end:
      raise ValueError(
        f"{path}: {tensor.name} must begin where the tensor before it ends, at "
        f"{end}, got {first}"
      )
    end = last
  return {tensor.name: tensor for _, _, tensor in spans}


def _are_sizes(values: Any) -> bool:
  return isinstance(values, list) and all(
    type(value) is int and value >= 0 for value in values
  )


def _object(data: bytes, *, what: str) -> dict[str, Any]:
  """Parse a JSON object without repeated keys."""

  def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = collections.Counter(name for name, _ in pairs)
    if len(counts) != len(pairs):
      twice = sorted(name for name, count in counts.items() if count > 1)
      raise ValueError(f"repeated keys {twice}")
    return dict(pairs)

  try:
    value = json.loads(data, object_pairs_hook=unique)
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{what} must be JSON, got {error}") from error
  if not isinstance(value, dict):
    raise ValueError(
      f"{what} must be a JSON object, got {type(value).__name__}"
    )
  return value


def _read_index(path: pathlib.Path) -> dict[str, File]:
  """Read every file that an index names and check it against the index."""
  places = read_json(path).get("weight_map")
  if not isinstance(places, dict) or not places:
    raise ValueError(f"{path} must have a weight_map, got {places!r}")
  names = list(dict.fromkeys(places.values()))
  for name in names:
    check_file_name(name, path)
  missing = [name for name in names if not (path.parent / name).is_file()]
  if missing:
    raise FileNotFoundError(
      f"{path.parent} must hold the {len(names)} files that {path.name} names, "
      f"got none of the name {', '.join(missing)}"
    )
  files = {name: read_file(path.parent / name) for name in names}
  for name, file in files.items():
    promised = {tensor for tensor, place in places.items() if place == name}
    lacking = sorted(promised - set(file.tensors))
    surplus = sorted(set(file.tensors) - promised)
    if lacking or surplus:
      raise ValueError(
        f"{file.path} must hold the tensors that {path.name} names, got it "
        f"without {lacking} and with {surplus} besides"
      )
  return files


def check_file_name(name: Any, index: pathlib.Path) -> None:
  """Refuse what is not the plain name of a safetensors file."""
  if isinstance(name, str) and pathlib.PurePath(name).suffix in PICKLES:
    raise ValueError(
      f"{index} must not name pickles, got {name}: {_PICKLE_REASON}"
    )
  if not isinstance(name, str) or not re.fullmatch(
    r"(?!\.)[\w.=+-]+\.safetensors", name
  ):
    raise ValueError(
      f"{index} must name plain .safetensors files of its own folder, got "
      f"{name!r}"
    )


def _nothing_found(root: pathlib.Path) -> Exception:
  """Return the error for a folder without a checkpoint."""
  names = sorted(path.name for path in root.iterdir())
  pickles = [name for name in names if pathlib.Path(name).suffix in PICKLES]
  if pickles:
    return ValueError(
      f"{root} must hold safetensors, got the pickles {', '.join(pickles)}: "
      f"{_PICKLE_REASON}"
    )
  wanted = [f"{stem}.safetensors" for stem in STEMS]
  return FileNotFoundError(
    f"{root} must hold {' or '.join(wanted)}, or an .index.json of one of "
    f"them, got {names}"
  )
