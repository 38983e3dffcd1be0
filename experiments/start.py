"""What a run starts from: a variant, its tokenizers and first parameters."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath

from experiments import common
from paradiff import checkpoints
from paradiff import pipeline as pipeline_lib
from paradiff import places as places_lib
from paradiff import pretrained
from paradiff import variants
from paradiff.data import text as text_lib
from paradiff.models import image_tokenizer as image_tokenizer_lib
from paradiff.models import transformer as transformer_lib
from paradiff.scenes import grammar


def load_variant(name: str, fields: Mapping[str, Any]) -> variants.Variant:
  """Return the named variant with some fields replaced."""
  if name not in variants.VARIANTS:
    raise ValueError(
      f"variant must be one of {sorted(variants.VARIANTS)}, got {name!r}"
    )
  base = variants.VARIANTS[name]
  return common.override(base, fields)


def load_pipeline(
  image_tokenizer: str, variant: variants.Variant
) -> pipeline_lib.ParallelPipeline:
  """Return the pipeline without a transformer: tokenizers only.

  Raises:
    FileNotFoundError: if there is no image tokenizer.
    ValueError: if it is damaged or of another shape, naming the file.
  """
  folder = epath.Path(image_tokenizer)
  params, _ = pretrained.load(folder, "image_tokenizer")
  config = variant.pictures
  checkpoints.check_shapes(
    params,
    jax.eval_shape(lambda: image_tokenizer_lib.init(config, jax.random.key(0))),
    source=str(folder / "image_tokenizer.safetensors"),
  )
  words = text_lib.build_word_tokenizer(grammar.WORDS)
  return pipeline_lib.ParallelPipeline(
    variant=variant,
    params=None,
    image_params=jax.device_put(params),
    text_tokenizer=text_lib.TextTokenizer(words),
  )


def make_init(
  init_from: str | None, variant: variants.Variant
) -> Callable[[jax.Array], Any]:
  """Return what draws the first parameters from a key.

  Args:
    init_from: a shipped model or a folder, or None.
    variant: the model to train. Of another variant the blocks and the rows of
      words are taken; rows of picture codes are drawn, for they differ in
      meaning. A place gets the row of its counterpart there and half of its
      own first row, to tell apart what was one place.

  Raises:
    FileNotFoundError: if there is no such model.
    ValueError: if its blocks have other sizes or it has other words.
  """
  draw = functools.partial(transformer_lib.init, variant.transformer)
  if init_from is None:
    return draw
  other = pipeline_lib.ParallelPipeline.from_pretrained(init_from)
  words = text_lib.build_word_tokenizer(grammar.WORDS)
  if other.text_tokenizer.fast.get_vocab() != words.get_vocab():
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
