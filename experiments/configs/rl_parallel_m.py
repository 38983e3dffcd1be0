"""MMaDA-Parallel-M, 8B: ParaRL with adapters on one's own prompts.

Mesh: (data 1, fsdp 4, tensor 2), eight accelerators; see
`rl_parallel_a` for the counts and for what has to be given. It has not been run
at this size.

  python -m experiments.rl --config=experiments/configs/rl_parallel_m.py \
    --config.model=CONVERTED --config.data.path=prompts.jsonl \
    --config.rewards.clip.folder=CLIP --workdir=DIR
"""

import ml_collections

from experiments.configs import rl_parallel_a


def get_config(preset: str = "recommended") -> ml_collections.ConfigDict:
  """Return the config; see `rl_parallel_a.get_config`."""
  config = rl_parallel_a.get_config(preset)
  config.model = "converted_m"
  config.mesh = dict(data=1, fsdp=4, tensor=2)
  return config
