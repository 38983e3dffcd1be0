"""Paths of object stores, which look like local ones and are not."""

import os

from etils import epath


def is_remote(path: epath.PathLike) -> bool:
  """Return whether a path is of an object store, which cannot append."""
  return "://" in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
  """Return a path as Orbax takes it: not relative, remote as it is.

  `absolute` itself puts the local folder before "gs://".
  """
  return epath.Path(path) if is_remote(path) else epath.Path(path).absolute()
