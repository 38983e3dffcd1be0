"""Examples of an edit as people keep them, under whatever names.

A record is a mapping with an input picture, an instruction, a reasoning and an
output picture. `read` finds them under the names that the published programs
and common datasets use, or those it is told; what cannot be used raises one
`BadRecord` that says why, so that a caller can skip it and count.

Source: MMaDA-Parallel-A `pre_tokenize.py`, for the names.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import PIL.Image
from etils import epath

from paradiff import remote
from paradiff.data import crops
from paradiff.data import images

# Looked for in this order; the first that is not empty is taken.
NAMES: dict[str, tuple[str, ...]] = {
  "source": ("input_image", "input_image_bytes", "image"),
  "target": ("output_image", "output_image_bytes", "edited_image"),
  "instruction": ("input_text", "prompt", "caption", "instruction", "text"),
  "reasoning": (
    "output_text",
    "reasoning_text",
    "answer_text",
    "explanation",
    "reasoning",
  ),
  "id": ("id", "key", "uid"),
}
# Two pictures that were scaled apart differ by rounding.
ASPECT_TOLERANCE = 0.02


class BadRecord(ValueError):
  """A record that cannot be used.

  Attributes:
    kind: what is wrong, in few words, the same for all records of a kind.
  """

  def __init__(self, kind: str, found: str) -> None:
    """Say what must hold and what was found."""
    super().__init__(f"{kind}, got {found}")
    self.kind = kind


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
  """One example.

  Attributes:
    id: what reports call it; may be empty.
    instruction: what is asked for.
    reasoning: what is thought; the instruction where there is none.
    source: the input picture, upright and in RGB; None to draw from words.
    target: the output picture, likewise.
  """

  id: str
  instruction: str
  reasoning: str
  source: PIL.Image.Image | None
  target: PIL.Image.Image


def check_fields(fields: Mapping[str, str]) -> None:
  """Refuse names for parts that a record does not have.

  Raises:
    ValueError: naming them and the parts there are.
  """
  unknown = sorted(set(fields) - set(NAMES))
  if unknown:
    raise ValueError(f"fields must be among {sorted(NAMES)}, got {unknown}")


def read(
  raw: Mapping[str, Any],
  *,
  root: epath.PathLike,
  fields: Mapping[str, str] | None = None,
) -> Record:
  """Read a record and its pictures.

  Args:
    raw: values by name. A picture is a path below `root`, encoded bytes, or
      what the `datasets` library writes: {"bytes": ..., "path": ...}.
    root: folder that paths are relative to and may not leave.
    fields: the name of some parts, where the usual ones do not hold.

  Raises:
    BadRecord: if something is missing, unreadable or does not go together.
  """
  fields = fields or {}
  found = {
    part: _find(raw, part, fields.get(part))
    for part in ("id", "source", "target")
  }
  instruction, reasoning = read_words(raw, fields=fields)
  if found["target"] is None:
    raise BadRecord(
      "a record must have an output picture",
      f"none of {_names('target', fields)} among {sorted(raw)}",
    )
  source = found["source"]
  record = Record(
    id=str(found["id"] or ""),
    instruction=instruction,
    reasoning=reasoning,
    source=None if source is None else _picture(source, root),
    target=_picture(found["target"], root),
  )
  if record.source is not None:
    _check_aspects(record.source, record.target)
  return record


def read_words(
  raw: Mapping[str, Any], *, fields: Mapping[str, str] | None = None
) -> tuple[str, str]:
  """Return instruction and reasoning of a record without its pictures.

  Raises:
    BadRecord: if there is no instruction, or one of them is no text.
  """
  fields = fields or {}
  instruction, reasoning = (
    _words(_find(raw, part, fields.get(part)), part)
    for part in ("instruction", "reasoning")
  )
  if not instruction:
    raise BadRecord(
      "a record must have an instruction",
      f"none of {_names('instruction', fields)} among {sorted(raw)}",
    )
  return instruction, reasoning or instruction


def crop(
  record: Record, sizes: tuple[crops.Size, ...], *, offset: Any = None
) -> tuple[PIL.Image.Image | None, PIL.Image.Image]:
  """Cut both pictures of a record to one size with the same window.

  Args:
    record: with pictures of one aspect.
    sizes: (width, height) pairs; the nearest to the output's aspect is taken.
    offset: as `crops.fit` takes it, for both; None cuts the centre.

  Returns:
    The input picture, if there is one, and the output picture.

  Differs from upstream: there each picture of a pair is cut at a random
    offset of its own, which moves one against the other.
  """
  size = crops.nearest(*record.target.size, sizes)
  source = record.source
  return (
    None if source is None else crops.fit(source, size, offset=offset),
    crops.fit(record.target, size, offset=offset),
  )


def _names(part: str, fields: Mapping[str, str]) -> tuple[str, ...]:
  return (fields[part],) if part in fields else NAMES[part]


def _find(raw: Mapping[str, Any], part: str, name: str | None) -> Any:
  """Return the first value that is not empty; None if there is none."""
  for candidate in NAMES[part] if name is None else (name,):
    value = raw.get(candidate)
    if isinstance(value, Mapping) and not any(
      value.get(key) for key in ("bytes", "path")
    ):
      continue
    if value is not None and not (
      isinstance(value, str | bytes) and len(value) == 0
    ):
      return value
  return None


def _words(value: Any, what: str) -> str:
  """Return a text without space around it."""
  if value is None:
    return ""
  if isinstance(value, bytes):
    try:
      value = value.decode()
    except UnicodeDecodeError as error:
      raise BadRecord(f"the {what} must be Unicode", repr(error)) from error
  if not isinstance(value, str):
    raise BadRecord(f"the {what} must be a string", type(value).__name__)
  return value.strip()


def _picture(value: Any, root: epath.PathLike) -> PIL.Image.Image:
  """Open a picture that a record names or holds."""
  if isinstance(value, Mapping):
    value = value.get("bytes") or value.get("path")
  if isinstance(value, str):
    value = below(root, value)
  if not isinstance(value, bytes | epath.Path | PIL.Image.Image):
    raise BadRecord(
      "a picture must be a path or encoded bytes", type(value).__name__
    )
  try:
    return images.open_picture(value)
  except FileNotFoundError as error:
    raise BadRecord("a picture must be there", str(error)) from error
  except (ValueError, TypeError) as error:
    raise BadRecord("a picture must be readable", str(error)) from error


def below(root: epath.PathLike, name: str) -> epath.Path:
  """Return a path that a file names, below the root.

  Raises:
    BadRecord: if it leaves the root, also by a link.
  """
  base = epath.Path(root)
  path = base / name
  if remote.is_remote(base):
    parts = pathlib.PurePosixPath(name).parts
    is_below = "://" not in name and not name.startswith("/")
    is_below = is_below and ".." not in parts
  else:
    try:
      real = pathlib.Path(path).resolve()
      is_below = real.is_relative_to(pathlib.Path(base).resolve())
    except (OSError, ValueError, RuntimeError):  # a name that no file can have
      is_below = False
  if not is_below:
    raise BadRecord("a path must stay below the data's folder", repr(name))
  return path


def _check_aspects(source: PIL.Image.Image, target: PIL.Image.Image) -> None:
  """Refuse a pair that no window cuts alike."""
  ratio = (source.width * target.height) / (source.height * target.width)
  if abs(ratio - 1.0) > ASPECT_TOLERANCE:
    raise BadRecord(
      "the pictures of a pair must have the same aspect",
      f"{source.width}x{source.height} and {target.width}x{target.height}",
    )
