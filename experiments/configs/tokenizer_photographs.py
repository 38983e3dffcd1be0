"""An image tokenizer for photographs: 128x128 to 8x8 codes of 10 bits.

MAGVIT-v2 (arXiv 2310.05737) with few channels, for the windows that
`experiments.photographs` cuts. A code stands for 16x16 pixels, so that source
and result of an edit are 128 codes together, which a small transformer learns
from on a CPU; pictures of other sizes have a code for each 16x16 pixels too.
What comes back is blurred: 18 dB on photographs that were not trained on, in a
quarter of an hour on one core (benchmarks/RESULTS.md).

  python -m experiments.tokenizer \
    --config=experiments/configs/tokenizer_photographs.py --workdir=DIR \
    --config.data.folder=PHOTOGRAPHS/pictures
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """Return the config; fields left out have their dataclass's default."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.data = dict(
    folder=config_dict.placeholder(str),  # everything below it
    files=(),  # or glob patterns
    held_out_rate=0.02,
  )
  config.batch_size = 4  # 256 codes
  config.crop_steps = 900
  multipliers = (1, 1, 2, 4, 8)  # as many operations at each level but one
  config.tokenizer = dict(
    picture_size=128,
    code_bits=10,
    base_channels=8,
    encoder_multipliers=multipliers,
    encoder_blocks=(1,) * len(multipliers),
    decoder_multipliers=multipliers,
    decoder_blocks=(1,) * len(multipliers),
    norm_groups=4,
    mid_attention=False,
  )
  config.loss = dict(
    # Most edits change each cell for itself; with codes of crops they change
    # each code for itself, and what stays keeps its code.
    whole_codes="crops",
    object_weight=0.0,  # a photograph has no canvas
    finish_object_weight=0.0,
    # Nor empty cells, for which the codes in use would have to get few.
    batch_entropy_steps=4000,
  )
  config.optim = dict(
    learning_rate=4e-3,
    num_steps=2000,
    warmup_steps=50,
    end_rate=0.02,
    weight_decay=1e-4,
  )
  config.finish_optim = dict(
    learning_rate=2e-3,
    num_steps=700,
    warmup_steps=50,
    end_rate=0.01,
    weight_decay=1e-4,
  )
  config.log = dict(every=50)
  config.evaluate = dict(
    every=500, pictures=dict(num_pictures=64, batch_size=16)
  )
  config.checkpoint = dict(every=500)
  return config
