"""What `experiments.reproduce` trains and how it decodes, as data.

A training is a config of `experiments.sft` or `experiments.rl` with a few
fields changed; a decoding changes the sampler of the model's variant.

Source: arXiv 2511.09611 tables 3, 4, 5, 9 and 10.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from experiments.configs import rl_micro
from experiments.configs import sft_micro
from paradiff.diffusion import settings

SHIPPED = "shipped"  # what reinforcement begins with
SHIPPED_NAME = "micro"


@dataclasses.dataclass(frozen=True)
class Scale:
  """How much is spent.

  Attributes:
    num_seeds: seeds of every training in the parts that have several.
    sft_steps: updates of a supervised training.
    rl_iterations: batches of rollouts of a reinforcement.
    num_prompts: held-out prompts that every system answers.
    sft_examples: different examples of a supervised training.
    rl_examples: different prompts of a reinforcement.
    decode_steps: steps of the decodings that are compared.

  Raises:
    ValueError: if a number is too small.
  """

  num_seeds: int = 3
  sft_steps: int = 1_500
  rl_iterations: int = 100
  num_prompts: int = 2_000
  sft_examples: int = 60_000
  rl_examples: int = 8_000
  decode_steps: int = 16

  def __post_init__(self) -> None:
    least = dict(
      num_seeds=1,
      sft_steps=2,  # one of warm-up
      rl_iterations=2,
      num_prompts=18,  # two of each category
      sft_examples=32,
      rl_examples=8,
      decode_steps=4,
    )
    for name, bound in least.items():
      if getattr(self, name) < bound:
        raise ValueError(
          f"{name} must be at least {bound}, got {getattr(self, name)}"
        )


SCALES = {
  "full": Scale(),
  "reduced": Scale(
    num_seeds=1,
    sft_steps=100,
    rl_iterations=3,
    num_prompts=60,
    sft_examples=4_000,
    rl_examples=1_000,
  ),
}


@dataclasses.dataclass(frozen=True)
class Training:
  """A model to be trained.

  Attributes:
    label: what tables and plots call it.
    kind: "sft" or "rl".
    changes: of the config of MICRO, by dotted name.
  """

  label: str
  kind: str
  changes: Mapping[str, Any]


def _sft(
  label: str, *, rows: Mapping[str, float] | None = None, **weights: str
) -> Training:
  changes = {f"loss.{name}": value for name, value in weights.items()}
  return Training(label, "sft", {"loss.rows": dict(rows or {}), **changes})


def _units(kind: str, num: int) -> Training:
  what = "slices" if kind == "slices" else "isolated steps"
  changes = {"units.kind": kind, "units.num": num}
  return Training(f"ParaRL, {num} {what}", "rl", changes)


TRAININGS = {
  "sft_parallel": _sft("parallel training"),
  "sft_sequential": _sft(
    "sequential training", rows=dict(clean_text=0.5, absent_image=0.5)
  ),
  # What binds the words to the picture, see diffusion/corrupt.py.
  "sft_mixed": _sft(
    "parallel training with clean rows",
    rows=dict(clean_text=0.3, clean_image=0.15),
  ),
  # Its picture is asked for beside the whole text and beside none.
  "sft_both_ways": _sft(
    "training with and without thinking",
    rows=dict(clean_text=0.375, absent_text=0.375, absent_image=0.25),
  ),
  "sft_both_inv_t": _sft(
    "weights: both 1/t", text_weight="inv_t", image_weight="inv_t"
  ),
  "sft_both_one": _sft(
    "weights: both 1", text_weight="one", image_weight="one"
  ),
  "rl_pararl": Training("ParaRL", "rl", {}),
  "rl_final_on_states": Training(
    "final reward on all states", "rl", {"credit": "final"}
  ),
  # UniGRPO: the finished answer under random masks, the reward of its end.
  "rl_output_level": Training(
    "output-level RL", "rl", {"units.kind": "masked", "credit": "final"}
  ),
  **{
    f"rl_{kind}_{num}": _units(kind, num)
    for kind in ("stratified", "slices")
    for num in (1, 2, 3, 4, 8)
    # Three slices are ParaRL itself; of isolated steps the paper has four.
    if (kind, num) not in (("slices", 3), ("stratified", 8))
  },
  "rl_clip": Training(
    "ParaRL, CLIP reward",
    "rl",
    {"rewards": {"clip": {"weight": 1.0, "normalise": "paper_clip"}}},
  ),
}


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How a model is decoded; greedy, as its variant is.

  Attributes:
    label: what tables call it.
    decoding: one of `settings.DECODINGS`.
    num_steps: S; None for the scale's.
    text_end_rate: share of the clock by which the text is complete; None for
      the variant's.
  """

  label: str
  decoding: str = "parallel"
  num_steps: int | None = None
  text_end_rate: float | None = None

  def sampler(
    self, base: settings.SamplerConfig, *, decode_steps: int
  ) -> settings.SamplerConfig:
    """Return the settings of a variant with this decoding."""
    num_steps = self.num_steps or decode_steps
    changed = dataclasses.replace(
      base,
      num_steps=num_steps,
      num_image_steps=min(base.num_image_steps, num_steps // 2),
    )
    if self.text_end_rate is not None:
      changed = dataclasses.replace(changed, text_end_rate=self.text_end_rate)
    return changed.decoded(self.decoding)


DECODINGS = {
  "parallel": Decoding("parallel decoding"),
  "semi_parallel": Decoding("semi-parallel decoding", "semi_parallel"),
  "sequential": Decoding("sequential decoding", "sequential"),
  "picture_first": Decoding("drawn without thinking", "picture_first"),
  "parallel_32": Decoding("parallel, 32 steps", num_steps=32),
  # MICRO has 64 tokens to fill: one a step.
  "parallel_64": Decoding("parallel, 64 steps", num_steps=64),
  "text_first": Decoding("parallel, text by half time", text_end_rate=0.5),
}


def make_config(
  name: str, *, seed: int, scale: Scale, cache: str, clip: str | None = None
) -> ml_collections.ConfigDict:
  """Return the config of one of TRAININGS.

  Args:
    name: in TRAININGS.
    seed: of everything random but the data.
    scale: how much is spent.
    cache: folder of token rows.
    clip: folder of the CLIP, for the training that is rewarded by one.
  """
  training = TRAININGS[name]
  is_sft = training.kind == "sft"
  config = sft_micro.get_config() if is_sft else rl_micro.get_config()
  with config.unlocked():
    config.seed = seed
    config.cache = cache
    config.evaluate = dict(every=0)
    if is_sft:
      config.num_steps = scale.sft_steps
      config.data.size = scale.sft_examples
      config.checkpoint = dict(every=500, num_kept=1)
      config.log = dict(every=100)
    else:
      config.num_iterations = scale.rl_iterations
      config.data.size = scale.rl_examples
      config.samples = dict(every=20)
      config.checkpoint = dict(every=20, num_kept=1)
      parts_per_unit = max(1, config.num_microbatches // config.units.num)
    length = scale.sft_steps if is_sft else scale.rl_iterations
    # A warm-up must end before a short run does.
    config.optim.warmup_steps = min(config.optim.warmup_steps, length // 2)
    for path, value in training.changes.items():
      *parents, last = path.split(".")
      node = config
      for parent in parents:
        node = node[parent]
      node[last] = (
        ml_collections.ConfigDict(value)
        if isinstance(value, Mapping)
        else value
      )
    if not is_sft:
      # As many rows a micro-batch, however many units a rollout has.
      config.num_microbatches = parts_per_unit * config.units.num
    if clip is not None and "clip" in config.get("rewards", {}):
      config.rewards.clip.folder = clip
  return config
