"""Parameters in a folder: `name.safetensors` beside `name.json`."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from paradiff import checkpoints
from paradiff.data import images

# By the names of the format; safetensors.numpy does not read bfloat16.
DTYPES = {
  "BOOL": np.bool_,
  "U8": np.uint8,
  "I8": np.int8,
  "I32": np.int32,
  "I64": np.int64,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  "F32": np.float32,
  "F64": np.float64,
}


def save(
  folder: epath.PathLike,
  name: str,
  params: Mapping[str, Any],
  config: Mapping[str, Any],
) -> None:
  """Write `name.safetensors` and `name.json`, each complete or not at all.

  Args:
    folder: where to, created if need be.
    name: of both files.
    params: nested dicts of arrays; a leaf is named `blocks/q_proj`.
    config: JSON data.
  """
  root = epath.Path(folder)
  root.mkdir(parents=True, exist_ok=True)
  flat = {
    key: np.ascontiguousarray(leaf)
    for key, leaf in checkpoints.flatten(jax.device_get(params)).items()
  }
  text = json.dumps(config, indent=2, sort_keys=True) + "\n"
  images.write_atomically(
    root / f"{name}.safetensors", safetensors.numpy.save(flat)
  )
  images.write_atomically(root / f"{name}.json", text.encode())


def load(
  folder: epath.PathLike, name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Read what `save` wrote.

  Returns:
    Nested dicts of numpy arrays, and the config.

  Raises:
    FileNotFoundError: if one of the two files is missing, naming it.
    ValueError: if one of them is damaged, naming it.
  """
  root = epath.Path(folder)
  data = {}
  for suffix in ("json", "safetensors"):
    path = root / f"{name}.{suffix}"
    if not path.exists():
      raise FileNotFoundError(f"a model must have {path}, got no such file")
    data[suffix] = path.read_bytes()
  try:
    config = json.loads(data["json"])
  except ValueError as error:
    raise ValueError(f"{root / name}.json must be JSON, got {error}") from error
  if not isinstance(config, dict):
    raise ValueError(
      f"{root / name}.json must hold an object, got {type(config).__name__}"
    )
  try:
    return checkpoints.unflatten(_arrays(data["safetensors"])), config
  except (safetensors.SafetensorError, ValueError) as error:
    raise ValueError(
      f"{root / name}.safetensors must be a complete safetensors file, got "
      f"{len(data['safetensors'])} bytes: {error}"
    ) from error


def _arrays(data: bytes) -> dict[str, np.ndarray]:
  flat = {}
  for key, entry in safetensors.deserialize(data):
    if entry["dtype"] not in DTYPES:
      raise ValueError(
        f"{key} must be of a dtype in {list(DTYPES)}, got {entry['dtype']}"
      )
    array = np.frombuffer(entry["data"], DTYPES[entry["dtype"]])
    flat[key] = array.reshape(entry["shape"])
  return flat
