"""MMaDA-Parallel-A at a thousandth of its size, on edits of real photographs.

The sequence, the words around an instruction, the sizes of pictures and their
grids are the published family's (paradiff/published.py); the network is narrow
and both tokenizers are trained for it. ROOT is made by the first command:

  python -m experiments.photographs --out=ROOT
  python -m experiments.tokenizer --workdir=ROOT/tokenizer \
    --config=experiments/configs/tokenizer_photographs.py \
    --config.data.folder=ROOT/pictures
  python -m paradiff.data.train_words --source=ROOT/train.jsonl \
    --family=parallel_a --size=640 --out=ROOT/words
  for split in train held_out; do
    python -m paradiff.data.pretokenize --source=ROOT/$split.jsonl --fit=near \
      --image_tokenizer=ROOT/tokenizer/export --out=ROOT/coded/$split
  done
  python -m experiments.sft --workdir=ROOT/sft \
    --config=experiments/configs/sft_photographs.py:ROOT
  python -m experiments.pairs --model=ROOT/sft/model \
    --source=ROOT/held_out.jsonl --output=ROOT/scores

One chip or CPU; two cores take about half an hour.
"""

import ml_collections


def get_config(root: str = "ROOT") -> ml_collections.ConfigDict:
  """Return the config; fields left out have their dataclass's default.

  Args:
    root: the folder that the commands above fill.
  """
  config = ml_collections.ConfigDict()
  config.variant = "parallel_a"
  config.image_tokenizer = f"{root}/tokenizer/export"
  config.text_tokenizer = f"{root}/words"
  config.seed = 0
  config.num_steps = 2_000
  config.batch_size = 32
  config.data = dict(
    folders=(f"{root}/coded/train",),
    held_out=f"{root}/coded/held_out",
  )
  config.model = dict(
    transformer=dict(
      width=128,
      num_layers=4,
      num_heads=4,
      mlp_width=256,
      rope_theta=10_000.0,
      compute_dtype="float32",
      scan_unroll=4,
    ),
    # Room for the texts; what does not fit is left out and counted.
    layout=dict(prompt_len=28, text_len=36),
    # The surest words and codes, without guidance: at the strengths of the 8B
    # model pictures fall apart (error 23 against 11, benchmarks/RESULTS.md).
    sampler=dict(
      num_steps=32,
      num_image_steps=16,
      image_temperature=0.0,
      image_noise=0.0,
      image_guidance=dict(text=0.0, image=0.0),
    ),
  )
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
  config.evaluate = dict(
    every=250,
    num_tasks=128,
    num_samples=8,
    best_metric="eval/loss",
    best_mode="min",
  )
  return config
