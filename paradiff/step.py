"""One optimiser step, shared by every loop.

The step is a pure function; the loop jits it with its shardings and donates
the state. Randomness is `fold_in(state.key, state.step)`, so a step draws the
same bits on any mesh and after any number of restarts.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from paradiff import train_state

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
LossFn = Callable[[Any, Batch, jax.Array], tuple[jax.Array, Metrics]]
TrainStep = Callable[
  [train_state.TrainState, Batch], tuple[train_state.TrainState, Metrics]
]


def make_train_step(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  *,
  schedule: optax.Schedule | None = None,
) -> TrainStep:
  """Return `train_step(state, batch) -> (state, metrics)`, not yet jitted.

  Args:
    loss_fn: `(params, batch, key) -> (loss float32[], metrics)`.
    tx: the optimiser whose state `state.opt_state` is.
    schedule: the learning rate by step, only to report it.

  Returns:
    The step. Its metrics, float32[] each, are those of `loss_fn` with
    `train/loss`, `train/grad_norm` (before clipping), `train/param_norm`
    (before the update) and, given a schedule, `train/learning_rate`.
  """

  def train_step(
    state: train_state.TrainState, batch: Batch
  ) -> tuple[train_state.TrainState, Metrics]:
    key = jax.random.fold_in(state.key, state.step)
    (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params, batch, key
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    metrics = {
      **aux,
      "train/loss": loss,
      "train/grad_norm": optax.tree.norm(grads),
      "train/param_norm": optax.tree.norm(state.params),
    }
    if schedule is not None:
      metrics["train/learning_rate"] = schedule(state.step)
    new_state = dataclasses.replace(
      state,
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
    )
    metrics = {k: jnp.asarray(v, jnp.float32) for k, v in metrics.items()}
    return new_state, metrics

  return train_step
