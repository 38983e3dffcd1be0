"""What ParaRL asks for: prompts of the scenes world, or one's own.

RL needs no targets, only prompts, pictures to edit where there are any, and
rewards. Own prompts are a JSONL file, one object a line:

  {"prompt": "make the sky red", "image": "photos/beach.jpg"}

`image` is a path below the file's folder; without it a picture is made from
the words alone. All lines of a file have one, or none has.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, TextIO

import jax
import numpy as np
from etils import epath

from experiments import scene_data
from paradiff import layout as layout_lib
from paradiff import metrics
from paradiff import pipeline as pipeline_lib
from paradiff import requests
from paradiff.data import pipeline as data_lib
from paradiff.scenes import render

_CHUNK = 8  # pictures that are encoded at once


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Where prompts are from.

  Attributes:
    size: scenes drawn, where `path` is None.
    seed: of the scenes; the order follows from the run's own seed.
    path: a JSONL file of one's own prompts.
    text_len: tokens of the answers' text to own prompts; default: the model's.
  """

  size: int = 8_000
  seed: int = 1
  path: str | None = None
  text_len: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
  """One prompt as a reward sees it.

  Attributes:
    text: the instruction.
    source: uint8[H, W, 3], the picture to edit, or None.
    record: the data's own record, such as a `rules.Example`, or None.
  """

  text: str
  source: np.ndarray | None
  record: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class Prompts:
  """All prompts of a run.

  Attributes:
    layout: of their sequences.
    rows: prefix int32[P], prefix_valid bool[P] and index int32[] of each.
    items: the prompts, by index.
  """

  layout: layout_lib.Layout
  rows: data_lib.ArraySource
  items: Sequence[Prompt]


class _Scenes(Sequence[Prompt]):
  """Scenes as prompts, each drawn when it is asked for."""

  def __init__(self, source: data_lib.ScenesSource) -> None:
    self._source = source

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: Any) -> Any:
    example = self._source[index]
    picture = None if example.source is None else render.render(example.source)
    return Prompt(text=example.prompt, source=picture, record=example)


def read(path: epath.PathLike) -> list[tuple[str, str | None]]:
  """Return prompts and picture paths of a JSONL file.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: naming the line that is wrong, or if only some have a picture.
  """
  file = epath.Path(path)
  if not file.exists():
    raise FileNotFoundError(f"data.path must be a JSONL file, got {path!r}")
  folder, found = file.parent.resolve(), []
  for number, line in enumerate(file.read_text().splitlines(), start=1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
      prompt, image = row["prompt"], row.get("image")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise ValueError(
        f'{path} must hold objects with a "prompt", got {line[:60]!r} on line '
        f"{number}"
      ) from error
    if not isinstance(prompt, str) or not prompt.strip():
      raise ValueError(
        f"{path} must hold prompts of words, got {prompt!r} on line {number}"
      )
    if image is not None:
      whole = (folder / image).resolve()
      if folder not in whole.parents or not whole.exists():
        raise ValueError(
          f"image must be a file below {folder}, got {image!r} on line {number}"
        )
      image = str(whole)
    found.append((prompt, image))
  if len({image is None for _, image in found}) != 1:
    raise ValueError(
      f"all lines of {path} must have an image, or none, and there must be "
      f"one at least, got {sum(i is not None for _, i in found)} of "
      f"{len(found)}"
    )
  return found


def load(
  config: DataConfig,
  policy: pipeline_lib.ParallelPipeline,
  *,
  folder: epath.Path,
  stream: TextIO,
) -> Prompts:
  """Encode the prompts, with progress; scenes are kept in `folder`.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if a line is wrong or a prompt or picture does not fit.
  """
  if config.path is None:
    scenes = scene_data.DataConfig(size=config.size, seed=config.seed)
    rows = scene_data.load_rows(scenes, policy, folder=folder, stream=stream)
    source = data_lib.ScenesSource(seed=config.seed, size=config.size)
    return Prompts(policy.variant.layout, rows, _Scenes(source))
  found = read(config.path)
  texts = [text for text, _ in found]
  request = requests.Maker(
    policy.variant, policy.text_tokenizer, _in_chunks(policy, stream)
  ).make(texts, [image for _, image in found], text_len=config.text_len)
  prefix, valid = jax.device_get(
    (request.condition.prefix, request.condition.valid)
  )
  index = np.arange(len(texts), dtype=np.int32)
  sources = [pictures[0] if pictures else None for pictures in request.sources]
  return Prompts(
    request.layout,
    data_lib.ArraySource(
      {"prefix": prefix, "prefix_valid": valid, "index": index}
    ),
    [
      Prompt(text=text, source=source)
      for text, source in zip(texts, sources, strict=True)
    ],
  )


def _in_chunks(
  policy: pipeline_lib.ParallelPipeline, stream: TextIO
) -> requests.Encode:
  """Return an encoder that takes any number of pictures, some at a time."""

  def encode(pictures: np.ndarray) -> np.ndarray:
    progress = metrics.Progress(
      len(pictures), stream=stream, what="codes of picture"
    )
    codes = []
    for first in range(0, len(pictures), _CHUNK):
      chunk = pictures[first : first + _CHUNK]
      missing = _CHUNK - len(chunk)
      filled = np.concatenate([chunk, np.repeat(chunk[:1], missing, axis=0)])
      codes.append(policy.encode_pictures(filled)[: len(chunk)])
      progress.update(first + len(chunk))
    progress.close()
    return np.concatenate(codes)

  return encode
