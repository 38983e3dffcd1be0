"""Records of the published pre-tokenizer: JSON lines beside pickled integers.

A pickle can run any code. Here an unpickler that looks up nothing reads a file
of bounded size; what it yields is refused unless it is plain integers.

Source: MMaDA-Parallel-A `pre_tokenize.py`.
"""

import io
import pickle
import pickletools
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from paradiff.data import coded as coded_lib
from paradiff.data import records

MAX_BYTES = 4 << 20  # 4,096 codes take some 20 thousand
PIXELS_PER_CODE = 16
_FIELDS = ("user_prompt", "answer_text", "user_image", "answer_image")
# What a mapping of strings to integers and lists of them is written with.
# Left out is all that looks up names, and byte strings, for whose stated
# length memory is taken before the bytes are there.
_OPCODES = frozenset(
  "PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE "
  "INT BININT BININT1 BININT2 LONG LONG1 "
  "UNICODE SHORT_BINUNICODE BINUNICODE "
  "EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS "
  "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
  "PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET".split()
)


def is_published(raw: Mapping[str, Any]) -> bool:
  """Return whether a record is one of the published pre-tokenizer."""
  return all(field in raw for field in _FIELDS)


class _Refusing(pickle.Unpickler):
  """An unpickler that looks up no name."""

  def find_class(self, module: str, name: str) -> Any:
    raise pickle.UnpicklingError(f"it asks for {module}.{name}")

  def persistent_load(self, pid: Any) -> Any:
    raise pickle.UnpicklingError("it asks for an object outside")


def unpickle(data: bytes) -> Any:
  """Read mappings, lists, strings and integers, and nothing else.

  Raises:
    ValueError: if the data are longer, damaged, or hold anything else.
  """
  if len(data) > MAX_BYTES:
    raise ValueError(
      f"a pickle must have at most {MAX_BYTES} bytes, got {len(data)}"
    )
  try:
    names = {opcode.name for opcode, _, _ in pickletools.genops(data)}
    if not names <= _OPCODES:
      raise pickle.UnpicklingError(f"it uses {sorted(names - _OPCODES)}")
    return _Refusing(io.BytesIO(data)).load()
  except Exception as error:  # damaged data raise errors of many kinds
    raise ValueError(
      f"a pickle must hold plain integers and strings, got {error}"
    ) from error


def read(
  raw: Mapping[str, Any],
  *,
  root: epath.PathLike,
  code_offset: int,
  codebook_size: int,
) -> coded_lib.Coded:
  """Read one record with an output picture.

  Args:
    raw: a line of `*-record.jsonl` or an item of `all_records.json`.
    root: folder that the paths of pickles are relative to and may not leave.
    code_offset: token id of picture code 0, 126,356 as published.
    codebook_size: number of codes.

  Raises:
    records.BadRecord: if it cannot be used.
  """
  instruction = str(raw["user_prompt"] or "").strip()
  if not instruction:
    raise records.BadRecord("a record must have an instruction", "none")
  if not raw["answer_image"]:
    raise records.BadRecord("a record must have an output picture", "none")

  def codes(name: str) -> np.ndarray:
    path = records.below(root, str(raw[name]))
    try:
      length = path.stat().length
      if length > MAX_BYTES:
        raise records.BadRecord(
          f"a pickle must have at most {MAX_BYTES} bytes", f"{length}"
        )
      return _codes(path.read_bytes())
    except OSError as error:
      raise records.BadRecord("a pickle must be there", str(error)) from error

  def checked(tokens: np.ndarray) -> np.ndarray:
    found = tokens.astype(np.int64) - code_offset
    if found.min() < 0 or found.max() >= codebook_size:
      raise records.BadRecord(
        "tokens must be picture codes",
        f"{tokens.min()} ... {tokens.max()}, with an offset of {code_offset} "
        f"and {codebook_size} codes",
      )
    return found.astype(np.int32)

  return coded_lib.Coded(
    id=str(raw.get("id", "")),
    instruction=instruction,
    reasoning=str(raw["answer_text"] or "").strip() or instruction,
    source=checked(codes("user_image")) if raw["user_image"] else None,
    target=checked(codes("answer_image")),
  )


def _codes(data: bytes) -> np.ndarray:
  """Return the tokens of a picture as int64[h, w].

  Its `height` is the width in pixels, and `width` the height.
  """
  try:
    value = unpickle(data)
  except ValueError as error:
    raise records.BadRecord("a pickle must be plain", str(error)) from error
  wanted = ("input_ids", "height", "width")
  if not isinstance(value, dict) or not all(name in value for name in wanted):
    raise records.BadRecord(
      f"a pickle must hold {wanted}", f"{type(value).__name__}"
    )
  ids, width, height = (value[name] for name in wanted)
  if not isinstance(ids, list) or not all(
    type(number) is int for number in [*ids, width, height]
  ):
    raise records.BadRecord("tokens must be integers", type(ids).__name__)
  grid = (height // PIXELS_PER_CODE, width // PIXELS_PER_CODE)
  if min(grid) < 1 or len(ids) != grid[0] * grid[1]:
    raise records.BadRecord(
      "there must be a token for each 16x16 pixels",
      f"{len(ids)} for {width}x{height}",
    )
  try:
    return np.asarray(ids, np.int64).reshape(grid)
  except OverflowError as error:
    raise records.BadRecord("tokens must be picture codes", str(error)) from (
      error
    )
