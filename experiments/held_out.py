"""Loss and samples on own examples that are held out, while a model trains."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments import options
from experiments import watch
from paradiff import layout as layout_lib
from paradiff import metrics
from paradiff import outputs as outputs_lib
from paradiff import pipeline as pipeline_lib
from paradiff import step as step_lib
from paradiff.data import pipeline as data_lib
from paradiff.data import token_rows

_PARTS = ("loss_text", "loss_image", "accuracy_text", "accuracy_image")
_SEED = 0  # of the rows and masks, the same at each evaluation


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
  """What a model is watched on.

  Attributes:
    rows: held-out examples by layout.
    batches: of them, a bucket a layout.
    num_batches: that the loss is averaged over.
    losses: by bucket, params and a batch to the loss and its parts, compiled.
    num_samples: examples shown as pictures and texts.
  """

  rows: Sequence[token_rows.TokenRows]
  batches: data_lib.Batches
  num_batches: int
  losses: Sequence[Callable[..., Mapping[str, jax.Array]]]
  num_samples: int

  def evaluate(
    self,
    pipeline: pipeline_lib.ParallelPipeline,
    *,
    step: int,
    writer: metrics.Writer,
  ) -> dict[str, float]:
    """Write and return `eval/loss` and its parts; write samples."""
    self.batches.set_state({"position": 0})
    found = []
    for number in range(self.num_batches):
      batch = next(self.batches)
      losses = self.losses[self.batches.bucket]
      found.append(losses(pipeline.params, batch, number))
    found = jax.device_get(found)
    means = {
      f"eval/{name}": float(np.mean([values[name] for values in found]))
      for name in found[0]
    }
    writer.write_scalars(step, means)
    self._show(pipeline, step=step, writer=writer)
    return means

  def _show(
    self,
    pipeline: pipeline_lib.ParallelPipeline,
    *,
    step: int,
    writer: metrics.Writer,
  ) -> None:
    numbered = [
      (place, index)
      for place, rows in enumerate(self.rows)
      for index in rows.kept.tolist()
    ]
    shown = watch.spread(numbered, self.num_samples)
    examples = [self.rows[place].source[index] for place, index in shown]

    def decoded(codes: np.ndarray) -> np.ndarray:
      made = pipeline.decode_codes(codes.reshape(1, -1), grid=codes.shape)
      return np.asarray(made[0])

    sources = [
      None if e.source is None else decoded(e.source) for e in examples
    ]
    outputs: list[outputs_lib.Output] = []
    places = [place for place, _ in shown]
    for place in sorted(set(places)):  # pictures of one call have one size
      first, num = places.index(place), places.count(place)
      outputs += pipeline(
        [e.instruction for e in examples[first : first + num]],
        sources[first : first + num],
      )
    watch.show(
      [
        (source, output.picture, decoded(example.target))
        for source, output, example in zip(
          sources, outputs, examples, strict=True
        )
      ],
      [
        (example.instruction, output.text, example.reasoning)
        for output, example in zip(outputs, examples, strict=True)
      ],
      step=step,
      writer=writer,
    )


def make(
  config: options.EvaluateConfig,
  rows: Sequence[token_rows.TokenRows],
  make_loss: Callable[[layout_lib.Layout], step_lib.LossFn],
  *,
  batch_size: int,
  mesh: jax.sharding.Mesh,
) -> HeldOut:
  """Return what watches a run.

  Args:
    config: `num_tasks` rows are scored, in whole batches.
    rows: held-out examples by layout.
    make_loss: a layout to the run's loss.
    batch_size: B.
    mesh: where the run's parameters are.
  """

  def losses(
    loss_fn: step_lib.LossFn,
    params: Any,
    batch: step_lib.Batch,
    number: jax.Array,
  ) -> dict[str, jax.Array]:
    key = jax.random.fold_in(jax.random.key(_SEED), number)
    loss, parts = loss_fn(params, batch, key)
    shown = {name: parts[f"train/{name}"] for name in _PARTS}
    return {"loss": loss, **shown}

  return HeldOut(
    rows=rows,
    batches=data_lib.Batches(
      [[(part, float(len(part)))] for part in rows],
      batch_size=batch_size,
      seed=_SEED,
      mesh=mesh,
    ),
    num_batches=-(-config.num_tasks // batch_size),
    losses=[
      jax.jit(functools.partial(losses, make_loss(part.layout)))
      for part in rows
    ],
    num_samples=config.num_samples,
  )
