"""Where a converted model lives: one folder, written and read as a whole.

A folder of ours has `transformer/` (Orbax, restored onto any sharding),
`image_tokenizer.safetensors` with its config, the tokenizer's files,
`facts.json` (the facts) and, if the model was a published one,
`source.json` and `source/`: what its files were besides the numbers, so that
`publish.export` gives them back byte for byte.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from paradiff import checkpoints
from paradiff import pretrained
from paradiff import remote
from paradiff.convert import facts as facts_lib
from paradiff.convert import folders
from paradiff.convert import model as model_lib
from paradiff.convert import tensors

_FACTS = "facts.json"
_SOURCE = "source.json"
_CARRIED = "source"
_IGNORED = "ignored"
_TRANSFORMER = "transformer"
_PICTURES = "image_tokenizer"


def is_converted(folder: epath.PathLike) -> bool:
  """Return whether a folder is one that `save` wrote; none on a hub is."""
  if os.fspath(folder).startswith(folders.HUB):
    return False
  return (epath.Path(folder) / _FACTS).exists()


def save(folder: epath.PathLike, model: model_lib.Model) -> None:
  """Write a model to a new folder, complete or not at all.

  Args:
    folder: must not exist or be empty; local or remote.
    model: the model.

  Raises:
    FileExistsError: if the folder has something in it.
  """
  with folders.complete_or_absent(folder) as root:
    folders.copy_tokenizer(model.tokenizer, root)
    _write_json(root / _FACTS, facts_lib.to_dict(model.facts))
    if model.image_params is not None:
      pretrained.save(
        root,
        _PICTURES,
        model.image_params,
        facts_lib.to_dict(model.facts)[_PICTURES],
      )
    if model.origin is not None:
      _save_origin(root, model.origin)
    with _checkpointer(model.params) as saver:
      saver.save(
        remote.absolute(root / _TRANSFORMER),
        args=ocp.args.StandardSave(model.params),
      )


def load(
  folder: epath.PathLike, *, mesh: jax.sharding.Mesh | None = None
) -> model_lib.Model:
  """Read a model that `save` wrote.

  Args:
    folder: local or remote.
    mesh: where the parameters go; None is the first device.

  Raises:
    FileNotFoundError: if a file is missing, naming it.
    ValueError: if one is damaged or of another model, naming it.
  """
  root = epath.Path(folder)
  path = root / _FACTS
  try:
    facts = facts_lib.from_dict(_read_json(path))
  except ValueError as error:
    raise ValueError(
      f"{os.fspath(path)} must hold facts, got {error}"
    ) from error
  shapes, image_shapes = model_lib.param_shapes(facts, mesh)
  params = _restore(root / _TRANSFORMER, shapes)
  image_params = None
  if image_shapes is not None:
    image_params, _ = pretrained.load(root, _PICTURES)
    checkpoints.check_shapes(
      image_params,
      image_shapes,
      source=os.fspath(root / f"{_PICTURES}.safetensors"),
    )
    image_params = jax.tree.map(_put, image_params, image_shapes)
  return model_lib.Model(
    facts=facts,
    params=params,
    image_params=image_params,
    tokenizer=root,
    origin=_load_origin(root),
  )


def _save_origin(root: epath.Path, origin: model_lib.Origin) -> None:
  for name, paths in origin.small_files.items():
    for path in paths:
      target = root / _CARRIED / name / path
      target.parent.mkdir(parents=True, exist_ok=True)
      target.write_bytes((origin.roots[name] / path).read_bytes())
  components = {
    name: dataclasses.asdict(component)
    for name, component in origin.components.items()
  }
  _write_json(
    root / _SOURCE,
    {
      "components": components,
      "small_files": origin.small_files,
      "left_out": origin.left_out,
      "ignored": sorted(origin.ignored),
    },
  )
  if origin.ignored:
    pretrained.save(root / _CARRIED, _IGNORED, origin.ignored, {})


def _load_origin(root: epath.Path) -> model_lib.Origin | None:
  path = root / _SOURCE
  if not path.exists():
    return None
  data = _read_json(path)
  try:
    _check_paths(path, data)
    ignored: Mapping[str, Any] = {}
    if data["ignored"]:
      ignored, _ = pretrained.load(root / _CARRIED, _IGNORED)
    return model_lib.Origin(
      roots={name: root / _CARRIED / name for name in data["small_files"]},
      small_files={k: tuple(v) for k, v in data["small_files"].items()},
      left_out=tuple(data["left_out"]),
      components={
        name: model_lib.Component(**fields)
        for name, fields in data["components"].items()
      },
      ignored=ignored,
    )
  except (AttributeError, KeyError, TypeError) as error:
    raise ValueError(
      f"{os.fspath(path)} must say what a source was, got {error}"
    ) from error


def _check_paths(path: epath.Path, data: Mapping[str, Any]) -> None:
  """Refuse names that would be written outside an exported folder."""
  inside = [
    *data["small_files"],
    *[name for names in data["small_files"].values() for name in names],
    *[part["folder"] for part in data["components"].values()],
    *[part["root"] for part in data["components"].values()],
  ]
  for name in inside:
    parts = pathlib.PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name:
      raise ValueError(
        f"{os.fspath(path)} must name files inside a folder, got {name!r}"
      )
  for part in data["components"].values():
    for name in part["headers"]:
      tensors.check_file_name(name, pathlib.Path(os.fspath(path)))


def _restore(path: epath.Path, shapes: Any) -> Any:
  """Read the transformer in its own dtypes onto the shapes' shardings."""
  if not path.exists():
    raise FileNotFoundError(f"a model must have {os.fspath(path)}, got none")
  with checkpoints.reading(path), _checkpointer(shapes) as reader:
    saved = reader.metadata(remote.absolute(path)).item_metadata.tree
  checkpoints.check_shapes(saved, shapes, source=os.fspath(path))
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  targets = jax.tree.map(
    lambda leaf, was: jax.ShapeDtypeStruct(
      leaf.shape, was.dtype, sharding=leaf.sharding or device
    ),
    shapes,
    saved,
  )
  with checkpoints.reading(path), _checkpointer(targets) as reader:
    return reader.restore(
      remote.absolute(path), args=ocp.args.StandardRestore(targets)
    )


def _checkpointer(tree: Any) -> ocp.Checkpointer:
  """Return Orbax with room for the largest leaf, not for copies of all.

  As it comes it saves in the background, from copies, 96 GB at a time.
  """
  largest = max(
    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
  )
  gigabytes = 2 + largest // 10**9  # Orbax refuses a leaf as large as that
  return ocp.Checkpointer(
    ocp.StandardCheckpointHandler(
      save_concurrent_gb=gigabytes, restore_concurrent_gb=gigabytes
    )
  )


def _put(array: np.ndarray, shape: jax.ShapeDtypeStruct) -> jax.Array:
  if shape.sharding is None:
    return jnp.asarray(array)
  return jax.device_put(array, shape.sharding)


def _write_json(path: epath.Path, data: Any) -> None:
  path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")


def _read_json(path: epath.Path) -> dict[str, Any]:
  if not path.exists():
    raise FileNotFoundError(
      f"a model must have {os.fspath(path)}, got no such file"
    )
  try:
    data = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f"{os.fspath(path)} must be JSON, got {error}") from error
  if not isinstance(data, dict):
    raise ValueError(f"{os.fspath(path)} must hold an object, got {data!r}")
  return data
