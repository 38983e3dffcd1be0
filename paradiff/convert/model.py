"""A published model in memory: facts, parameters and what its files were."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from paradiff import checkpoints
from paradiff import sharding as sharding_lib
from paradiff.convert import facts as facts_lib
from paradiff.convert import families
from paradiff.convert import folders
from paradiff.convert import load as load_lib
from paradiff.convert import picture_tokenizers
from paradiff.convert import plan as plan_lib
from paradiff.convert import rules
from paradiff.convert import tensors
from paradiff.models import image_tokenizer as image_tokenizer_lib
from paradiff.models import transformer as transformer_lib


@dataclasses.dataclass(frozen=True)
class Component:
  """Where one network's weights were.

  Attributes:
    root: a name in `Origin.roots`.
    folder: the weights' folder inside the root, "" for the root itself.
    headers: the exact header of each file, by the file's name.
  """

  root: str
  folder: str
  headers: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Origin:
  """What a model's files were, so that they can be written again.

  Attributes:
    roots: folders that hold the small files: "model", and "image_tokenizer"
      or "tokenizer" where they came from folders of their own.
    small_files: paths relative to the root, of each root.
    left_out: files of the sources that were not carried along.
    components: "transformer" and "image_tokenizer".
    ignored: the image tokenizer's tensors that no parameter is made of.
  """

  roots: Mapping[str, epath.Path]
  small_files: Mapping[str, tuple[str, ...]]
  left_out: tuple[str, ...]
  components: Mapping[str, Component]
  ignored: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """A model with its parameters.

  Attributes:
    facts: what it is.
    params: the transformer's parameters.
    image_params: the image tokenizer's; None for a model of text alone.
    tokenizer: folder of the tokenizer's files.
    origin: of the files; None for a model that was trained here.
  """

  facts: facts_lib.Facts
  params: Any
  image_params: Any
  tokenizer: epath.Path
  origin: Origin | None = None


def param_shapes(
  facts: facts_lib.Facts, mesh: jax.sharding.Mesh | None = None
) -> tuple[Any, Any]:
  """Return the trees of shapes of the two networks, placed on a mesh.

  Args:
    facts: what it is.
    mesh: of `sharding.make_mesh`; None leaves the shapes without a place.

  Returns:
    The transformer's, sharded by its logical axes, and the image tokenizer's,
    replicated (None without one).

  Raises:
    ValueError: if the mesh does not divide a parameter.
  """
  config = facts.transformer
  key = jax.eval_shape(lambda: jax.random.key(0))
  ours = jax.eval_shape(lambda key: transformer_lib.init(config, key), key)
  pictures = None
  if facts.image_tokenizer is not None:
    image_config = facts.image_tokenizer
    pictures = jax.eval_shape(
      lambda key: image_tokenizer_lib.init(image_config, key), key
    )
  if mesh is None:
    return ours, pictures
  shardings = sharding_lib.shardings(mesh, transformer_lib.logical_axes(config))
  replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  placed = jax.tree.map(_placed, ours, shardings)
  return placed, jax.tree.map(lambda leaf: _placed(leaf, replicated), pictures)


def _placed(
  leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding
) -> jax.ShapeDtypeStruct:
  try:
    sharding.shard_shape(leaf.shape)
  except ValueError as error:
    raise ValueError(
      f"the mesh must divide every parameter, got {leaf.shape} over {sharding}"
    ) from error
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def read(
  source: str | os.PathLike[str],
  family: str,
  *,
  image_tokenizer: str | os.PathLike[str] | None = None,
  tokenizer: str | os.PathLike[str] | None = None,
  mesh: jax.sharding.Mesh | None = None,
  on_tensor: load_lib.Progress | None = None,
) -> Model:
  """Read a published model; everything is checked before a tensor is read.

  Args:
    source: local folder or `hf://owner/name`.
    family: a name in `families.FAMILIES`.
    image_tokenizer: the same, where the source has none inside.
    tokenizer: the same.
    mesh: where the parameters go; None is the first device.
    on_tensor: called with bytes done and bytes in all.

  Returns:
    The model, in the checkpoint's own dtypes.

  Raises:
    FileNotFoundError: naming the file or folder that is missing.
    ValueError: naming the file that is damaged or of another model.
  """
  known = families.find(family)
  roots = {"model": folders.resolve(source)}
  if image_tokenizer is not None:
    roots["image_tokenizer"] = folders.resolve(image_tokenizer)
  if tokenizer is not None:
    roots["tokenizer"] = folders.resolve(tokenizer)
  # The config first: what is wrong with it explains what else is wrong.
  config_path = roots["model"] / facts_lib.CONFIG
  facts_lib.check_config(tensors.read_json(config_path), known, config_path)
  opened = {"transformer": tensors.Checkpoint.open(roots["model"])}
  image_config = None
  if known.image_tokenizer is not None:
    folder = _picture_folder(known.image_tokenizer, roots)
    opened["image_tokenizer"] = tensors.Checkpoint.open(folder)
    image_config = picture_tokenizers.read(
      known.image_tokenizer, folder, opened["image_tokenizer"]
    )
  facts = facts_lib.read(
    roots["model"],
    family,
    checkpoint=opened["transformer"],
    image_tokenizer=image_config,
    tokenizer=roots.get("tokenizer"),
  )
  ours, pictures = param_shapes(facts, mesh)
  shapes = {"transformer": ours, "image_tokenizer": pictures}
  plans = {
    name: plan_lib.match(rules_of(facts)[name], checkpoint, shapes[name])
    for name, checkpoint in opened.items()
  }
  params = _load(opened, plans, shapes, on_tensor=on_tensor)
  return Model(
    facts=facts,
    params=params["transformer"],
    image_params=params.get("image_tokenizer"),
    tokenizer=epath.Path(roots.get("tokenizer", roots["model"])),
    origin=_origin(roots, opened, plans),
  )


def rules_of(
  facts: facts_lib.Facts,
) -> dict[str, tuple[rules.Rule, ...]]:
  """Return the rules of each network of a model."""
  found: dict[str, tuple[rules.Rule, ...]] = {"transformer": rules.BACKBONE}
  kind = families.find(facts.family).image_tokenizer
  if kind is not None:
    found["image_tokenizer"] = picture_tokenizers.RULES[kind]
  return found


def _picture_folder(
  kind: str, roots: Mapping[str, pathlib.Path]
) -> pathlib.Path:
  """Return the image tokenizer's folder: its own, or inside the model's."""
  if "image_tokenizer" in roots:
    return roots["image_tokenizer"]
  inside = picture_tokenizers.SUBFOLDERS[kind]
  if inside is None or not (roots["model"] / inside).is_dir():
    raise FileNotFoundError(
      f"{roots['model']} must have its image tokenizer ({kind}) "
      + (f"in the folder {inside}, or " if inside else "")
      + "in a folder that is named (--image_tokenizer), got neither"
    )
  return roots["model"] / inside


def _load(
  opened: Mapping[str, tensors.Checkpoint],
  plans: Mapping[str, plan_lib.Plan],
  shapes: Mapping[str, Any],
  *,
  on_tensor: load_lib.Progress | None,
) -> dict[str, Any]:
  """Load the networks one after the other, with one progress for all."""
  totals = {
    name: load_lib.total_bytes(opened[name], plans[name], shapes[name])
    for name in opened
  }
  total = sum(totals.values())
  before = 0
  params = {}
  for name, checkpoint in opened.items():

    def report(done: int, _: int, before: int = before) -> None:
      if on_tensor is not None:
        on_tensor(before + done, total)

    params[name] = load_lib.load(
      checkpoint, plans[name], shapes[name], on_tensor=report
    )
    before += totals[name]
  return params


def _origin(
  roots: Mapping[str, pathlib.Path],
  opened: Mapping[str, tensors.Checkpoint],
  plans: Mapping[str, plan_lib.Plan],
) -> Origin:
  """Record what the sources' files were."""
  files = {name: folders.small_files(root) for name, root in roots.items()}
  components = {}
  ignored = {}
  for name, checkpoint in opened.items():
    root = name if name in roots else "model"
    inside = checkpoint.folder.relative_to(roots[root]).as_posix()
    components[name] = Component(
      root=root,
      folder="" if inside == "." else inside,
      headers={
        file.path.name: file.header.decode()
        for file in checkpoint.files.values()
      },
    )
    for tensor in plans[name].ignored:
      ignored[tensor] = np.array(checkpoint[tensor].view())
  return Origin(
    roots={name: epath.Path(root) for name, root in roots.items()},
    small_files={name: tuple(carried) for name, (carried, _) in files.items()},
    left_out=tuple(
      f"{name}/{path}" for name, (_, left) in files.items() for path in left
    ),
    components=components,
    ignored=ignored,
  )


def num_params(model: Model) -> tuple[int, int]:
  """Return how many parameters both networks have, and their bytes."""
  leaves = checkpoints.flatten(
    {"transformer": model.params, "image_tokenizer": model.image_params or {}}
  ).values()
  return sum(leaf.size for leaf in leaves), sum(leaf.nbytes for leaf in leaves)
