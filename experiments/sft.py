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
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import jax
import ml_collections
from clu import parameter_overview
from etils import epath

from experiments import common
from experiments import held_out
from experiments import own_data
from experiments import processes
from experiments import sft_config
from experiments import sft_setup
from experiments import watch
from paradiff import checkpoints
from paradiff import ema
from paradiff import metrics
from paradiff import pipeline as pipeline_lib
from paradiff import train_state
from paradiff.data import pipeline as data_lib
from paradiff.data import token_rows


def learned(run: sft_setup.Run, state: train_state.TrainState) -> Any:
  """Return the parameters that a run is scored by and leaves behind."""
  mean = ema.mean_of(state.opt_state, state.params)
  return processes.gathered(run.merged(mean))


def check_scores(experiment: sft_config.Experiment) -> None:
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
  run: sft_setup.Run, rows: Sequence[token_rows.TokenRows]
) -> Callable[..., dict[str, float]]:
  """Return what scores a pipeline, given `step` and `writer`.

  Args:
    run: the run.
    rows: held-out examples by layout; none for the scenes benchmark.
  """
  experiment = run.experiment
  config = experiment.evaluate
  if not rows:
    return functools.partial(
      watch.evaluate, config, tasks=watch.tasks_of(config)
    )
  loss = dataclasses.replace(
    experiment.loss, drop_text_rate=0.0, drop_image_rate=0.0, drop_both_rate=0.0
  )
  return held_out.make(
    config,
    rows,
    functools.partial(sft_setup.make_loss, loss, run.pipeline.variant),
    batch_size=experiment.batch_size,
    mesh=run.mesh,
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
  run, root = sft_setup.set_up(config), epath.Path(workdir)
  experiment, pipeline, state = run.experiment, run.pipeline, run.state
  num_steps, mesh = experiment.num_steps, run.mesh
  check_scores(experiment)
  saver = checkpoints.Checkpointer(
    root,
    identity=run.identity,
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
    run.sources,
    layout=run.layout,
    batch_size=experiment.batch_size,
    folder=epath.Path(experiment.cache or root / "cache"),
    stream=stream,
  )
  batches = data_lib.Batches(
    [part.sources for part in rows],
    batch_size=experiment.batch_size,
    seed=experiment.seed,
    mesh=mesh,
    position=position,
    num_workers=experiment.data.num_workers,
  )
  steps = [run.make_step(part.layout, batches.sharding) for part in rows]
  score = make_scorer(run, apart)
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
        state, values = steps[batches.bucket](state, batch, run.frozen)
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
        model = dataclasses.replace(pipeline, params=learned(run, state))
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
  trained = dataclasses.replace(pipeline, params=learned(run, state))
  if processes.is_first():
    trained.save(str(root / "model"))
  processes.wait_for_all("model saved")
  return trained


if __name__ == "__main__":
  common.run(train_and_evaluate)
