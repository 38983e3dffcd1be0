"""Load a model, whoever wrote it, and check that its parts fit together."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from paradiff import checkpoints
from paradiff import pretrained
from paradiff import published
from paradiff import shipped
from paradiff import variants
from paradiff.convert import model as model_files
from paradiff.convert import storage
from paradiff.data import crops
from paradiff.data import text as text_lib


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
  """A model with its tokenizers.

  Attributes:
    variant: the model as data.
    params: the transformer's parameters.
    image_params: the image tokenizer's parameters; None for text alone.
    text_tokenizer: words to ids.
  """

  variant: variants.Variant
  params: Any
  image_params: Any
  text_tokenizer: text_lib.TextTokenizer


def load(
  name_or_folder: str,
  *,
  variant: str | None = None,
  image_tokenizer: str | None = None,
  tokenizer: str | None = None,
  picture_size: int | None = None,
  mesh: jax.sharding.Mesh | None = None,
) -> Loaded:
  """Load a shipped model by name, a folder, or a published checkpoint.

  Args:
    name_or_folder: "micro", "tiny", a folder, or `hf://owner/name`.
    variant: for a published checkpoint, the name of its family in
      `published.VARIANTS`; other folders know what they are.
    image_tokenizer: folder of the image tokenizer of a published checkpoint
      that has none inside.
    tokenizer: folder of its text tokenizer, likewise.
    picture_size: side in pixels of the square whose area a published model's
      pictures have; default: 512, as published.
    mesh: spread the parameters of a converted or published model over it.

  Raises:
    FileNotFoundError: if there is no such model.
    ValueError: if a file is damaged or of another model, naming it.
  """
  named = {"image_tokenizer": image_tokenizer, "tokenizer": tokenizer}
  is_converted = storage.is_converted(name_or_folder)
  if variant is not None and is_converted:
    raise ValueError(
      f"variant must be None for a converted folder, which knows what it is, "
      f"got {variant!r} for {name_or_folder}"
    )
  if variant is not None:
    return _of(
      model_files.read(
        name_or_folder,
        variant,
        image_tokenizer=image_tokenizer,
        tokenizer=tokenizer,
        mesh=mesh,
      ),
      picture_size,
    )
  given = [name for name, value in named.items() if value is not None]
  if given:
    raise ValueError(
      f"{' and '.join(given)} must be None but for a published checkpoint "
      f"(variant=), got {name_or_folder}"
    )
  if is_converted:
    return _of(storage.load(name_or_folder, mesh=mesh), picture_size)
  if picture_size is not None:
    raise ValueError(
      f"picture_size must be None for a model of one layout, got {picture_size}"
    )
  folder = shipped.find(name_or_folder)
  params, config = pretrained.load(folder, "transformer")
  try:
    known = variants.from_dict(config)
  except ValueError as error:
    raise ValueError(f"{folder / 'transformer.json'}: {error}") from error
  image_params, _ = pretrained.load(folder, "image_tokenizer")
  loaded = Loaded(
    variant=known,
    params=jax.tree.map(jnp.asarray, params),
    image_params=jax.tree.map(jnp.asarray, image_params),
    text_tokenizer=text_lib.TextTokenizer.load(folder),
  )
  _check(loaded, folder)
  return loaded


def _of(found: model_files.Model, picture_size: int | None) -> Loaded:
  """Return a published model."""
  facts = found.facts
  if picture_size is not None and facts.image_tokenizer is not None:
    if type(picture_size) is not int or picture_size % crops.PATCH:
      raise ValueError(
        f"picture_size must be a multiple of {crops.PATCH}, got "
        f"{picture_size!r}"
      )
    pictures = dataclasses.replace(
      facts.image_tokenizer, picture_size=picture_size
    )
    facts = dataclasses.replace(facts, image_tokenizer=pictures)
  return Loaded(
    variant=published.variant_of(facts),
    params=found.params,
    image_params=found.image_params,
    text_tokenizer=text_lib.TextTokenizer.load(found.tokenizer),
  )


def _check(loaded: Loaded, folder: epath.Path) -> None:
  """Refuse parameters or words of another model, naming the file."""
  wanted = jax.eval_shape(
    lambda: variants.init(loaded.variant, jax.random.key(0))
  )
  for name, found, expected in (
    ("transformer", loaded.params, wanted["transformer"]),
    ("image_tokenizer", loaded.image_params, wanted["image_tokenizer"]),
  ):
    checkpoints.check_shapes(
      found, expected, source=str(folder / f"{name}.safetensors")
    )
  found_size = len(loaded.text_tokenizer)
  if found_size != loaded.variant.vocab.text_size:
    raise ValueError(
      f"{folder / 'tokenizer.json'} must have "
      f"{loaded.variant.vocab.text_size} tokens for {loaded.variant.name}, got "
      f"{found_size}"
    )
