"""TINY: supervised training on the scenes world (arXiv 2511.09611, eq. 2).

On two CPU cores 36 minutes and 5 for the token rows, from MICRO's weights.
Result: the model of that name in the package; of the edits with one answer
50 % are solved, text and picture both right and alike (see its card).

  python -m experiments.sft \
    --config=experiments/configs/sft_tiny.py --workdir=DIR

`--config.image_tokenizer` is the folder of a trained image tokenizer; by
default the one that ships with the package.
"""

import importlib.resources

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Return the config; fields left out have their dataclass's default."""
  config = ml_collections.ConfigDict()
  config.variant = "tiny"
  assets = importlib.resources.files("paradiff") / "assets"
  config.image_tokenizer = str(assets / "tiny")
  config.init_from = "micro"  # its words, blocks and places; codes are new
  config.seed = 0
  config.num_steps = 3_000
  config.batch_size = 32
  config.data = dict(size=60_000, seed=0)
  config.optim = dict(
    learning_rate=2e-3,  # far above the 8B's: a small network, new codes
    warmup_steps=100,
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
  config.checkpoint = dict(every=500, num_kept=2)
  config.evaluate = dict(every=1_500, num_tasks=100, num_samples=8)
  return config
