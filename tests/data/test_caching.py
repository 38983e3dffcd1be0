"""Laws of the files that keep arrays under a digest."""

import numpy as np
import pytest

from paradiff.data import caching


def test_rows_are_made_once(tmp_path):
  made = []

  def make():
    made.append(1)
    return {"a": np.arange(5)}

  for _ in range(3):
    got = caching.cached(tmp_path / "cache", "key", make)
    np.testing.assert_array_equal(got["a"], np.arange(5))
  assert len(made) == 1
  caching.cached(tmp_path / "cache", "other", make)
  assert len(made) == 2
  names = {p.name for p in (tmp_path / "cache").iterdir()}
  assert names == {"key.npz", "other.npz"}


def test_a_damaged_file_is_named(tmp_path):
  make = lambda: {"a": np.arange(5)}  # noqa: E731
  caching.cached(tmp_path, "key", make)
  path = tmp_path / "key.npz"
  path.write_bytes(path.read_bytes()[:50])
  with pytest.raises(ValueError, match=r"key\.npz must be a complete"):
    caching.cached(tmp_path, "key", make)


def test_digest_depends_on_every_part():
  weights = {"w": np.arange(4.0)}
  base = caching.digest({"seed": 1}, weights, b"x")
  assert base == caching.digest({"seed": 1}, weights, b"x")
  assert len(base) == 16
  others = {
    caching.digest({"seed": 2}, weights, b"x"),
    caching.digest({"seed": 1}, {"w": np.arange(4.0) + 1}, b"x"),
    caching.digest({"seed": 1}, {"v": np.arange(4.0)}, b"x"),
    caching.digest({"seed": 1}, {"w": np.arange(4)}, b"x"),
    caching.digest({"seed": 1}, weights, b"y"),
  }
  assert base not in others
  assert len(others) == 5
