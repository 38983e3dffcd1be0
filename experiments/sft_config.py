"""The config of a supervised run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments import options
from experiments import own_data
from paradiff.diffusion import objective
from paradiff.models import lora as lora_lib


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A run.

  Attributes:
    num_steps: updates.
    optim: the optimiser; `num_steps` is the run's.
    data: what to learn from.
    fine_tune: a shipped model or a folder, also a published model's, that is
      trained further with its own tokenizers; None to make a `variant`.
    lora: the adapters to train of it; None trains all parameters.
    variant: a name in `variants.VARIANTS`, or a family of
      `published.WITH_PICTURES`, whose sizes `model` should then change.
    image_tokenizer: folder that holds the trained image tokenizer.
    text_tokenizer: folder that holds a text tokenizer; None for the words of
      the scenes world.
    init_from: a shipped model or a folder whose transformer to start from, of
      the same sizes and words; None to start from random weights.
    model: fields of the variant that differ, by name.
    cache: folder of token rows, to share between runs; default: the workdir's.
    seed: of everything random but the examples.
    batch_size: B.
    num_microbatches: parts of a batch that are worked through one after the
      other, for less memory.
    loss: the loss.
    mesh: the devices.
    log: metrics.
    checkpoint: checkpoints.
    evaluate: scores while training.

  Raises:
    ValueError: if neither or both a model and a variant are given.
  """

  num_steps: int
  optim: Mapping[str, Any]
  data: own_data.DataConfig
  fine_tune: str | None = None
  lora: lora_lib.LoraConfig | None = None
  variant: str | None = None
  image_tokenizer: str | None = None
  text_tokenizer: str | None = None
  init_from: str | None = None
  model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  cache: str | None = None
  seed: int = 0
  batch_size: int = 64
  num_microbatches: int = 1
  loss: objective.SftConfig = objective.SftConfig()
  mesh: options.MeshConfig = options.MeshConfig()
  log: options.LogConfig = options.LogConfig()
  checkpoint: options.CheckpointConfig = options.CheckpointConfig()
  evaluate: options.EvaluateConfig = options.EvaluateConfig()

  def __post_init__(self) -> None:
    made = ("variant", "image_tokenizer")
    of_made = (*made, "text_tokenizer", "init_from")
    given = [name for name in of_made if getattr(self, name) is not None]
    if self.fine_tune is not None and given:
      raise ValueError(
        "fine_tune names a model with all its parts, so there must be no "
        f"{', '.join(given)}, got {self.fine_tune=}"
      )
    missing = [name for name in made if getattr(self, name) is None]
    if self.fine_tune is None and missing:
      raise ValueError(
        f"there must be either fine_tune or {' and '.join(made)}, got no "
        f"{', '.join(missing)}"
      )
    if self.fine_tune is None and self.lora is not None:
      raise ValueError(
        "lora must be None where no model is fine-tuned, got adapters of "
        "random weights"
      )
