"""Supervised training: learn to denoise text and picture together.

  python -m experiments.sft \
    --config=experiments/configs/sft_micro.py --workdir=DIR

The workdir is re-startable: the same command resumes from the newest complete
checkpoint and ends with the same bits as a run that was never interrupted. It
holds config.json, metrics.jsonl, tensorboard/, checkpoints/, best/, samples/,
cache/ (token rows) and, at the end, model/ as `ParallelPipeline` loads it.

Source: arXiv 2511.09611 section 3.1 and appendix H.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import jax
import ml_collections
from clu import parameter_overview
from etils import epath

from experiments import common
from experiments import held_out
from experiments import options
from experiments import own_data
from experiments import processes
from experiments import start
from experiments import watch
from paradiff import checkpoints
from paradiff import ema
from paradiff import metrics
from paradiff import optim
from paradiff import pipeline as pipeline_lib
from paradiff import sequence as sequence_lib
from paradiff import sharding
from paradiff import step as step_lib
from paradiff import train_state
from paradiff import variants
from paradiff.data import caching
from paradiff.data import coded
from paradiff.data import pipeline as data_lib
from paradiff.data import token_rows
from paradiff.diffusion import objective
from paradiff.models import transformer as transformer_lib


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A run.

  Attributes:
    variant: a name in `variants.VARIANTS`.
    image_tokenizer: folder that holds the trained image tokenizer.
    text_tokenizer: folder that holds a text tokenizer; None for the words of
      the scenes world.
    num_steps: updates.
    optim: the optimiser; `num_steps` is the run's.
    data: what to learn from.
    model: fields of the variant that differ, by name.
    init_from: a shipped model or a folder whose transformer to start from, of
      the same sizes and words; None to start from random weights.
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
  """

  variant: str
  image_tokenizer: str
  num_steps: int
  optim: Mapping[str, Any]
  data: own_data.DataConfig
  model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  init_from: str | None = None
  text_tokenizer: str | None = None
  cache: str | None = None
  seed: int = 0
  batch_size: int = 64
  num_microbatches: int = 1
  loss: objective.SftConfig = objective.SftConfig()
  mesh: options.MeshConfig = options.MeshConfig()
  log: options.LogConfig = options.LogConfig()
  checkpoint: options.CheckpointConfig = options.CheckpointConfig()
  evaluate: options.EvaluateConfig = options.EvaluateConfig()


def identity(
  config: ml_collections.ConfigDict,
  pipeline: pipeline_lib.ParallelPipeline,
  sources: Sequence[coded.CodedSource] = (),
) -> dict[str, Any]:
  """Return what a checkpoint must share with the run that resumes from it."""
  parts = variants.to_dict(pipeline.variant)
  del parts["sampler"]  # sampling does not change what is learned
  if sources:
    config = config.copy_and_resolve_references()
    config.data.folders = tuple(source.digest for source in sources)
  if config.get("text_tokenizer") is not None:
    parts["words"] = sorted(pipeline.text_tokenizer.fast.get_vocab().items())
  return common.identity(
    config,
    variant=parts.pop("name"),
    model=parts,
    image_tokenizer_digest=caching.digest(
      jax.device_get(pipeline.image_params)
    ),
  )


def make_loss(
  config: objective.SftConfig, variant: variants.Variant
) -> step_lib.LossFn:
  """Return the loss of a batch of token rows."""
  model = variants.model_of(variant)

  def loss_fn(
    params: Any, batch: Mapping[str, jax.Array], key: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    condition = sequence_lib.Condition(
      prefix=batch["prefix"], valid=batch["prefix_valid"]
    )
    return objective.sft_loss(
      config, model, params, condition, batch["answer"], key=key
    )

  return loss_fn


def learned(state: train_state.TrainState) -> Any:
  """Return the parameters that a run is scored by and leaves behind."""
  return processes.gathered(ema.mean_of(state.opt_state, state.params))


def check_scores(experiment: Experiment) -> None:
  """Refuse scores that the data cannot give.

  Raises:
    ValueError: if own data are to be scored and none are held out.
  """
  data = experiment.data
  if data.folders and experiment.evaluate.every and data.held_out is None:
    raise ValueError(
      "data.held_out must name a folder of own examples to score, or "
      f"evaluate.every be 0, got {data.held_out=} and "
      f"{experiment.evaluate.every=}"
    )


def make_scorer(
  experiment: Experiment,
  variant: variants.Variant,
  rows: token_rows.TokenRows | None,
  *,
  mesh: jax.sharding.Mesh,
) -> Callable[..., dict[str, float]]:
  """Return what scores a pipeline, given `step` and `writer`.

  Args:
    experiment: the run.
    variant: the model.
    rows: held-out examples; None for the scenes benchmark.
    mesh: where the run's parameters are.
  """
  config = experiment.evaluate
  if rows is None:
    return functools.partial(
      watch.evaluate, config, tasks=watch.tasks_of(config)
    )
  loss = dataclasses.replace(
    experiment.loss, drop_text_rate=0.0, drop_image_rate=0.0, drop_both_rate=0.0
  )
  return held_out.make(
    config,
    rows,
    make_loss(loss, variant),
    batch_size=experiment.batch_size,
    mesh=mesh,
  ).evaluate


def train_and_evaluate(
  config: ml_collections.ConfigDict,
  workdir: epath.PathLike,
  *,
  stream: TextIO = sys.stderr,
) -> pipeline_lib.ParallelPipeline:
  """Train, resuming where the workdir stands; return the trained model.

  Args:
    config: as the files in `experiments/configs` give it.
    workdir: everything the run writes.
    stream: where progress is shown.

  Raises:
    ValueError: if the config is wrong or the workdir is of another run.
    common.NonFinite: if the loss or a gradient is not finite.
    processes.Preempted: if the run was told to stop; it is saved.
  """
  experiment = common.build(Experiment, config)
  num_steps, root = experiment.num_steps, epath.Path(workdir)
  optim_config = common.build(
    optim.OptimConfig, experiment.optim, num_steps=num_steps
  )
  tokenizers = start.load_tokenizers(
    experiment.image_tokenizer, experiment.text_tokenizer
  )
  variant = start.load_variant(
    experiment.variant, experiment.model, tokenizers=tokenizers
  )
  pipeline = start.make_pipeline(variant, tokenizers)
  sources = own_data.open_folders(experiment.data, pipeline)
  check_scores(experiment)
  mesh = sharding.make_mesh(**dataclasses.asdict(experiment.mesh))

  # The state, drawn into its shardings; a checkpoint replaces it.
  tx = optim.make_tx(
    optim_config, matrix_axes=transformer_lib.matrix_axes(variant.transformer)
  )
  state, places = train_state.init_state(
    start.make_init(experiment.init_from, variant, tokenizers.words),
    tx,
    jax.random.key(experiment.seed),
    mesh=mesh,
    logical_axes=transformer_lib.logical_axes(variant.transformer),
  )
  saver = checkpoints.Checkpointer(
    root,
    identity=identity(config, pipeline, sources),
    num_kept=experiment.checkpoint.num_kept,
    best_metric=experiment.evaluate.best_metric,
    best_mode=experiment.evaluate.best_mode,
    report=stream.write,
  )
  restored = saver.restore(state)
  first, position = saver.latest_step or 0, 0
  if restored is None:
    stream.write(
      parameter_overview.get_parameter_overview(
        state.params, include_stats=False
      )
      + "\n"
    )
  else:
    state, position = restored
    stream.write(f"resuming at step {first}\n")

  common.write_config(config, root)
  rows, apart = own_data.load(
    experiment.data,
    pipeline,
    sources,
    folder=epath.Path(experiment.cache or root / "cache"),
    stream=stream,
  )
  batches = data_lib.Batches(
    rows,
    batch_size=experiment.batch_size,
    seed=experiment.seed,
    mesh=mesh,
    position=position,
  )
  train_step = jax.jit(
    step_lib.make_train_step(
      make_loss(experiment.loss, variant),
      tx,
      schedule=optim.make_schedule(optim_config),
      num_microbatches=experiment.num_microbatches,
    ),
    in_shardings=(places, batches.sharding),
    out_shardings=(places, None),
    donate_argnums=0,
  )
  score = make_scorer(experiment, variant, apart, mesh=mesh)
  writer = common.open_writer(root, resume_step=first if restored else None)
  writer.write_hparams(common.flat(config))
  window, guard = metrics.Window(), common.Guard()
  progress = metrics.Progress(num_steps, stream=stream, start_step=first)
  began = (time.monotonic(), first)

  with common.closing(progress, batches, writer, saver):
    for step, batch in zip(
      range(first + 1, num_steps + 1), batches, strict=False
    ):
      with jax.set_mesh(mesh), jax.transfer_guard("disallow"):
        state, values = train_step(state, batch)
        window.add(values)
        guard.push(step, values)
      progress.update(step, loss=guard.loss)
      saver.check()
      is_preempted = saver.is_preempted(step)
      save = is_preempted or common.is_due(
        step, experiment.checkpoint.every, num_steps
      )
      # A window ends at each checkpoint too: it would not outlive a kill.
      if save or common.is_due(step, experiment.log.every, num_steps):
        guard.drain()
        writer.write_scalars(step, window.take())
        now = (time.monotonic(), step)
        rate = (now[1] - began[1]) / (now[0] - began[0])
        writer.write_scalars(step, {"perf/steps_per_sec": rate})
        began = now
      scores = {}
      if common.is_due(step, experiment.evaluate.every, num_steps):
        guard.drain()
        model = dataclasses.replace(pipeline, params=learned(state))
        scores = score(model, step=step, writer=writer)
        began = (time.monotonic(), step)
      if save:
        writer.flush()  # what stands in a checkpoint stands in the metrics
        saver.save(
          state,
          step=step,
          position=batches.get_state()["position"],
          metrics=scores,
        )
      if is_preempted:
        raise processes.Preempted(f"told to stop, saved step {step}")
  trained = dataclasses.replace(pipeline, params=learned(state))
  if processes.is_first():
    trained.save(str(root / "model"))
  processes.wait_for_all("model saved")
  return trained


if __name__ == "__main__":
  common.run(train_and_evaluate)
