"""An image tokenizer for your own pictures: 64x64 to 8x8 codes of 10 bits.

MAGVIT-v2 (arXiv 2310.05737) of the size of TINY, so that a TINY reads its
codes. Made for the emoji that `experiments.emoji` draws: on white, 3,800.

  python -m experiments.tokenizer \
    --config=experiments/configs/tokenizer_emoji.py --workdir=DIR \
    --config.data.folder=EMOJI/pictures

Instead of a folder, patterns: --config.data.files="('a/*.png', 'b/**/*')".
"""

import dataclasses

import ml_collections
from ml_collections import config_dict

from paradiff import variants


def get_config() -> ml_collections.ConfigDict:
  """Return the config; fields left out have their dataclass's default."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.data = dict(
    folder=config_dict.placeholder(str),  # everything below it
    files=(),  # or glob patterns
    held_out_rate=0.1,
  )
  config.batch_size = 8
  config.crop_steps = 500
  config.tokenizer = dataclasses.asdict(variants.TINY.pictures)
  config.loss = dict(
    # An edit leaves most of a picture as it is, and its codes with it only if
    # they do not hang on what is around: codes of crops, not of pictures.
    whole_codes="crops",
    canvas_rgb=(255, 255, 255),
    object_weight=2.0,  # 0 for photographs, which have no canvas
    batch_entropy_steps=1400,
  )
  config.optim = dict(
    learning_rate=4e-3,
    num_steps=1800,
    warmup_steps=50,
    end_rate=0.02,
    weight_decay=1e-4,
  )
  config.finish_optim = dict(
    learning_rate=2e-3,
    num_steps=1000,
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
