"""Batches whose order is a function of seed and position alone.

Batch n holds elements n B ... (n + 1) B - 1 of one endless stream: the source
shuffled anew each epoch (grain). So the position of a run is one integer, the
same on any number of hosts: every host reads its own rows of the same global
batch.

Rows of different shapes come in buckets. Each has a stream of its own, batch n
is of one of them, and which one follows from n and the shares alone.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any, Protocol

import grain
import jax
import numpy as np

from paradiff.scenes import rules

Row = Mapping[str, np.ndarray]
_ENDLESS = 2**31  # no end that a run would see


class Source(Protocol):
  """Random access to rows, by any means."""

  def __len__(self) -> int:
    """Return the number of rows."""

  def __getitem__(self, index: Any, /) -> Row:
    """Return row `index` in [0, len): arrays of fixed shapes by name."""


# Sources whose rows have the same shapes, with the share of each.
Mixture = Sequence[tuple[Source, float]]


class ArraySource:
  """Rows of arrays in memory that share their leading axis."""

  def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
    """Wrap the arrays.

    Args:
      arrays: [M, ...] each, M at least 1.

    Raises:
      ValueError: if the arrays differ in length or are empty.
    """
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
      raise ValueError(
        f"arrays must have the same length of at least 1, got {lengths}"
      )
    self.arrays = dict(arrays)
    self._length = next(iter(lengths.values()))

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: Any, /) -> Row:
    return {name: array[index] for name, array in self.arrays.items()}


class ScenesSource:
  """The scenes world as a seeded, endless book of `size` examples.

  Example i is a function of (seed, i) alone, so a longer source begins with
  the examples of a shorter one.
  """

  def __init__(self, *, seed: int, size: int, split: str = "train") -> None:
    """Choose the examples; each is drawn when it is asked for."""
    if size < 1:
      raise ValueError(f"size must be at least 1, got {size}")
    if split not in rules.SPLITS:
      raise ValueError(f"split must be one of {rules.SPLITS}, got {split!r}")
    self._seed, self._size, self._split = seed, size, split

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: Any, /) -> rules.Example:
    """Return example `index` in [0, size)."""
    if not 0 <= index < self._size:
      raise IndexError(f"index must lie in [0, {self._size}), got {index}")
    rng = np.random.default_rng((self._seed, int(index)))
    return rules.sample(rng, split=self._split)


def host_rows(
  sharding: jax.sharding.Sharding, shape: tuple[int, ...]
) -> tuple[int, int]:
  """Return the half-open range of leading rows that this host must hold.

  Args:
    sharding: of the global array.
    shape: of the global array.

  Raises:
    ValueError: if this host's devices hold rows that are not one range.
  """
  spans = {
    index[0].indices(shape[0])[:2]
    for index in sharding.addressable_devices_indices_map(shape).values()
    if index is not None
  }
  ordered = sorted(spans)
  for (_, stop), (start, _) in itertools.pairwise(ordered):
    if stop < start:
      raise ValueError(
        f"a host must hold one range of rows, got {ordered} of {shape[0]}"
      )
  return ordered[0][0], max(stop for _, stop in ordered)


def _shares(mixture: Mixture) -> list[float]:
  """Return the shares of a mixture's sources."""
  shares = [share for _, share in mixture]
  if not shares or min(shares) <= 0:
    raise ValueError(f"shares of sources must be positive, got {shares}")
  return shares


def _stream(mixture: Mixture, seed: int) -> grain.MapDataset:
  """Return the endless stream: each source shuffled anew each epoch."""
  shares = _shares(mixture)
  streams = [
    grain.MapDataset.source(rows).seed(seed).shuffle().repeat()
    for rows, _ in mixture
  ]
  if len(streams) == 1:
    return streams[0]
  return grain.MapDataset.mix(streams, weights=shares)


def _numbered(bucket: int, number: int) -> tuple[int, int]:
  return bucket, int(number)


def _order(buckets: Sequence[Mixture]) -> grain.MapDataset:
  """Return, by batch, its bucket and its number among that bucket's."""
  numbers = [
    grain.MapDataset.range(_ENDLESS).map(functools.partial(_numbered, bucket))
    for bucket in range(len(buckets))
  ]
  if len(numbers) == 1:
    return numbers[0]
  shares = [sum(_shares(mixture)) for mixture in buckets]
  return grain.MapDataset.mix(numbers, weights=shares)


class _Reads:
  """This host's rows of each batch from one on, which other processes read."""

  def __init__(
    self,
    streams: Sequence[grain.MapDataset],
    order: grain.MapDataset,
    *,
    batch_size: int,
    rows: tuple[int, int],
    first: int = 0,
  ) -> None:
    self._streams, self._order = streams, order
    self._batch_size, self._rows, self._first = batch_size, rows, first

  def __len__(self) -> int:
    return _ENDLESS // self._batch_size

  def __getitem__(self, index: Any, /) -> dict[str, np.ndarray]:
    bucket, number = self._order[self._first + int(index)]
    first, (start, stop) = number * self._batch_size, self._rows
    rows = [self._streams[bucket][first + row] for row in range(start, stop)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


class Batches:
  """Endless iterator of global batches on the devices, one batch ahead."""

  def __init__(
    self,
    source: Source | Sequence[Mixture],
    *,
    batch_size: int,
    seed: int,
    mesh: jax.sharding.Mesh,
    axes: tuple[str, ...] = ("data", "fsdp"),
    position: int = 0,
    num_workers: int = 0,
  ) -> None:
    """Prepare the stream.

    Args:
      source: the rows; or buckets of rows, each a mixture of sources. Shares
        are relative, and hold within any stretch of a bucket's stream; a
        bucket has the shares of its sources together, in batches.
      batch_size: B, rows of a global batch; a multiple of the mesh's `axes`.
      seed: of the shuffles.
      mesh: where batches live.
      axes: mesh axes that split the rows.
      position: batches already taken.
      num_workers: processes that read; 0 to read in this one. The batches are
        the same. The sources must be such that other processes can have them.

    Raises:
      ValueError: if the batch cannot be split so, a share is not positive, or
        there are fewer than no workers.
    """
    if num_workers < 0:
      raise ValueError(f"num_workers must be at least 0, got {num_workers}")
    parts = int(np.prod([mesh.shape[axis] for axis in axes]))
    if batch_size < 1 or batch_size % parts:
      raise ValueError(
        f"batch_size must be a positive multiple of {parts}, the devices "
        f"along {axes}, got {batch_size}"
      )
    self._batch_size = batch_size
    spec = jax.sharding.PartitionSpec(axes)
    self.sharding = jax.sharding.NamedSharding(mesh, spec)
    buckets = source if isinstance(source, Sequence) else [[(source, 1.0)]]
    self._order = _order(buckets)
    self._reads = functools.partial(
      _Reads,
      [_stream(mixture, seed) for mixture in buckets],
      self._order,
      batch_size=batch_size,
      rows=host_rows(self.sharding, (batch_size,)),
    )
    self._num_workers = num_workers
    self._workers: grain.DatasetIterator | None = None
    self._reader = futures.ThreadPoolExecutor(1)
    self._ahead: futures.Future[dict[str, jax.Array]] | None = None
    self._position = position

  def read(self, position: int) -> dict[str, np.ndarray]:
    """Return this host's rows of batch `position`, on the host."""
    return self._reads()[position]

  def _next(self, position: int) -> dict[str, np.ndarray]:
    """Return what `read` does, of positions that follow each other."""
    if not self._num_workers:
      return self.read(position)
    if self._workers is None:
      batches = grain.MapDataset.source(self._reads(first=position))
      options = grain.MultiprocessingOptions(num_workers=self._num_workers)
      dataset = batches.to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
      )
      self._workers = iter(dataset.mp_prefetch(options))
    return next(self._workers)

  def _load(self, position: int) -> dict[str, jax.Array]:
    return {
      name: jax.make_array_from_process_local_data(
        self.sharding, array, (self._batch_size, *array.shape[1:])
      )
      for name, array in self._next(position).items()
    }

  def __iter__(self) -> "Batches":
    return self

  def __next__(self) -> dict[str, jax.Array]:
    """Return the next batch and begin to read the one after it."""
    if self._ahead is None:
      self._ahead = self._reader.submit(self._load, self._position)
    batch = self._ahead.result()
    self._position += 1
    self._ahead = self._reader.submit(self._load, self._position)
    return batch

  @property
  def bucket(self) -> int:
    """Number of the bucket of the batch that was handed out last, or first."""
    bucket, _ = self._order[max(self._position - 1, 0)]
    return int(bucket)

  def get_state(self) -> dict[str, int]:
    """Return the position: how many batches were handed out."""
    return {"position": self._position}

  def set_state(self, state: Mapping[str, int]) -> None:
    """Go to a position that `get_state` gave."""
    self._drop_reading()
    self._position, self._ahead = int(state["position"]), None

  def close(self) -> None:
    """Stop reading ahead, and the processes that read."""
    self._drop_reading()
    self._reader.shutdown(cancel_futures=True)

  def _drop_reading(self) -> None:
    """Wait for what is being read, and end the processes that read."""
    if self._ahead is not None:
      futures.wait([self._ahead])
    if self._workers is not None:
      self._workers.close()
      self._workers = None
