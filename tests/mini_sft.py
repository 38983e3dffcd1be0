"""A miniature of the SFT config: the same code in a second a hundred steps."""

import dataclasses
from typing import Any

import jax
import ml_collections

from experiments.configs import sft_micro
from paradiff import pretrained
from paradiff.models import image_tokenizer

IMAGE_TOKENIZER: dict[str, Any] = dict(
  picture_size=64,
  code_bits=4,
  base_channels=4,
  encoder_multipliers=(1, 1, 1, 1, 1),
  encoder_blocks=(1, 1, 1, 1, 1),
  decoder_multipliers=(1, 1, 1, 1, 1),
  decoder_blocks=(1, 1, 1, 1, 1),
  norm_groups=2,
  mid_attention=False,
)


def get_config() -> ml_collections.ConfigDict:
  config = sft_micro.get_config()
  config.image_tokenizer = ""  # the test says where
  config.num_steps = 80
  config.batch_size = 8
  config.data = dict(size=64, seed=0)
  size = 200  # words and codes
  config.model = dict(
    transformer=dict(
      width=16, num_layers=1, num_heads=2, mlp_width=16, vocab_size=size
    ),
    image_tokenizer=IMAGE_TOKENIZER,
    vocab=dict(size=size, codebook_size=16),
    sampler=dict(num_steps=4, num_image_steps=2),
  )
  config.optim.warmup_steps = 4
  config.log.every = 4
  config.checkpoint.every = 8
  config.evaluate = dict(every=0, num_tasks=4, num_samples=2)
  return config


def write_image_tokenizer(folder) -> None:
  """Write an untrained image tokenizer of the config's sizes."""
  config = image_tokenizer.ImageTokenizerConfig(**IMAGE_TOKENIZER)
  params = image_tokenizer.init(config, jax.random.key(0))
  pretrained.save(folder, "image_tokenizer", params, dataclasses.asdict(config))


def sweep(add) -> None:
  """Add two learning rates times two weights of the text's loss."""
  for rate in (1e-3, 2e-3):
    for weight in ("inv_t", "one"):
      add({"optim.learning_rate": rate, "loss.text_weight": weight})
