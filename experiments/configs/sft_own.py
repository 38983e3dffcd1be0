"""TINY on own pairs of pictures: supervised training (arXiv 2511.09611, eq. 2).

ROOT is a folder of one's own with train.jsonl, held_out.jsonl and what they
name; `python -m experiments.emoji --out=ROOT` makes one. Then

  python -m experiments.tokenizer --workdir=ROOT/tokenizer \
    --config=experiments/configs/tokenizer_emoji.py \
    --config.data.folder=ROOT/pictures
  python -m paradiff.data.train_words --source=ROOT/train.jsonl \
    --out=ROOT/words
  for split in train held_out; do
    python -m paradiff.data.pretokenize --source=ROOT/$split.jsonl \
      --image_tokenizer=ROOT/tokenizer/export --out=ROOT/coded/$split
  done
  python -m experiments.sft --config=experiments/configs/sft_own.py:ROOT \
    --workdir=ROOT/sft
  python -m experiments.pairs --model=ROOT/sft/model \
    --source=ROOT/held_out.jsonl --output=ROOT/scores
"""

import ml_collections


def get_config(root: str = "ROOT") -> ml_collections.ConfigDict:
  """Return the config; fields left out have their dataclass's default.

  Args:
    root: the folder that the commands above fill.
  """
  config = ml_collections.ConfigDict()
  config.variant = "tiny"
  config.image_tokenizer = f"{root}/tokenizer/export"
  config.text_tokenizer = f"{root}/words"
  config.seed = 0
  config.num_steps = 3_000
  config.batch_size = 32
  config.data = dict(
    folders=(f"{root}/coded/train",), held_out=f"{root}/coded/held_out"
  )
  # Room for the texts; what does not fit is left out and counted.
  config.model = dict(layout=dict(prompt_len=24, text_len=48))
  config.optim = dict(
    learning_rate=2e-3,  # far above the 8B's: a small network, from scratch
    warmup_steps=100,
    b2=0.98,
    weight_decay=0.01,
    muon_ratio=5.0,  # Muon's 0.01 for the matrices
  )
  config.loss = dict(
    text_weight="inv_t",
    image_weight="one",
    drop_text_rate=0.05,
    drop_image_rate=0.05,
    # What binds words to places, see diffusion/corrupt.py.
    rows=dict(clean_text=0.3, clean_image=0.15),
  )
  config.mesh = dict(data=1, fsdp=1, tensor=1)
  config.log = dict(every=50)
  config.checkpoint = dict(every=250, num_kept=2)
  # The best is kept apart: a few thousand pairs are soon known by heart.
  config.evaluate = dict(
    every=250,
    num_tasks=128,
    num_samples=8,
    best_metric="eval/loss",
    best_mode="min",
  )
  return config
