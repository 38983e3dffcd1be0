"""The scenes world as token rows: made once, kept in a folder."""

import dataclasses
from typing import TextIO

import jax
import numpy as np
from etils import epath

from paradiff import metrics
from paradiff import pipeline as pipeline_lib
from paradiff.data import caching
from paradiff.data import pipeline as data_lib
from paradiff.data import scene_rows
from paradiff.scenes import grammar


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The scenes to learn from.

  Attributes:
    size: examples drawn; each epoch shows all of them in another order.
    seed: of the examples; the order follows from the run's own seed.
  """

  size: int
  seed: int = 0


def load_rows(
  config: DataConfig,
  pipeline: pipeline_lib.ParallelPipeline,
  *,
  folder: epath.Path,
  stream: TextIO,
) -> data_lib.ArraySource:
  """Return the token rows of the examples, made once and kept in `folder`.

  Row i has prefix, prefix_valid, answer, and i itself as `index`.
  """
  variant = pipeline.variant
  examples = data_lib.ScenesSource(seed=config.seed, size=config.size)

  def make() -> dict[str, np.ndarray]:
    progress = metrics.Progress(config.size, stream=stream, what="tokens of")
    rows = scene_rows.make(
      examples,  # type: ignore[arg-type]
      layout=variant.layout,
      vocab=variant.vocab,
      text_tokenizer=pipeline.text_tokenizer,
      encode_pictures=pipeline.encode_pictures,
      batch_size=min(256, config.size),
      on_progress=lambda done, _: progress.update(done),
    )
    progress.close()
    return rows

  key = caching.digest(
    dataclasses.asdict(config),
    dataclasses.asdict(variant.layout),
    dataclasses.asdict(variant.vocab),
    list(grammar.WORDS),
    jax.device_get(pipeline.image_params),
    # A change to the world itself shows in its first examples.
    [repr(examples[i]) for i in range(min(100, config.size))],
  )
  rows = caching.cached(folder, key, make)
  return data_lib.ArraySource(
    {**rows, "index": np.arange(config.size, dtype=np.int32)}
  )
