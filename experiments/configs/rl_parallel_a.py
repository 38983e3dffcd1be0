"""MMaDA-Parallel-A, 8B: ParaRL with adapters on one's own prompts.

Mesh: (data 1, fsdp 8, tensor 1), eight accelerators; by count each holds 2 GB
of bfloat16 weights and below 1 GB of adapters with their moments. What the step
needs beside them, by chip, stands in launch/AOT.md. The adapters off are the
reference policy, so there is no second copy of the weights. A's 134,548 rows
of embedding divide by 4, not by 8, so `tensor` stays at 1 here. It has not been
run at this size.

The model is a folder that `python -m paradiff.convert --variant=parallel_a`
wrote; the CLIP one in Hugging Face's format (the paper does not name its own;
ViT-L/14-336 is likely), with the statistics of its scores on one's own data
given below or estimated by `python -m experiments.clip_stats`.

  python -m experiments.rl --config=experiments/configs/rl_parallel_a.py \
    --config.model=CONVERTED --config.data.path=prompts.jsonl \
    --config.rewards.clip.folder=CLIP --workdir=DIR
"""

import ml_collections
from ml_collections import config_dict

from experiments.configs import rl_presets


def get_config(preset: str = "recommended") -> ml_collections.ConfigDict:
  """Return the config; fields left out have their dataclass's default.

  Args:
    preset: a name of `rl_presets.PRESETS`.
  """
  config = ml_collections.ConfigDict()
  config.model = "converted_a"
  config.seed = 0
  config.num_iterations = 1_000
  config.num_prompts = 8  # a row a device and group member
  config.group_size = 8
  config.num_parts = 4
  config.num_microbatches = 24  # 192 rows, one a device at a time
  config.data = dict(
    path="prompts.jsonl", text_len=config_dict.placeholder(int)
  )
  # Half of the published 128: cheaper rollouts, twice the tokens a step.
  config.sampler = dict(
    num_steps=64,
    num_image_steps=32,
    # A guided distribution is not the policy's own.
    image_guidance=dict(text=0.0, image=0.0, both=0.0),
    text_guidance=dict(text=0.0, image=0.0, both=0.0),
  )
  config.rewards = dict(
    clip=dict(
      weight=1.0,
      folder="clip",
      normalise="per_step",
      options=dict(text_mode="chunk_mean"),  # 256 tokens do not fit in 77
    )
  )
  config.lora = dict(rank=64, alpha=64.0)
  config.optim = dict(
    learning_rate=5e-6, warmup_steps=20, end_rate=0.1, weight_decay=0.0
  )
  # Without remat one row of 2,500 tokens takes 60 GB.
  config.transformer = dict(remat="full", attention="fused")
  config.mesh = dict(data=1, fsdp=8, tensor=1)
  config.update(rl_presets.PRESETS[preset]())
  config.log = dict(every=1)
  config.samples = dict(every=20)
  config.checkpoint = dict(every=50, num_kept=2)
  config.evaluate = dict(every=0)
  return config
