"""MMaDA-Parallel-M, 8B: supervised training on own pairs (arXiv 2511.09611).

See `sft_parallel_a` for the commands, the presets, chips, time and cost: a step
of M has 3 % less to compute. What M was trained with was not published as a
config; `sft_parallel_m.py:published` is the recipe of the model it comes from,
with both conditions dropped independently.
"""

import ml_collections

from experiments.configs import sft_parallel_a


def get_config(preset: str = "recommended") -> ml_collections.ConfigDict:
  """Return the config; see `sft_parallel_a.get_config`."""
  config = sft_parallel_a.get_config(preset)
  config.fine_tune = "converted_m"
  if preset == "published":
    config.loss.update(
      text_weight="inv_t",
      image_weight="one",
      drop_text_rate=0.1,
      drop_image_rate=0.1,
      drop_both_rate=0.0,
    )
    config.optim.update(
      learning_rate=5e-5,
      warmup_steps=5_000,
      end_rate=0.1,
      b2=0.999,
      weight_decay=0.01,
      clip_norm=1.0,
    )
  return config
