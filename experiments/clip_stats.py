"""Estimate what ParaRL centres and scales a CLIP's cosine with.

  python -m experiments.clip_stats --clip=DIR --num=1000

`DIR` holds a CLIP that `convert.clip.load_reward` reads. Its reward is taken
of random training examples of the scenes world, their reasoning with their
picture, and `DIR/stats.json` gets

  mean, std: of the cosine (std that of a population);
  clipped_rate: share of the examples farther from the mean than one std,
    whose reward (arXiv 2511.09611, equation 4) is 0 or 1 exactly;
  count: examples;
  text_mode: the option of the reward that they were taken with.

The paper takes a random hundredth of the training distribution.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app
from absl import flags
from absl import logging
from etils import epath

from paradiff import metrics
from paradiff.convert import clip
from paradiff.data import images
from paradiff.data import pipeline as data_lib
from paradiff.rl import clip_reward
from paradiff.rl import reward as reward_lib
from paradiff.scenes import render
from paradiff.scenes import rules

FILE_NAME = "stats.json"
_CHUNK = 256  # examples scored at once


def context_of(examples: Sequence[rules.Example]) -> reward_lib.Context:
  """Return the finished answers that the examples themselves give."""
  texts = tuple((example.reasoning,) for example in examples)
  return reward_lib.Context(
    prompts=tuple(example.prompt for example in examples),
    texts=texts,
    predicted_texts=texts,
    pictures=np.stack([render.render(e.target)[None] for e in examples]),
    sources=tuple(
      None if e.source is None else render.render(e.source) for e in examples
    ),
    steps=np.ones(1, np.int32),
    num_steps=1,
    examples=tuple(examples),
  )


def summarise(scores: np.ndarray) -> dict[str, Any]:
  """Return the statistics of scores float[M], M at least 1."""
  wide = scores.astype(np.float64)
  mean, std = wide.mean(), wide.std()
  return {
    "mean": float(mean),
    "std": float(std),
    "clipped_rate": float((np.abs(wide - mean) > std).mean()),
    "count": len(scores),
  }


def run(
  folder: epath.PathLike,
  *,
  num: int,
  seed: int = 0,
  options: clip_reward.Options = clip_reward.DEFAULTS,
) -> dict[str, Any]:
  """Score `num` training examples; write and return the statistics.

  Raises:
    FileNotFoundError: if the folder lacks a part of the CLIP.
    ValueError: if the folder or a number is wrong.
  """
  if num < 2:
    raise ValueError(f"num must be at least 2, got {num}")
  reward = clip.load_reward(folder, options=options)
  examples = data_lib.ScenesSource(seed=seed, size=num)
  progress = metrics.Progress(num, stream=sys.stderr, what="example")
  scores = []
  for start in range(0, num, _CHUNK):
    end = min(num, start + _CHUNK)
    chunk = [examples[i] for i in range(start, end)]
    scores.append(reward(context_of(chunk))[:, 0])
    progress.update(end)
  progress.close()
  stats = summarise(np.concatenate(scores)) | {"text_mode": options.text_mode}
  text = json.dumps(stats, indent=2) + "\n"
  images.write_atomically(epath.Path(folder) / FILE_NAME, text.encode())
  return stats


def define_flags() -> None:
  """Define the flags: late, for modules may share names."""
  flags.DEFINE_string("clip", None, "Folder of the CLIP.", required=True)
  flags.DEFINE_integer("num", 1000, "Training examples to score.")
  flags.DEFINE_integer("seed", 0, "Seed of the examples.")
  flags.DEFINE_enum(
    "text_mode",
    clip_reward.Options.text_mode,
    clip_reward.TEXT_MODES,
    "How the reward reads a text.",
  )


def main(argv: list[str]) -> None:
  logging.set_verbosity(logging.WARNING)  # jax tells of devices it lacks
  if len(argv) > 1:
    raise app.UsageError(f"only flags are taken, got {argv[1:]}")
  asked = flags.FLAGS
  try:
    stats = run(
      asked.clip,
      num=asked.num,
      seed=asked.seed,
      options=clip_reward.Options(text_mode=asked.text_mode),
    )
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f"error: {error}")
  print(json.dumps(stats))


if __name__ == "__main__":
  define_flags()
  app.run(main)
