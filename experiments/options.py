"""Sections of a config that every experiment has."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each mesh axis; 1 is off."""

  data: int = 1
  fsdp: int = 1
  tensor: int = 1


@dataclasses.dataclass(frozen=True)
class LogConfig:
  """How often metrics are written: every `every` steps."""

  every: int = 50


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """What is kept to resume from.

  Attributes:
    every: steps between two checkpoints.
    num_kept: newest checkpoints kept.
  """

  every: int = 500
  num_kept: int = 2


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
  """Scores while training: the scenes benchmark, or own held-out examples.

  Attributes:
    every: steps between two evaluations; 0 for none.
    num_tasks: spread evenly over the categories, or held-out examples.
    num_samples: tasks shown as pictures and texts.
    seed: of the tasks; not that of the benchmark that is reported.
    best_metric: the checkpoint with the best is kept apart.
    best_mode: "max" or "min", which is best.
  """

  every: int = 1000
  num_tasks: int = 100
  num_samples: int = 8
  seed: int = 1
  best_metric: str = "eval/output_alignment"
  best_mode: str = "max"
