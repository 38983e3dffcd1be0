"""A miniature of the RL config, on an untrained miniature of MICRO."""

import miniature
import ml_collections
from ml_collections import config_dict

from experiments.configs import rl_micro


def write_model(folder) -> str:
  """Write the miniature as `ParallelPipeline.from_pretrained` reads it."""
  miniature.make_pipeline().save(str(folder))
  return str(folder)


def uneven(context):
  """Reward answers by the colour of their picture: untrained ones differ."""
  pictures = context.pictures.astype(float)
  return pictures[..., 0].mean((2, 3)) / 255.0


CALLS_LEFT = [1_000_000]


def fickle(context):
  """Do as `uneven` does until there are no calls left."""
  if CALLS_LEFT[0] == 0:
    raise RuntimeError("the judge is away")
  CALLS_LEFT[0] -= 1
  return uneven(context)


def get_config(preset: str = "recommended") -> ml_collections.ConfigDict:
  config = rl_micro.get_config(preset)
  config.model = ""  # the test says where
  config.num_iterations = 4
  config.num_prompts = 2
  config.group_size = 2
  config.data = dict(size=8, seed=1)
  config.sampler = dict(num_steps=4, num_image_steps=2)
  reward = dict(function="mini_rl:uneven", normalise="none")
  config.rewards = dict(red=reward)
  config.kl.target = config_dict.placeholder(float)
  config.kl.rate = 0.1
  config.optim.warmup_steps = 0
  config.samples.every = 2
  config.checkpoint.every = 2
  config.evaluate = dict(every=0, num_tasks=4, num_samples=2)
  return config
