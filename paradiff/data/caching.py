"""Arrays kept in files whose name is a digest of all they depend on.

So a file is either right or absent.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from paradiff.data import images

BUILD_FILE = "build.json"


def digest(*parts: Any) -> str:
  """Return 16 hexadecimal digits that depend on every part.

  Args:
    *parts: JSON data, bytes, arrays, or mappings of those.
  """
  sha = hashlib.sha256()

  def feed(part: Any) -> None:
    if isinstance(part, Mapping):
      for name in sorted(part):
        feed(name)
        feed(part[name])
    elif isinstance(part, bytes):
      sha.update(b"b%d:" % len(part) + part)
    elif hasattr(part, "dtype"):
      array = np.ascontiguousarray(part)
      feed([str(array.dtype), list(array.shape)])
      sha.update(array.tobytes())
    else:
      sha.update(json.dumps(part, sort_keys=True).encode() + b"\n")

  for part in parts:
    feed(part)
  return sha.hexdigest()[:16]


def cached(
  folder: epath.PathLike, key: str, make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
  """Return `make()`'s arrays, from `folder/key.npz` where that exists.

  Of several processes the first makes the file and the others wait for it;
  those that do not see its folder make their own. All must call it.

  Args:
    folder: where the file lies, created if need be.
    key: a `digest` of all that the arrays depend on.
    make: computes them; the file is written whole or not at all.

  Raises:
    ValueError: if the file is damaged, naming it.
  """
  path = epath.Path(folder) / f"{key}.npz"
  if jax.process_count() > 1 and jax.process_index() > 0:
    multihost_utils.sync_global_devices(f"made {key}")
  try:
    return _read_or_make(path, make)
  finally:
    if jax.process_count() > 1 and jax.process_index() == 0:
      multihost_utils.sync_global_devices(f"made {key}")


def _read_or_make(
  path: epath.Path, make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
  if path.exists():
    try:
      with np.load(io.BytesIO(path.read_bytes())) as arrays:
        return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
      raise ValueError(
        f"{path} must be a complete npz file; delete it to have it made anew, "
        f"got {error}"
      ) from error
  made = make()
  buffer = io.BytesIO()
  np.savez(buffer, **cast(Any, made))
  images.write_atomically(path, buffer.getvalue())
  return made


def claim(folder: epath.Path, identity: Mapping[str, Any]) -> None:
  """Make a folder that of a build, before the build writes into it.

  Args:
    folder: empty, or of the same build.
    identity: JSON data; all that the build's files depend on.

  Raises:
    ValueError: if it holds something else.
  """
  text = json.dumps(identity, indent=2) + "\n"
  path = folder / BUILD_FILE
  if path.exists():
    if path.read_text() != text:
      raise ValueError(
        f"{folder} must be empty or of the same build, got one of "
        f"{path.read_text()}instead of {text}"
      )
    return
  if folder.exists() and any(folder.iterdir()):
    found = sorted(child.name for child in folder.iterdir())
    raise ValueError(f"{folder} must be empty, got {found[:5]} in it")
  images.write_atomically(path, text.encode())
