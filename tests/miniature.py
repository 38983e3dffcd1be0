"""An untrained miniature of MICRO, for tests that need a whole model."""

import dataclasses

import jax

from paradiff import pipeline as pipeline_lib
from paradiff import variants
from paradiff.data import text
from paradiff.diffusion import settings
from paradiff.scenes import grammar

VARIANT = dataclasses.replace(
  variants.MICRO,
  name="miniature",
  transformer=dataclasses.replace(
    variants.MICRO.transformer,
    width=32,
    num_layers=2,
    num_heads=2,
    mlp_width=48,
  ),
  image_tokenizer=dataclasses.replace(
    variants.MICRO.pictures,
    base_channels=4,
    encoder_multipliers=(1, 1, 1, 1, 1),
    decoder_multipliers=(1, 1, 1, 1, 1),
  ),
  sampler=settings.SamplerConfig(num_steps=12, num_image_steps=6),
)


def make_pipeline() -> pipeline_lib.ParallelPipeline:
  """Return the miniature with random parameters."""
  init = jax.jit(variants.init, static_argnums=0)
  params = init(VARIANT, jax.random.key(0))
  words = text.build_word_tokenizer(grammar.WORDS)
  return pipeline_lib.ParallelPipeline(
    variant=VARIANT,
    params=params["transformer"],
    image_params=params["image_tokenizer"],
    text_tokenizer=text.TextTokenizer(words),
  )
