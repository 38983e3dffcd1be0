"""What an image tokenizer is trained on and judged by, chosen by the config.

A config with `data` names pictures of one's own; one without draws scenes.
"""

import typing
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from experiments import common
from experiments import tokenizer_data
from experiments import tokenizer_evaluation
from experiments import tokenizer_pictures
from paradiff.models import image_tokenizer


class Data(typing.Protocol):
  """Pictures to train on."""

  @property
  def identity(self) -> dict[str, Any]:
    """What else than the config defines the pictures; a run may not mix."""

  def batch(self, done: int) -> np.ndarray:
    """Return uint8[B, H, W, 3] of the step after `done` steps.

    It follows from the data and `done` alone.
    """


class Evaluation(typing.Protocol):
  """Pictures that are never trained on."""

  def run(self, params: Any) -> tuple[dict[str, float], np.ndarray]:
    """Return scores and a picture uint8[H, W, 3] to look at."""


def make(
  config: ml_collections.ConfigDict,
  tokenizer: image_tokenizer.ImageTokenizerConfig,
  *,
  report: Callable[[str], object],
) -> tuple[Data, Evaluation]:
  """Return what a run is trained on and judged by.

  Args:
    config: of the run.
    tokenizer: the sizes.
    report: takes lines about pictures that cannot be read.

  Raises:
    ValueError: if the config is wrong or there are too few pictures.
  """
  if "data" in config:
    return _own_pictures(config, tokenizer, report)
  data = tokenizer_data.ScenesData(
    seed=config.seed,
    batch_size=config.batch_size,
    thin_rate=config.thin_rate,
    finish_thin_rate=config.finish_thin_rate,
    finish_step=config.optim.num_steps,
  )
  evaluation = tokenizer_evaluation.Evaluation(
    tokenizer, seed=config.seed, **config.evaluate.scenes
  )
  return data, evaluation


def _own_pictures(
  config: ml_collections.ConfigDict,
  tokenizer: image_tokenizer.ImageTokenizerConfig,
  report: Callable[[str], object],
) -> tuple[Data, Evaluation]:
  chosen = common.build(tokenizer_pictures.PicturesConfig, config.data)
  found = tokenizer_pictures.load(
    chosen, size=tokenizer.picture_size, report=report
  )
  data = tokenizer_pictures.PicturesData(
    found.train, seed=config.seed, batch_size=config.batch_size
  )
  shown = config.evaluate.pictures
  evaluation = tokenizer_evaluation.PictureEvaluation(
    tokenizer,
    found.held_out[: shown.num_pictures],
    batch_size=shown.batch_size,
  )
  return data, evaluation
