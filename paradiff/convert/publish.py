"""A model as published files again: as they were, or in the standard layout."""

import os
import pathlib
from collections.abc import Mapping

import numpy as np
from etils import epath

from paradiff.convert import export as export_lib
from paradiff.convert import facts as facts_lib
from paradiff.convert import families
from paradiff.convert import folders
from paradiff.convert import load as load_lib
from paradiff.convert import model as model_lib
from paradiff.convert import picture_tokenizers

_TRANSFORMER = "transformer"
_PICTURES = "image_tokenizer"


def export(
  folder: str | os.PathLike[str],
  model: model_lib.Model,
  *,
  max_shard_bytes: int = export_lib.MAX_SHARD_BYTES,
  on_tensor: load_lib.Progress | None = None,
) -> None:
  """Write a model as published files to a new local folder.

  A model with an origin gets that origin's files: the small ones byte for
  byte, the weights with the same headers. Others get the standard layout.

  Args:
    folder: must not exist or be empty.
    model: the model.
    max_shard_bytes: in the standard layout, no file has more.
    on_tensor: called with bytes done and bytes in all.

  Raises:
    FileExistsError: if the folder has something in it.
    ValueError: if the folder is remote, or the parameters have other dtypes
      than the origin; `dataclasses.replace(model, origin=None)` has none.
  """
  if "://" in os.fspath(folder):
    raise ValueError(f"files are exported to a local folder, got {folder}")
  origin = model.origin
  _, total = model_lib.num_params(model)
  count = load_lib.counter(total, on_tensor)
  params = {_TRANSFORMER: model.params, _PICTURES: model.image_params}
  readers = {
    name: export_lib.Reader(
      rules,
      params[name],
      carried=_ignored(model) if name == _PICTURES else None,
      on_tensor=count,
    )
    for name, rules in model_lib.rules_of(model.facts).items()
  }
  with folders.complete_or_absent(folder) as partial:
    root = pathlib.Path(os.fspath(partial))
    if origin is None:
      _export_standard(root, model, readers, max_shard_bytes=max_shard_bytes)
      return
    for name, paths in origin.small_files.items():
      for path in paths:
        target = _root(root, name) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((origin.roots[name] / path).read_bytes())
    for name, component in origin.components.items():
      target = _root(root, component.root) / component.folder
      target.mkdir(parents=True, exist_ok=True)
      for file_name, header in component.headers.items():
        export_lib.write_file(
          target / file_name, header.encode(), readers[name]
        )


def _root(root: pathlib.Path, name: str) -> pathlib.Path:
  """Return where the files of one of an origin's roots go."""
  return root if name == "model" else root / name


def _ignored(model: model_lib.Model) -> Mapping[str, np.ndarray]:
  """Return MAGVITv2's buffers: as they were, or as they follow from the bits.

  The published code registers them; its checkpoints lack nothing that way.
  """
  family = families.find(model.facts.family)
  if model.origin is not None:
    return model.origin.ignored
  config = model.facts.image_tokenizer
  if family.image_tokenizer != "magvitv2" or config is None:
    return {}
  weights = 2 ** np.arange(config.code_bits - 1, -1, -1, dtype=np.int64)
  codes = np.arange(config.codebook_size, dtype=np.int64)[:, None]
  signs = np.where(codes & weights[None, :], 1.0, -1.0).astype(np.float32)
  return {"quantize.embedding": signs, "quantize.power_vals": weights}


def _export_standard(
  root: pathlib.Path,
  model: model_lib.Model,
  readers: Mapping[str, export_lib.Reader],
  *,
  max_shard_bytes: int,
) -> None:
  """Write files as transformers and diffusers would."""
  facts = model.facts
  folders.copy_tokenizer(model.tokenizer, epath.Path(root))
  config = export_lib.to_text(facts_lib.to_config(facts))
  (root / facts_lib.CONFIG).write_text(config)
  reader = readers[_TRANSFORMER]
  export_lib.write_standard(
    root, reader.entries(), reader, max_shard_bytes=max_shard_bytes
  )
  kind = families.find(facts.family).image_tokenizer
  if kind is None or facts.image_tokenizer is None:
    return
  folder = root / (picture_tokenizers.SUBFOLDERS[kind] or _PICTURES)
  folder.mkdir()
  reader = readers[_PICTURES]
  export_lib.write_standard(
    folder,
    reader.entries(),
    reader,
    stem="diffusion_pytorch_model" if kind == "amused" else "model",
    max_shard_bytes=max_shard_bytes,
  )
  if kind == "amused":
    text = picture_tokenizers.to_config(facts.image_tokenizer)
    (folder / facts_lib.CONFIG).write_text(export_lib.to_text(text))
