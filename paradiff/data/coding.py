"""Records to shards of coded examples, in parts that are done or not begun.

A shard is a fixed range of records; its report is written after it, and a
shard with a report is never done again. So a job goes on where it was stopped,
several processes share it, and a record that cannot be used neither stops it
nor takes another's place.
"""

import collections
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, TextIO

import numpy as np
from etils import epath

from paradiff import checkpoints
from paradiff import metrics
from paradiff.data import coded as coded_lib
from paradiff.data import crops
from paradiff.data import encoding
from paradiff.data import images
from paradiff.data import imported
from paradiff.data import records
from paradiff.data import tables

FITS = ("square", "near", "squash")
_REPORTS = "reports"
_IDENTITY = "started.json"
SKIPPED = "skipped.jsonl"
_NUM_SHOWN = 3  # skipped records that the summary names, of each kind


@dataclasses.dataclass(frozen=True)
class Options:
  """What the codes depend on.

  Attributes:
    picture_size: side in pixels of the square whose area pictures get.
    fit: "square" cuts the centre; "near" cuts the nearest of the sizes of
      about that area, as MMaDA-Parallel-A; "squash" keeps every part and loses
      the aspect, as MMaDA-Parallel-M.
    random_crop: cut at a random place instead of the centre, the same for
      both pictures of a record.
    fields: names of parts of a record, where the usual ones do not hold.
    split: what the dataset calls these examples.
    shard_size: records of a shard.
    code_offset: token id of code 0 in records of the published pre-tokenizer.
    seed: of the random places.

  Raises:
    ValueError: if something is out of its range.
  """

  picture_size: int
  fit: str = "square"
  random_crop: bool = False
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
  split: str = "train"
  shard_size: int = 512
  code_offset: int = 126_356
  seed: int = 0

  def __post_init__(self) -> None:
    if self.fit not in FITS:
      raise ValueError(f"fit must be one of {FITS}, got {self.fit!r}")
    if self.random_crop and self.fit == "squash":
      raise ValueError("random_crop needs a fit that crops, got 'squash'")
    if self.shard_size < 1 or self.picture_size < 1:
      raise ValueError(
        "shard_size and picture_size must be positive, got "
        f"{self.shard_size} and {self.picture_size}"
      )
    records.check_fields(self.fields)

  @property
  def sizes(self) -> tuple[crops.Size, ...]:
    """The sizes that pictures are cut to."""
    if self.fit == "near":
      return crops.sizes(self.picture_size)
    return ((self.picture_size, self.picture_size),)


@dataclasses.dataclass(frozen=True, eq=False)
class Draft:
  """A record on its way: pictures uint8[H, W, 3] yet to be encoded."""

  words: tuple[str, str, str]  # id, instruction, reasoning
  source: np.ndarray | None
  target: np.ndarray


Row = Draft | coded_lib.Coded


def load(
  table: tables.Table, options: Options, codebook_size: int, index: int
) -> Row:
  """Read one record and cut its pictures.

  Raises:
    records.BadRecord: if it cannot be used.
  """
  raw = table.get(index)
  if imported.is_published(raw):
    return imported.read(
      raw,
      root=table.root,
      code_offset=options.code_offset,
      codebook_size=codebook_size,
    )
  record = records.read(raw, root=table.root, fields=options.fields)
  if options.fit == "squash":
    size = options.sizes[0]
    source = record.source and crops.squash(record.source, size)
    target = crops.squash(record.target, size)
  else:
    rng = np.random.default_rng((options.seed, index))
    offset = tuple(rng.random(2)) if options.random_crop else None
    source, target = records.crop(record, options.sizes, offset=offset)
  return Draft(
    (record.id, record.instruction, record.reasoning),
    None if source is None else np.asarray(source, np.uint8),
    np.asarray(target, np.uint8),
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
  """A folder to fill.

  Attributes:
    out: the folder.
    table: the records.
    options: what the codes depend on.
    encode: pictures to codes.
    codebook_size: number of codes.
    identity: JSON data; all that the folder's content depends on.
    batch_size: pictures that are encoded at once.
    num_threads: that read and cut pictures.
  """

  out: epath.Path
  table: tables.Table
  options: Options
  encode: encoding.Encode
  codebook_size: int
  identity: Mapping[str, Any]
  batch_size: int = 64
  num_threads: int = 4

  @property
  def num_shards(self) -> int:
    """Shards of all records, whether they can be used or not."""
    return -(-self.table.length // self.options.shard_size)

  def span(self, shard: int) -> range:
    """Return the numbers of a shard's records."""
    size = self.options.shard_size
    return range(shard * size, min((shard + 1) * size, self.table.length))

  def report_path(self, shard: int) -> epath.Path:
    """Return the file that tells that a shard is done."""
    return self.out / _REPORTS / f"{shard:05d}.json"

  def reports(self) -> list[dict[str, Any]] | None:
    """Return what each shard told; None while one is not done."""
    paths = [self.report_path(shard) for shard in range(self.num_shards)]
    if not all(path.exists() for path in paths):
      return None
    return [json.loads(path.read_text()) for path in paths]


def begin(job: Job) -> None:
  """Claim the folder, or check that it is of the same job.

  Raises:
    ValueError: if there are no records, or the folder is of another job.
  """
  if not job.table.length:
    raise ValueError("source must have records, got none")
  path = job.out / _IDENTITY
  if not path.exists():
    if job.out.exists() and any(job.out.iterdir()):
      raise ValueError(
        f"out must be a new folder or one that this command began, got "
        f"{job.out} with other files"
      )
    text = json.dumps(job.identity, indent=2) + "\n"
    images.write_atomically(path, text.encode())
    return
  lines = checkpoints.differences(
    json.loads(json.dumps(job.identity)), json.loads(path.read_text())
  )
  if lines:
    raise ValueError(
      f"{job.out} must be of the same records and options, got\n"
      + "\n".join(lines[:8])
    )


def run(
  job: Job, *, worker: int = 0, num_workers: int = 1, stream: TextIO
) -> list[dict[str, Any]] | None:
  """Fill this worker's shards; the last worker to end completes the folder.

  Args:
    job: what to do.
    worker: in [0, num_workers): it does every num_workers-th shard.
    num_workers: that share the job, in as many processes.
    stream: where progress is shown.

  Returns:
    What each shard told, or None while other workers are at theirs.

  Raises:
    ValueError: if no record could be used, the folder is of another job, or
      the worker's number is wrong.
  """
  if not 0 <= worker < num_workers:
    raise ValueError(
      f"worker must lie in [0, num_workers), got {worker} of {num_workers}"
    )
  begin(job)
  mine = range(worker, job.num_shards, num_workers)
  left = [shard for shard in mine if not job.report_path(shard).exists()]
  total = sum(len(job.span(shard)) for shard in mine)
  done = total - sum(len(job.span(shard)) for shard in left)
  progress = metrics.Progress(
    total, stream=stream, start_step=done, what="record"
  )
  with futures.ThreadPoolExecutor(job.num_threads) as pool:
    for shard in left:
      for done in _fill(job, shard, pool, done=done):  # noqa: B020
        progress.update(done)
  progress.close()
  reports = job.reports()
  if reports is not None:
    complete(job, reports)
  return reports


def _fill(
  job: Job, shard: int, pool: futures.Executor, *, done: int
) -> Iterator[int]:
  """Write one shard and then its report; yield how many records are done."""
  read = functools.partial(load, job.table, job.options, job.codebook_size)
  batcher = encoding.Batcher(job.encode, batch_size=job.batch_size)
  # Words wait for their codes; pictures are let go as they are encoded.
  rows: dict[int, coded_lib.Coded | tuple[str, str, str]] = {}
  skipped = []
  for index, found in _ahead(pool, read, job.span(shard), 2 * job.batch_size):
    if isinstance(found, records.BadRecord):
      skipped.append({"index": index, "kind": found.kind, "reason": str(found)})
    elif isinstance(found, Draft):
      rows[index] = found.words
      batcher.add((index, "target"), found.target)
      if found.source is not None:
        batcher.add((index, "source"), found.source)
    else:
      rows[index] = found
    done += 1
    yield done
  codes = batcher.take()
  num_bytes = coded_lib.write_shard(
    coded_lib.shard_path(
      job.out, job.options.split, shard=shard, num_shards=job.num_shards
    ),
    (
      coded_lib.Coded(
        *row,
        source=codes.get((index, "source")),
        target=codes[index, "target"],
      )
      if isinstance(row, tuple)
      else row
      for index, row in rows.items()
    ),
  )
  report = dict(num_rows=len(rows), num_bytes=num_bytes, skipped=skipped)
  images.write_atomically(job.report_path(shard), json.dumps(report).encode())


def _ahead(
  pool: futures.Executor,
  read: Callable[[int], Row],
  indices: Sequence[int],
  num_ahead: int,
) -> Iterator[tuple[int, Row | records.BadRecord]]:
  """Yield what `read` gives, in order, some records read in advance."""

  def safe(index: int) -> Row | records.BadRecord:
    try:
      return read(index)
    except records.BadRecord as error:
      return error

  waiting: collections.deque[tuple[int, futures.Future[Any]]]
  waiting = collections.deque()
  for index in indices:
    waiting.append((index, pool.submit(safe, index)))
    if len(waiting) > num_ahead:
      first, future = waiting.popleft()
      yield first, future.result()
  for first, future in waiting:
    yield first, future.result()


def complete(job: Job, reports: Sequence[Mapping[str, Any]]) -> None:
  """Make the folder a dataset and list what was skipped.

  Raises:
    ValueError: if no record could be used.
  """
  skipped = [line for report in reports for line in report["skipped"]]
  images.write_atomically(
    job.out / SKIPPED,
    "".join(json.dumps(line) + "\n" for line in skipped).encode(),
  )
  lengths = [report["num_rows"] for report in reports]
  if not sum(lengths):
    raise ValueError(
      "there must be a record that can be used, got none:\n"
      + "\n".join(summary(reports))
    )
  coded_lib.finish(
    job.out,
    job.options.split,
    shard_lengths=lengths,
    num_bytes=sum(report["num_bytes"] for report in reports),
    facts={**job.identity, "num_skipped": len(skipped)},
  )


def summary(reports: Sequence[Mapping[str, Any]]) -> list[str]:
  """Return lines that tell what was kept and what was skipped, and why."""
  kinds: dict[str, list[Mapping[str, Any]]] = {}
  for report in reports:
    for line in report["skipped"]:
      kinds.setdefault(line["kind"], []).append(line)
  num_rows = sum(report["num_rows"] for report in reports)
  lines = [f"{num_rows} examples, {sum(map(len, kinds.values()))} skipped"]
  for kind, found in sorted(kinds.items(), key=lambda item: -len(item[1])):
    lines.append(f"{len(found):6} {kind}")
    for line in found[:_NUM_SHOWN]:
      lines.append(f"       record {line['index']}: {line['reason']}")
  return lines
