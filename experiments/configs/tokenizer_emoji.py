"""The image tokenizer of real small pictures: 64x64 to 8x8 codes of 10 bits."""

import dataclasses

import ml_collections
from ml_collections import config_dict

from paradiff import variants


def get_config() -> ml_collections.ConfigDict:
  """Return the config; fields left out have their dataclass's default."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.data = dict(folder=config_dict.placeholder(str), files=())
  config.batch_size = 8
  config.crop_steps = 500
  config.tokenizer = dataclasses.asdict(variants.TINY.pictures)
  config.loss = dict(
    canvas_rgb=(255, 255, 255),
    whole_codes="pictures",
    object_weight=2.0,
    batch_entropy_steps=1400,
  )
  config.optim = dict(
    learning_rate=4e-3,
    num_steps=2200,
    warmup_steps=50,
    end_rate=0.02,
    weight_decay=1e-4,
  )
  config.finish_optim = dict(
    learning_rate=2e-3,
    num_steps=600,
    warmup_steps=50,
    end_rate=0.01,
    weight_decay=1e-4,
  )
  config.log = dict(every=50)
  config.evaluate = dict(
    every=500, pictures=dict(num_pictures=256, batch_size=64)
  )
  config.checkpoint = dict(every=500)
  return config
