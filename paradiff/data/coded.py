"""Examples whose pictures are codes: ArrayRecord shards that tfds reads.

A folder holds the shards and, once it is complete, the two files of a tfds
dataset, so `tfds.builder_from_directory(folder)` opens it too. Words stay
words: one folder serves every text tokenizer and every layout of the image
tokenizer that made it. TensorFlow is not needed.
"""

import dataclasses
import functools
import json
import os
import tempfile
import typing
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from paradiff.data import caching
from paradiff.data import images

if typing.TYPE_CHECKING:
  import tensorflow_datasets as tfds

NAME = "paradiff"
FACTS = "pretokenize.json"
_SUFFIX = "array_record"


@dataclasses.dataclass(frozen=True, eq=False)
class Coded:
  """One example.

  Attributes:
    id: what reports call it; may be empty.
    instruction: what is asked for.
    reasoning: what is thought.
    source: int32[h, w], codes of the input picture; None without one.
    target: int32[h, w], codes of the output picture.
  """

  id: str
  instruction: str
  reasoning: str
  source: np.ndarray | None
  target: np.ndarray


@functools.cache
def _tfds() -> Any:
  """Import tfds: late, for it takes seconds."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  import tensorflow_datasets

  return tensorflow_datasets


@functools.cache
def features() -> "tfds.features.FeaturesDict":
  """Return what a stored example has: words, codes in raster order, grids."""
  kinds = _tfds().features
  codes = dict(shape=(None,), dtype=np.int32)
  grid = dict(shape=(2,), dtype=np.int32)
  return kinds.FeaturesDict(
    {
      "id": kinds.Text(),
      "instruction": kinds.Text(),
      "reasoning": kinds.Text(),
      "source_codes": kinds.Tensor(**codes),
      "source_grid": kinds.Tensor(**grid),  # 0 x 0 without an input picture
      "target_codes": kinds.Tensor(**codes),
      "target_grid": kinds.Tensor(**grid),
    }
  )


def shard_path(
  folder: epath.PathLike, split: str, *, shard: int, num_shards: int
) -> epath.Path:
  """Return where tfds looks for a shard."""
  name = f"{NAME}-{split}.{_SUFFIX}-{shard:05d}-of-{num_shards:05d}"
  return epath.Path(folder) / name


def write_shard(path: epath.PathLike, rows: Iterable[Coded]) -> int:
  """Write examples to a file that is there whole or not at all.

  Returns:
    Bytes of the examples.
  """
  from array_record.python import array_record_module

  num_bytes, kind = 0, features()
  with tempfile.TemporaryDirectory() as folder:
    local = epath.Path(folder) / "shard"
    # One record a group: any example is read without its neighbours.
    writer = array_record_module.ArrayRecordWriter(
      os.fspath(local), "group_size:1"
    )
    try:
      for row in rows:
        data = kind.serialize_example(kind.encode_example(_to_stored(row)))
        writer.write(data)
        num_bytes += len(data)
    finally:
      writer.close()
    images.write_atomically(path, local.read_bytes())
  return num_bytes


def _to_stored(row: Coded) -> dict[str, Any]:
  nothing = np.zeros((0, 0), np.int32)
  source = nothing if row.source is None else row.source
  return {
    "id": row.id,
    "instruction": row.instruction,
    "reasoning": row.reasoning,
    "source_codes": source.reshape(-1).astype(np.int32),
    "source_grid": np.asarray(source.shape, np.int32),
    "target_codes": row.target.reshape(-1).astype(np.int32),
    "target_grid": np.asarray(row.target.shape, np.int32),
  }


def finish(
  folder: epath.PathLike,
  split: str,
  *,
  shard_lengths: Sequence[int],
  num_bytes: int,
  facts: dict[str, Any],
) -> None:
  """Make a folder of shards a dataset, and say what it was made from.

  Args:
    folder: with all shards of the split.
    split: its name.
    shard_lengths: examples of each shard.
    num_bytes: of all examples.
    facts: JSON data, kept as `pretokenize.json`.
  """
  tfds = _tfds()
  root = epath.Path(folder)
  template = tfds.core.ShardedFileTemplate(
    data_dir=root, dataset_name=NAME, split=split, filetype_suffix=_SUFFIX
  )
  info = tfds.core.SplitInfo(
    name=split,
    shard_lengths=list(shard_lengths),
    num_bytes=num_bytes,
    filename_template=template,
  )
  images.write_atomically(
    root / FACTS, (json.dumps(facts, indent=2) + "\n").encode()
  )
  tfds.folder_dataset.write_metadata(
    data_dir=root,
    features=features(),
    split_infos=[info],
    filename_template=template,
    check_data=False,
  )


class CodedSource:
  """The examples of a folder by number.

  Attributes:
    folder: where they lie.
    facts: what they were made from, as `finish` was given it.
  """

  def __init__(self, folder: epath.PathLike, *, split: str = "train") -> None:
    """Open a folder.

    Raises:
      FileNotFoundError: if it is not a complete dataset of this kind.
      ValueError: if it has no such split, or no examples.
    """
    self.folder = epath.Path(folder)
    for name in (FACTS, "dataset_info.json"):
      if not (self.folder / name).exists():
        raise FileNotFoundError(
          f"{self.folder} must be a complete folder of `python -m "
          f"paradiff.data.pretokenize`, got no {name}"
        )
    self.facts: dict[str, Any] = json.loads((self.folder / FACTS).read_text())
    builder = _tfds().builder_from_directory(self.folder)
    if split not in builder.info.splits:
      raise ValueError(
        f"split must be one of {sorted(builder.info.splits)} in {self.folder}, "
        f"got {split!r}"
      )
    self._rows = builder.as_data_source(split)
    if not len(self._rows):
      raise ValueError(f"a dataset must have examples, got none in {folder}")

  @property
  def digest(self) -> str:
    """Changes where the examples change, wherever they lie."""
    return caching.digest(
      {k: v for k, v in self.facts.items() if k != "source"}
    )

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: Any, /) -> Coded:
    """Return example `index` in [0, len)."""
    row = self._rows[int(index)]
    grid = tuple(int(side) for side in row["source_grid"])
    source = np.asarray(row["source_codes"], np.int32).reshape(grid)
    return Coded(
      id=_words(row["id"]),
      instruction=_words(row["instruction"]),
      reasoning=_words(row["reasoning"]),
      source=source if source.size else None,
      target=np.asarray(row["target_codes"], np.int32).reshape(
        tuple(int(side) for side in row["target_grid"])
      ),
    )


def _words(value: bytes | str) -> str:
  return value.decode() if isinstance(value, bytes) else value
