"""The config of a ParaRL run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments import common
from experiments import options
from experiments import prompts as prompts_lib
from paradiff import variants
from paradiff.models import lora as lora_lib
from paradiff.rl import kl as kl_lib
from paradiff.rl import objective as objective_lib
from paradiff.rl import units as units_lib


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A run.

  Attributes:
    model: a shipped model or a folder, the policy to begin with.
    num_iterations: batches of rollouts.
    optim: the optimiser; its `num_steps` is the run's.
    data: the prompts.
    rewards: by name; see `experiments.rewards`.
    reference: a shipped model or a folder that the KL is taken to; default:
      `model`.
    sampler: sampler settings that differ from the variant's, for rollouts
      and scores; rollouts are sampled at `temperature`.
    transformer: settings of the network that differ, such as `remat` and
      `attention`.
    temperature: of text and picture in rollouts.
    num_prompts: P, prompts an iteration.
    group_size: G, rollouts of a prompt.
    units: what is scored.
    credit: what a unit is rewarded for.
    objective: the loss.
    kl: the weight of the KL.
    lora: the adapters; None trains all parameters.
    num_updates: updates an iteration.
    num_parts: parts that a batch is rolled out in.
    num_microbatches: parts that the rows of an update are cut into.
    cache: folder of token rows, to share between runs; default: the workdir's.
    seed: of everything random but the prompts.
    mesh: the devices.
    log: metrics; `every` iterations.
    checkpoint: checkpoints.
    evaluate: scores while training.
    samples: `every` iterations, rollouts are shown.
  """

  model: str
  num_iterations: int
  optim: Mapping[str, Any]
  data: prompts_lib.DataConfig
  rewards: Mapping[str, Any]
  reference: str | None = None
  sampler: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  transformer: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  temperature: float = 1.0
  num_prompts: int = 8
  group_size: int = 8
  units: units_lib.UnitsConfig = units_lib.UnitsConfig()
  credit: str = "mix"
  objective: objective_lib.ObjectiveConfig = objective_lib.ObjectiveConfig()
  kl: kl_lib.KlConfig = kl_lib.KlConfig()
  lora: lora_lib.LoraConfig | None = None
  num_updates: int = 1
  num_parts: int = 1
  num_microbatches: int = 1
  cache: str | None = None
  seed: int = 0
  mesh: options.MeshConfig = options.MeshConfig()
  log: options.LogConfig = options.LogConfig(every=1)
  checkpoint: options.CheckpointConfig = options.CheckpointConfig(every=20)
  evaluate: options.EvaluateConfig = options.EvaluateConfig()
  samples: options.LogConfig = options.LogConfig(every=20)

  def applied(self, variant: variants.Variant) -> variants.Variant:
    """Return the variant with the run's settings of sampler and network.

    Raises:
      ValueError: if a setting is unknown or out of range.
    """
    return dataclasses.replace(
      variant,
      sampler=common.override(variant.sampler, self.sampler),
      transformer=common.override(variant.transformer, self.transformer),
    )
