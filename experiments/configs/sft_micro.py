"""MICRO: supervised training on the scenes world (arXiv 2511.09611, eq. 2).

On two CPU cores 38 minutes and 3 for the token rows. Result: the model of that
name in the package; of the edits with one answer 48 % are solved, text and
picture both right and alike (see its card).

  python -m experiments.sft \
    --config=experiments/configs/sft_micro.py --workdir=DIR

`--config.image_tokenizer` is the folder of a trained image tokenizer; by
default the one that ships with the package.
"""

import importlib.resources
from collections.abc import Callable
from typing import Any

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """Return the config; fields left out have their dataclass's default."""
  config = ml_collections.ConfigDict()
  config.variant = "micro"
  assets = importlib.resources.files("paradiff") / "assets"
  config.image_tokenizer = str(assets / "micro")
  config.init_from = config_dict.placeholder(str)  # None: random weights
  config.seed = 0
  config.num_steps = 8_500
  config.batch_size = 32
  config.data = dict(size=60_000, seed=0)
  config.optim = dict(
    learning_rate=2e-3,  # far above the 8B's: a small network, from scratch
    warmup_steps=200,
    b2=0.98,
    weight_decay=0.01,
    muon_ratio=5.0,  # Muon's 0.01 for the matrices
  )
  config.loss = dict(
    text_weight="inv_t",
    image_weight="one",
    drop_text_rate=0.05,  # half the paper's: a short run
    drop_image_rate=0.05,
    # What binds words to places, see diffusion/corrupt.py.
    rows=dict(clean_text=0.3, clean_image=0.15),
  )
  config.mesh = dict(data=1, fsdp=1, tensor=1)
  config.log = dict(every=50)
  config.checkpoint = dict(every=1_000, num_kept=2)
  config.evaluate = dict(every=2_000, num_tasks=100, num_samples=8)
  return config


def sweep(add: Callable[[dict[str, Any]], None]) -> None:
  """Add two learning rates times two weights of the text's loss."""
  for learning_rate in (1e-3, 2e-3):
    for text_weight in ("inv_t", "one"):
      add(
        {
          "optim.learning_rate": learning_rate,
          "loss.text_weight": text_weight,
        }
      )
