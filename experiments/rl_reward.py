"""Rewards of a batch of rollouts, shared out among the processes of a run.

Decoding and rewards are the host's work and may be its dearest. So of several
processes each takes whole groups, whatever the mesh, and all get the rewards
of all: where a mesh keeps rows twice they are rewarded once, and a reward that
would not say the same twice cannot let the copies of a policy drift apart. The
tokens that are exchanged for it are few.
"""

import contextlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments import processes
from experiments import rl_setup
from experiments import rl_watch
from paradiff.rl import iteration as iteration_lib
from paradiff.rl import reward as reward_lib


def own_prompts(num_prompts: int) -> slice:
  """Return which prompts of a batch this process rewards.

  The first process has one at least, the others none if there are too few.
  """
  this, num = jax.process_index(), jax.process_count()
  return slice(
    -(-num_prompts * this // num), -(-num_prompts * (this + 1) // num)
  )


def evaluate(
  run: rl_setup.Run,
  rolled: iteration_lib.Rolled,
  index: jax.Array,
  *,
  clock: rl_watch.Clock,
) -> tuple[reward_lib.Context | None, np.ndarray]:
  """Decode and reward rollouts; all processes of the run must call it.

  Args:
    run: the run.
    rolled: B rollouts.
    index: int32[P], of the prompts.
    clock: gets the phases "decode" and "reward".

  Returns:
    What this process rewarded, None where it had nothing to do; and the rewards
    of all, float32[B, R', K].

  Raises:
    reward.RewardError: if a reward fails.
    processes.Failed: instead, where there are several processes: in all.
  """
  group_size = run.settings.group_size
  predicted, committed, points, numbers = jax.device_get(
    processes.gathered(
      (rolled.rollout.predicted, rolled.committed, rolled.points, index)
    )
  )
  prompts = own_prompts(len(numbers))
  rows = slice(prompts.start * group_size, prompts.stop * group_size)
  raw = np.zeros((*predicted.shape[:2], len(run.reward_names)), np.float32)

  def fill() -> reward_lib.Context | None:
    if prompts.start == prompts.stop:
      return None
    context = rl_watch.context_of(
      run.policy,
      predicted[rows],
      committed[rows],
      points,
      layout=run.prompts.layout,
      prompts=[run.prompts.items[i] for i in numbers[prompts].tolist()],
      group_size=group_size,
      num_steps=run.settings.sampler.num_steps,
    )
    clock.lap("decode")
    raw[rows] = reward_lib.evaluate(
      run.rewards, context, names=run.reward_names
    )
    return context

  with _place(run):
    context = processes.together(fill)
  # Every row is one process's own and 0 in the others: no sum rounds.
  raw = multihost_utils.process_allgather(raw).sum(axis=0)
  clock.lap("reward")
  return context, raw


def _place(run: rl_setup.Run) -> contextlib.AbstractContextManager[Any]:
  """Return where the host's own programs run.

  Not on the devices of other processes, which do not run the same.
  """
  if jax.process_count() > 1:
    return contextlib.nullcontext()
  return jax.set_mesh(run.mesh)
