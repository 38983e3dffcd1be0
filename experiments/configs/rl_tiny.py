"""TINY: ParaRL on the scenes world, as `rl_micro` for four times the codes.

One device; on two CPU cores about a minute an iteration (counted from MICRO's
by tokens, not run to the end).

  python -m experiments.rl \
    --config=experiments/configs/rl_tiny.py --workdir=DIR
"""

import ml_collections

from experiments.configs import rl_micro


def get_config(preset: str = "recommended") -> ml_collections.ConfigDict:
  """Return the config; see `rl_micro.get_config`."""
  config = rl_micro.get_config(preset)
  config.model = "tiny"
  # 112 tokens in 28 steps: four a step, as in MICRO.
  config.sampler = dict(num_steps=28, num_image_steps=14)
  config.num_microbatches = 24
  return config
