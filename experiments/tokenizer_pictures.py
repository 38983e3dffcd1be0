"""Pictures of one's own to train an image tokenizer on, held in memory.

Files are found, cut to a square and scaled once. Which are held out follows
from their names alone, so it stays when others come or go.
"""

import concurrent.futures
import dataclasses
import functools
import glob
import hashlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from paradiff import metrics
from paradiff.data import crops

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_MAX_REASONS = 10  # how many broken files are told one by one


@dataclasses.dataclass(frozen=True)
class PicturesConfig:
  """Where the pictures are; exactly one of `folder` and `files`.

  Attributes:
    folder: every picture below it, by the names' endings.
    files: glob patterns, of which ** crosses folders.
    held_out_rate: in (0, 1), share of the pictures that are never trained on;
      at least one.

  Raises:
    ValueError: if both or neither are given, or the rate is out of range.
  """

  folder: str | None = None
  files: tuple[str, ...] = ()
  held_out_rate: float = 0.1

  def __post_init__(self) -> None:
    if bool(self.folder) == bool(self.files):
      raise ValueError(
        "data must have either a folder or files (glob patterns), got "
        f"{self.folder=} {self.files=}"
      )
    if not 0 < self.held_out_rate < 1:
      raise ValueError(
        f"held_out_rate must lie in (0, 1), got {self.held_out_rate}"
      )


@dataclasses.dataclass(frozen=True)
class Pictures:
  """What was found.

  Attributes:
    train: uint8[N, size, size, 3], by name.
    held_out: uint8[M, size, size, 3], in an order that is random but fixed.
    skipped: why a file was left out, by path.
  """

  train: np.ndarray
  held_out: np.ndarray
  skipped: Mapping[str, str]


class PicturesData:
  """Pictures in a new random order each time round.

  Attributes:
    identity: a hash of the pixels: a run may not go on with others.
  """

  def __init__(
    self, pictures: np.ndarray, *, seed: int, batch_size: int
  ) -> None:
    """Keep uint8[N, H, W, 3], N at least 1."""
    self._pictures = pictures
    self._seed = seed
    self._batch_size = batch_size
    digest = hashlib.sha256(np.ascontiguousarray(pictures).tobytes())
    self.identity: dict[str, Any] = {"pictures": digest.hexdigest()}
    self._order = functools.lru_cache(maxsize=2)(self._draw_order)

  def _draw_order(self, turn: int) -> np.ndarray:
    rng = np.random.default_rng([self._seed, 0, turn])
    return rng.permutation(len(self._pictures))

  def batch(self, done: int) -> np.ndarray:
    """Return uint8[B, H, W, 3] of the step after `done` steps."""
    first = done * self._batch_size
    places = range(first, first + self._batch_size)
    turns = [divmod(place, len(self._pictures)) for place in places]
    return self._pictures[[self._order(turn)[i] for turn, i in turns]]


def find(config: PicturesConfig) -> dict[str, str]:
  """Return the name of each picture file by its path, sorted.

  A name is relative to the folder, or to the part of a pattern without
  wildcards, so that a collection may move. Hidden files are left out.
  """
  found = dict(_matches(config))
  return {path: found[path] for path in sorted(found)}


def _matches(config: PicturesConfig) -> Iterator[tuple[str, str]]:
  patterns = config.files
  if config.folder:
    patterns = (os.path.join(glob.escape(config.folder), "**", "*"),)
  for pattern in patterns:
    root = config.folder or _fixed_part(pattern)
    for path in glob.iglob(os.path.expanduser(pattern), recursive=True):
      is_picture = path.lower().endswith(SUFFIXES) or not config.folder
      if os.path.isfile(path) and is_picture:
        name = os.path.relpath(path, os.path.expanduser(root))
        yield path, pathlib.PurePath(name).as_posix()


def _fixed_part(pattern: str) -> str:
  """Return the folder above the first wildcard of a pattern."""
  parts = pathlib.PurePath(pattern).parts
  fixed = [not glob.has_magic(part) for part in parts[:-1]]
  num = fixed.index(False) if False in fixed else len(fixed)
  return os.path.join(*parts[:num]) if num else "."


def _place(name: str) -> float:
  """Return a number in [0, 1) that follows from a name."""
  digest = hashlib.sha256(name.encode()).digest()
  return int.from_bytes(digest[:6], "big") / 2**48


def _load_one(path: str, size: int) -> np.ndarray | str:
  """Return uint8[size, size, 3], or why there is no picture."""
  try:
    return crops.load(path, (size, size))
  except (ValueError, OSError) as error:
    return str(error)


def load(
  config: PicturesConfig, *, size: int, report: Callable[[str], object]
) -> Pictures:
  """Read every picture, as the largest centred square, scaled to `size`.

  Args:
    config: where they are.
    size: side of the result.
    report: takes lines about files that are no pictures.

  Returns:
    The pictures, those held out apart.

  Raises:
    ValueError: if fewer than two can be read.
  """
  names = find(config)
  pictures = np.empty((len(names), size, size, 3), np.uint8)
  kept: list[str] = []
  skipped: dict[str, str] = {}
  with concurrent.futures.ThreadPoolExecutor() as pool:
    progress = metrics.Progress(len(names), stream=sys.stderr, what="picture")
    results = pool.map(functools.partial(_load_one, size=size), names)
    for path, result in zip(names, results, strict=True):
      if isinstance(result, str):
        skipped[path] = result
      else:
        pictures[len(kept)] = result
        kept.append(path)
      progress.update(len(kept) + len(skipped))
    progress.close()
  if skipped:
    report(f"left out {len(skipped)} of {len(names)} files:\n")
    for path, reason in list(skipped.items())[:_MAX_REASONS]:
      report(f"  {path}: {reason}\n")
    if len(skipped) > _MAX_REASONS:
      report(f"  and {len(skipped) - _MAX_REASONS} more\n")
  if len(kept) < 2:
    raise ValueError(
      "there must be at least two pictures, one of them to hold out, got "
      f"{len(kept)} of {len(names)} files for {config.folder=} "
      f"{config.files=}"
    )
  places = np.array([_place(names[path]) for path in kept])
  order = np.argsort(places, kind="stable")
  num_held_out = int((places < config.held_out_rate).sum())
  num_held_out = min(max(1, num_held_out), len(kept) - 1)
  held_out = np.zeros(len(kept), bool)
  held_out[order[:num_held_out]] = True
  return Pictures(
    train=pictures[: len(kept)][~held_out],
    held_out=pictures[order[:num_held_out]],
    skipped=skipped,
  )
