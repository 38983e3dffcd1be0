"""ParaRL: reinforce what keeps text and picture aligned along the way.

  python -m experiments.rl \
    --config=experiments/configs/rl_micro.py --workdir=DIR

An iteration rolls out a group of answers to each prompt, decodes what was
predicted at the scored points, rewards it, and takes one or several steps of
the policy gradient. The workdir is re-startable, as that of `experiments.sft`,
and has the same files; samples/ also shows rollouts with their rewards.

Source: arXiv 2511.09611 section 3.3.
"""

import dataclasses
import sys
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

from experiments import common
from experiments import processes
from experiments import rl_reward
from experiments import rl_setup
from experiments import rl_watch
from experiments import watch
from paradiff import checkpoints
from paradiff import metrics
from paradiff import pipeline as pipeline_lib
from paradiff import sequence as sequence_lib
from paradiff import train_state
from paradiff.data import pipeline as data_lib
from paradiff.rl import iteration as iteration_lib
from paradiff.rl import reward as reward_lib


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
  """What an iteration saw, to be shown.

  Attributes:
    rolled: the rollouts.
    context: what this process rewarded, if anything.
    raw: float32[B, R', K], the rewards.
  """

  rolled: iteration_lib.Rolled
  context: reward_lib.Context | None
  raw: np.ndarray


def see(
  run: rl_setup.Run,
  state: train_state.TrainState,
  batch: dict[str, jax.Array],
  *,
  key: jax.Array,
  clock: rl_watch.Clock,
) -> Seen:
  """Roll out a batch of prompts and reward what was made on the way.

  Raises:
    reward.RewardError: if a reward fails.
    processes.Failed: instead, where there are several processes.
  """
  condition = sequence_lib.Condition(
    prefix=batch["prefix"], valid=batch["prefix_valid"]
  )
  with jax.set_mesh(run.mesh):
    rolled = run.programs.roll(state.params, run.frozen, condition, key=key)
  clock.lap("rollout", rolled)
  context, raw = rl_reward.evaluate(run, rolled, batch["index"], clock=clock)
  return Seen(rolled=rolled, context=context, raw=raw)


def learn(
  run: rl_setup.Run,
  state: train_state.TrainState,
  seen: Seen,
  *,
  number: int,
  key: jax.Array,
  guard: common.Guard,
  clock: rl_watch.Clock,
) -> tuple[train_state.TrainState, dict[str, Any]]:
  """Update the policy by one batch of rollouts; return it and metrics.

  Raises:
    common.NonFinite: if the loss or a gradient is not finite.
  """
  programs, settings = run.programs, run.settings
  with jax.set_mesh(run.mesh):
    rows, stats, values = programs.prepare(
      seen.rolled, seen.raw, state.loop["stats"], key=key
    )
    anchor = run.reference
    if settings.num_updates > 1:
      rows = programs.add_old_logp(state.params, run.frozen, rows)
      if settings.objective.kl_anchor == "old":
        anchor = jax.tree.map(jnp.copy, state.params)
    clock.lap("scoring", rows)
    kl_coef = state.loop["kl_coef"]
    # Apart from the state, which is donated.
    state = dataclasses.replace(state, loop={})
    for _ in range(settings.num_updates):
      state, learned = programs.update(state, rows, run.frozen, anchor, kl_coef)
      guard.push(number, learned)
    guard.drain()
    values = {**values, **learned, "rl/kl_coef": kl_coef}
    kl_coef = programs.next_kl_coef(kl_coef, learned["rl/kl"])
  state = dataclasses.replace(state, loop={"kl_coef": kl_coef, "stats": stats})
  clock.lap("update", state.params)
  return state, values


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
    FileNotFoundError: if a model is missing.
    reward.RewardError: if a reward fails; what was learned is saved before.
    processes.Failed: instead, where there are several processes.
    common.NonFinite: if the loss or a gradient is not finite.
    processes.Preempted: if the run was told to stop; it is saved.
  """
  root = epath.Path(workdir)
  run = rl_setup.set_up(config, folder=root / "cache", stream=stream)
  experiment, last = run.experiment, run.experiment.num_iterations
  state = run.state
  saver = checkpoints.Checkpointer(
    root,
    identity=common.identity(
      config,
      variant=run.policy.variant.name,
      policy_digest=run.policy_digest,
    ),
    num_kept=experiment.checkpoint.num_kept,
    best_metric=experiment.evaluate.best_metric,
    report=stream.write,
  )
  restored = saver.restore(state)
  first, position = saver.latest_step or 0, 0
  if restored is not None:
    state, position = restored
    stream.write(f"resuming at iteration {first}\n")
  common.write_config(config, root)
  batches = data_lib.Batches(
    run.prompts.rows,
    batch_size=experiment.num_prompts,
    seed=experiment.seed,
    mesh=run.mesh,
    position=position,
  )
  tasks = watch.tasks_of(experiment.evaluate)
  writer = common.open_writer(root, resume_step=first if restored else None)
  writer.write_hparams(common.flat(config))
  guard, saved = common.Guard(), first
  progress = metrics.Progress(
    last, stream=stream, start_step=first, what="iteration"
  )

  def evaluate(step: int) -> dict[str, float]:
    return watch.evaluate(
      experiment.evaluate,
      run.trained(state),
      tasks=tasks,
      step=step,
      writer=writer,
    )

  def save(step: int, scores: dict[str, float]) -> None:
    writer.flush()  # what stands in a checkpoint stands in the metrics
    saver.save(state, step=step, position=step, metrics=scores)

  with common.closing(progress, batches, writer, saver):
    if first == 0 and experiment.evaluate.every:
      evaluate(0)
    for number in range(first + 1, last + 1):
      clock = rl_watch.Clock()
      # Never the bits of another iteration, whatever was run before.
      keys = jax.random.split(jax.random.fold_in(state.key, number))
      batch = next(batches)
      try:
        seen = see(run, state, batch, key=keys[0], clock=clock)
      except (reward_lib.RewardError, processes.Failed):
        if number - 1 > saved:
          save(number - 1, {})
        raise
      state, values = learn(
        run,
        state,
        seen,
        number=number,
        key=keys[1],
        guard=guard,
        clock=clock,
      )
      scalars = rl_watch.scalars(values, seen.rolled)
      progress.update(
        number, reward=scalars["reward/total"], **clock.shares(digits=2)
      )
      if common.is_due(number, experiment.log.every, last):
        writer.write_scalars(number, {**scalars, **clock.metrics()})
      show = common.is_due(number, experiment.samples.every, last)
      if show and seen.context is not None and processes.is_first():
        rl_watch.show(
          seen.context,
          seen.raw,
          names=run.reward_names,
          group_size=experiment.group_size,
          step=number,
          writer=writer,
        )
      scores = {}
      if common.is_due(number, experiment.evaluate.every, last):
        scores = evaluate(number)
      saver.check()
      is_preempted = saver.is_preempted(number)
      if is_preempted or common.is_due(
        number, experiment.checkpoint.every, last
      ):
        save(number, scores)
        saved = number
      if is_preempted:
        raise processes.Preempted(f"told to stop, saved iteration {number}")
  # The settings of the run are not the model's own.
  finished = dataclasses.replace(run.trained(state), variant=run.variant)
  if processes.is_first():
    finished.save(str(root / "model"))
  processes.wait_for_all("model saved")
  return finished


if __name__ == "__main__":
  common.run(train_and_evaluate)
