"""MMaDA-Parallel-A, 8B: supervised training on own pairs (arXiv 2511.09611).

The model is a folder that `python -m paradiff.convert --variant=parallel_a`
wrote, and the data are pre-tokenized with it:

  python -m paradiff.data.pretokenize --source=pairs.jsonl --fit=near \
    --image_tokenizer=CONVERTED --out=coded
  python -m experiments.sft --config=experiments/configs/sft_parallel_a.py \
    --config.fine_tune=CONVERTED --config.data.folders="('coded',)" \
    --workdir=DIR

`sft_parallel_a.py:published` is the recipe of the published program, batch 128,
as far as our loss can say it: there one mean is taken over the tokens of both
modalities, here each has its own. The default has the weights of equation 2.
All parameters are trained; `--config.lora.rank=64` after
`sft_parallel_a.py:lora` trains adapters instead.

Pictures keep the nearest legal aspect; each size that occurs is a program of
its own to compile, and `--fit=square` has one. With
`--config.data.prompt_lens="(64,)"` short prompts have less padding, for twice
as many programs.

Chips: 16, a v5e-16 as it stands; a v6e-16 with
`--config.num_microbatches=4 --config.model.transformer.remat=attention`. A step
takes at least 5.9 s there and 1.2 s here (launch/AOT.md), and if a v6e reaches
the 45.5 % of its arithmetic that MaxText reports for a model of this size, 2.2:
the 10,000 steps are then 6.2 hours of 16 chips, 266 $ at 2.70 $ an hour and
chip on demand, 56 to 133 $ on spot (launch/README.md). None of it has been run.
"""

import ml_collections

PRESETS = ("recommended", "published", "lora")


def get_config(preset: str = "recommended") -> ml_collections.ConfigDict:
  """Return the config; fields left out have their dataclass's default.

  Args:
    preset: of `PRESETS`.

  Raises:
    ValueError: if there is no such preset.
  """
  if preset not in PRESETS:
    raise ValueError(f"preset must be one of {PRESETS}, got {preset!r}")
  config = ml_collections.ConfigDict()
  config.fine_tune = "converted_a"
  config.seed = 0
  config.num_steps = 10_000
  config.batch_size = 128
  config.num_microbatches = 8  # a row a chip at a time
  config.data = dict(folders=("coded",))
  config.model = dict(
    # 32 x 32 codes a picture, so rows of some 2,500 tokens.
    layout=dict(prompt_len=128, text_len=256),
    transformer=dict(remat="full", attention="fused"),
  )
  config.loss = dict(
    text_weight="inv_t",
    image_weight="one",
    drop_text_rate=0.1,
    drop_image_rate=0.1,
  )
  config.optim = dict(
    learning_rate=2e-5,
    warmup_steps=100,
    b2=0.95,
    weight_decay=0.1,
    clip_norm=1.0,
    moment_dtype="bfloat16",
  )
  config.mesh = dict(data=1, fsdp=16, tensor=1)
  config.log = dict(every=10)
  config.checkpoint = dict(every=500, num_kept=2)
  # Scores need the whole model on one device.
  config.evaluate = dict(every=0)
  if preset == "published":
    # Prompt and picture are dropped together, tokens all weigh the same.
    config.loss = dict(
      text_weight="one",
      image_weight="one",
      drop_text_rate=0.0,
      drop_image_rate=0.0,
      drop_both_rate=0.1,
    )
    config.optim.clip_norm = 4.0
    config.optim.moment_dtype = "float32"
  elif preset == "lora":
    config.lora = dict(rank=64, alpha=64.0)
    config.optim.learning_rate = 1e-4
    config.optim.weight_decay = 0.0
  return config
