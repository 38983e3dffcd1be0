"""Examples to token rows, once: no encoder runs inside a train step.

A row is what the loss reads: prefix int32[P], prefix_valid bool[P] and answer
int32[A]. Rows are kept in one file whose name is a digest of everything that
they depend on, so a file is either right or absent.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from etils import epath

from paradiff import layout as layout_lib
from paradiff import sequence as sequence_lib
from paradiff import vocab as vocab_lib
from paradiff.data import text as text_lib
from paradiff.scenes import render
from paradiff.scenes import rules

EncodePictures = Callable[[np.ndarray], np.ndarray]
OnProgress = Callable[[int, int], None]


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


def scene_rows(
  examples: Sequence[rules.Example],
  *,
  layout: layout_lib.Layout,
  vocab: vocab_lib.Vocab,
  text_tokenizer: text_lib.TextTokenizer,
  encode_pictures: EncodePictures,
  batch_size: int = 256,
  on_progress: OnProgress | None = None,
) -> dict[str, np.ndarray]:
  """Turn examples of the scenes world into token rows.

  Args:
    examples: M of them, drawn one by one.
    layout: the sizes.
    vocab: the ids.
    text_tokenizer: words to ids.
    encode_pictures: uint8[2 b, H, W, 3] to codes int[2 b, N]; always called
      with b = `batch_size`, so it compiles once.
    batch_size: examples a call.
    on_progress: called with (examples done, all examples) after each call.

  Returns:
    prefix int32[M, P], prefix_valid bool[M, P], answer int32[M, A].
  """
  rows: dict[str, list[np.ndarray]] = {
    "prefix": [],
    "prefix_valid": [],
    "answer": [],
  }
  for first in range(0, len(examples), batch_size):
    stop = min(first + batch_size, len(examples))
    batch = [examples[i] for i in range(first, stop)]
    pictures = np.stack(
      [render.render(e.target) for e in batch]
      + [render.render(e.source or e.target) for e in batch]
    )
    missing = 2 * batch_size - len(pictures)
    filler = np.repeat(pictures[:1], missing, axis=0)
    codes = np.asarray(encode_pictures(np.concatenate([pictures, filler])))
    for i, example in enumerate(batch):
      source = None if example.source is None else codes[len(batch) + i]
      prefix, valid = sequence_lib.encode_prefix(
        layout,
        vocab,
        prompt_ids=text_tokenizer.encode(example.prompt),
        source_codes=source,
      )
      answer = sequence_lib.encode_answer(
        layout,
        vocab,
        text_ids=text_tokenizer.encode(example.reasoning),
        codes=codes[i],
      )
      rows["prefix"].append(prefix)
      rows["prefix_valid"].append(valid)
      rows["answer"].append(answer)
    if on_progress is not None:
      on_progress(stop, len(examples))
  return {name: np.stack(arrays) for name, arrays in rows.items()}


def cached(
  folder: epath.PathLike, key: str, make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
  """Return `make()`'s arrays, from `folder/key.npz` where that exists.

  Args:
    folder: where the file lies, created if need be.
    key: a `digest` of all that the arrays depend on.
    make: computes them; the file is written whole or not at all.

  Raises:
    ValueError: if the file is damaged, naming it.
  """
  path = epath.Path(folder) / f"{key}.npz"
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
  path.parent.mkdir(parents=True, exist_ok=True)
  buffer = io.BytesIO()
  np.savez(buffer, **cast(Any, made))
  temporary = path.with_name(f"{path.name}.tmp")
  temporary.write_bytes(buffer.getbuffer())
  temporary.replace(path)
  return made
