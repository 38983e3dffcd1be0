"""A stand-in for an object store: whole objects in memory, no appending.

Its paths begin with bucket://, so whatever goes past `etils.epath`, the builtin
`open` first of all, finds nothing there.
"""

import contextlib
import io
import os
import pathlib
import types
from collections.abc import Iterator

from etils import epath

PREFIX = "bucket://"
OBJECTS: dict[str, bytes] = {}


class _Object(io.BytesIO):
  """A file that becomes an object when it is closed."""

  def __init__(self, name: str) -> None:
    super().__init__()
    self._name = name

  def close(self) -> None:
    if not self.closed:
      OBJECTS[self._name] = self.getvalue()
    super().close()


@epath.register_path_cls(PREFIX)
class BucketPath(pathlib.PurePosixPath):
  """A path of the store; folders are there where objects lie below them."""

  def __new__(cls, *parts):
    first, *rest = (os.fspath(part) for part in parts)
    return super().__new__(cls, first.removeprefix(PREFIX), *rest)

  def __init__(self, *parts) -> None:
    with contextlib.suppress(TypeError):  # Python 3.12 builds paths here
      first, *rest = (os.fspath(part) for part in parts)
      name = first.removeprefix(PREFIX)
      super().__init__(name, *rest)  # type: ignore[call-arg]

  @property
  def key(self) -> str:
    return super().__str__()

  def __str__(self) -> str:
    return PREFIX + super().__str__()

  def __fspath__(self) -> str:
    return str(self)

  def absolute(self):
    return self

  def is_file(self) -> bool:
    return self.key in OBJECTS

  def is_dir(self) -> bool:
    return any(name.startswith(f"{self.key}/") for name in OBJECTS)

  def exists(self) -> bool:
    return self.is_file() or self.is_dir()

  def mkdir(self, mode=0o777, parents=False, exist_ok=False) -> None:
    """Do nothing: there are no folders."""

  def stat(self):
    return types.SimpleNamespace(length=len(self.read_bytes()))

  def read_bytes(self) -> bytes:
    if self.key not in OBJECTS:
      raise FileNotFoundError(str(self))
    return OBJECTS[self.key]

  def write_bytes(self, data: bytes) -> int:
    OBJECTS[self.key] = bytes(data)
    return len(data)

  def read_text(self, encoding=None) -> str:
    return self.read_bytes().decode()

  def write_text(self, data: str, encoding=None) -> int:
    return self.write_bytes(data.encode())

  def open(self, mode="r", **_):
    if "a" in mode or "+" in mode:
      raise io.UnsupportedOperation(f"objects cannot be appended to: {self}")
    file = _Object(self.key) if "w" in mode else io.BytesIO(self.read_bytes())
    return file if "b" in mode else io.TextIOWrapper(file)

  def unlink(self, missing_ok=False) -> None:
    if OBJECTS.pop(self.key, None) is None and not missing_ok:
      raise FileNotFoundError(str(self))

  def iterdir(self) -> Iterator["BucketPath"]:
    depth = len(self.key) + 1
    names = [n[depth:] for n in OBJECTS if n.startswith(f"{self.key}/")]
    for name in sorted({n.split("/")[0] for n in names}):
      yield self / name

  def glob(self, pattern: str) -> Iterator["BucketPath"]:
    return (path for path in self.iterdir() if path.match(pattern))

  def rename(self, target):
    OBJECTS[BucketPath(target).key] = OBJECTS.pop(self.key)
    return BucketPath(target)

  replace = rename

  def copy(self, dst, overwrite=False):
    target = epath.Path(dst)
    target.write_bytes(self.read_bytes())
    return target
