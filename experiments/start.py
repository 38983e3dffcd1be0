"""What a run starts from: a variant, its tokenizers and first parameters."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments import common
from experiments import processes
from paradiff import checkpoints
from paradiff import optim
from paradiff import pipeline as pipeline_lib
from paradiff import places as places_lib
from paradiff import published
from paradiff import sharding
from paradiff import train_state
from paradiff import variants
from paradiff.data import encoding
from paradiff.data import text as text_lib
from paradiff.models import image_tokenizer as image_tokenizer_lib
from paradiff.models import lora as lora_lib
from paradiff.models import transformer as transformer_lib
from paradiff.scenes import grammar

Init = Callable[[jax.Array], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizers:
  """What turns pictures and words into ids.

  Attributes:
    pictures: sizes of the image tokenizer.
    image_params: its parameters, on the host.
    words: the text tokenizer.
  """

  pictures: image_tokenizer_lib.ImageTokenizerConfig
  image_params: Any
  words: text_lib.TextTokenizer


def load_tokenizers(
  image_tokenizer: str, text_tokenizer: str | None
) -> Tokenizers:
  """Load both tokenizers.

  Args:
    image_tokenizer: a shipped model or a folder.
    text_tokenizer: a folder; None for the words of the scenes world.

  Raises:
    FileNotFoundError: if one of them is not there.
    ValueError: if one is damaged, naming the file.
  """
  pictures, params = encoding.load_tokenizer(image_tokenizer)
  return Tokenizers(pictures, params, load_words(text_tokenizer))


def load_words(folder: str | None) -> text_lib.TextTokenizer:
  """Load a text tokenizer; None for the words of the scenes world."""
  if folder is not None:
    return text_lib.TextTokenizer.load(folder)
  return text_lib.TextTokenizer(text_lib.build_word_tokenizer(grammar.WORDS))


def load_variant(
  name: str, fields: Mapping[str, Any], *, tokenizers: Tokenizers
) -> variants.Variant:
  """Return the named variant, made for the tokenizers, with changed fields.

  The published families have the sizes of 8B unless `fields` change them. The
  places of the small variants follow from the layout.

  Raises:
    ValueError: if there is no such variant, a field is wrong, or the
      tokenizers do not suit it.
  """
  known = {**variants.VARIANTS, **published.WITH_PICTURES}
  if name not in known:
    raise ValueError(f"variant must be one of {sorted(known)}, got {name!r}")
  marks = variants.MARKS
  if name in published.WITH_PICTURES:
    marks = published.marks_of(known[name])
  fitted = variants.fit(
    known[name],
    pictures=tokenizers.pictures,
    word_ids=tokenizers.words.ids,
    num_words=len(tokenizers.words),
    marks=marks,
  )
  changed = common.override(fitted, fields)
  backbone, own = changed.transformer, fitted.transformer.place_grids
  if own and backbone.place_grids == own:
    backbone = dataclasses.replace(
      backbone, place_grids=places_lib.grids(changed.layout)
    )
  return dataclasses.replace(changed, transformer=backbone)


def make_pipeline(
  variant: variants.Variant, tokenizers: Tokenizers
) -> pipeline_lib.ParallelPipeline:
  """Return the pipeline without a transformer: tokenizers only.

  Raises:
    ValueError: if the variant is of other tokenizers.
  """
  for what, wanted, found in (
    ("image tokenizer", variant.pictures, tokenizers.pictures),
    ("number of words", variant.vocab.text_size, len(tokenizers.words)),
  ):
    if wanted != found:
      raise ValueError(
        f"the variant must have the {what} that it is given, {found}, got "
        f"{wanted}"
      )
  return pipeline_lib.ParallelPipeline(
    variant=variant,
    params=None,
    image_params=jax.device_put(tokenizers.image_params),
    text_tokenizer=tokenizers.words,
  )


def make_init(
  init_from: str | None,
  variant: variants.Variant,
  words: text_lib.TextTokenizer | None = None,
) -> Init:
  """Return what draws the first parameters from a key.

  Args:
    init_from: a shipped model or a folder, or None.
    variant: the model to train. Of another variant the blocks and the rows of
      words are taken; rows of picture codes are drawn, for they differ in
      meaning. A place gets the row of its counterpart there and half of its
      own first row, to tell apart what was one place.
    words: those of the run; None for the scenes world's.

  Raises:
    FileNotFoundError: if there is no such model.
    ValueError: if its blocks have other sizes or it has other words.
  """
  draw = functools.partial(transformer_lib.init, variant.transformer)
  if init_from is None:
    return draw
  other = pipeline_lib.ParallelPipeline.from_pretrained(init_from)
  own = load_words(None) if words is None else words
  if other.text_tokenizer.fast.get_vocab() != own.fast.get_vocab():
    raise ValueError(f"init_from must speak the same words, got {init_from!r}")
  same = other.variant.name == variant.name
  num_rows = variant.vocab.size if same else variant.vocab.text_size
  counterparts = places_lib.counterparts(variant.layout, other.variant.layout)

  def init(key: jax.Array) -> Any:
    params = draw(key)
    rows = {
      name: params[name].at[:num_rows].set(other.params[name][:num_rows])
      for name in ("embed", "head")
    }
    if "places" in params and not same:
      theirs = other.params["places"][counterparts]
      rows["places"] = theirs + 0.5 * params["places"]
    return {**other.params, **rows}

  checkpoints.check_shapes(
    jax.eval_shape(init, jax.random.key(0)),
    jax.eval_shape(draw, jax.random.key(0)),
    source=init_from,
  )
  return init


def load(name: str, mesh: jax.sharding.Mesh) -> pipeline_lib.ParallelPipeline:
  """Return a model, spread over the mesh if that has several devices.

  Of several processes each encodes and decodes by itself.
  """
  found = processes.together(
    lambda: pipeline_lib.ParallelPipeline.from_pretrained(
      name, mesh=mesh if mesh.size > 1 else None
    )
  )
  if jax.process_count() == 1:
    return found
  images = jax.tree.map(jnp.asarray, processes.gathered(found.image_params))
  return dataclasses.replace(found, image_params=images, mesh=None)


def make_tx(
  fields: Mapping[str, Any],
  *,
  num_steps: int,
  transformer: transformer_lib.TransformerConfig,
  lora: lora_lib.LoraConfig | None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Return the optimiser of a run, and the learning rate by step.

  Args:
    fields: of `optim.OptimConfig`, as the config gives them.
    num_steps: updates of the run.
    transformer: sizes of the network.
    lora: the adapters that are trained, or None.

  Raises:
    ValueError: if a field is wrong.
  """
  config = common.build(optim.OptimConfig, fields, num_steps=num_steps)
  matrix_axes = None  # adapters are no matrices that Muon knows
  if lora is None:
    matrix_axes = transformer_lib.matrix_axes(transformer)
  return (
    optim.make_tx(config, matrix_axes=matrix_axes),
    optim.make_schedule(config),
  )


def begin_from(
  params: Any,
  tx: optax.GradientTransformation,
  key: jax.Array,
  *,
  transformer: transformer_lib.TransformerConfig,
  lora: lora_lib.LoraConfig | None,
  adapters_key: jax.Array,
  mesh: jax.sharding.Mesh,
  loop: dict[str, Any] | None = None,
) -> tuple[train_state.TrainState, Any, Any]:
  """Return the state that begins with given parameters, or adapters of them.

  What is trained is float32; weights beneath adapters stay as they are.

  Args:
    params: of the network, in any float dtype.
    tx: the optimiser.
    key: the run's key.
    transformer: sizes of the network.
    lora: the adapters to train; None trains all parameters.
    adapters_key: draws the adapters; no key of a step.
    mesh: where the state lives.
    loop: arrays that the loop keeps besides.

  Returns:
    The state, its shardings, and the weights beneath adapters or None.
  """
  axes, frozen = transformer_lib.logical_axes(transformer), None
  if lora is None:
    trained = jax.tree.map(lambda x: x.astype(jnp.float32), params)
  else:
    frozen = jax.device_put(params, sharding.shardings(mesh, axes))
    trained = lora_lib.init(lora, transformer, adapters_key)
    axes = lora_lib.logical_axes(lora, transformer)
  state, places = train_state.place_state(
    trained, tx, key, mesh=mesh, logical_axes=axes, loop=loop
  )
  return state, places, frozen
