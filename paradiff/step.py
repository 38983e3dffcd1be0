"""One optimiser step, shared by every loop.

The step is a pure function; the loop jits it with its shardings and donates
the state. Randomness is `fold_in(state.key, state.step)`, so a step draws the
same bits on any mesh and after any number of restarts.

A batch may be worked through in M parts. Loss, gradient and metrics are the
means over the parts, so a mean over the rows of the batch does not depend on
M. A loss with a normaliser Z over the whole batch of n rows, such as its
number of scored tokens, keeps to that form if row i brings the weight
n w_i / Z along in the batch and the loss is the mean over rows of weight times
term. A normaliser that the loss adds up itself would be that of a part.
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
# (params, batch, key, *constants) -> (loss, metrics)
LossFn = Callable[..., tuple[jax.Array, Metrics]]
# (state, batch, *constants) -> (state, metrics)
TrainStep = Callable[..., tuple[train_state.TrainState, Metrics]]


def _cut(batch: Batch, num_parts: int) -> Batch:
  """Move [n, ...] to [M, n / M, ...]; part m has rows m, m + M, and so on.

  With strides, each of the devices that share the rows out has a share of
  every part, and no row moves, as long as n / M is a multiple of the devices.
  """
  sizes = {name: array.shape[0] for name, array in batch.items()}
  num_rows = max(sizes.values())
  if set(sizes.values()) != {num_rows}:
    raise ValueError(f"all of a batch must have as many rows, got {sizes}")
  if num_rows % num_parts:
    raise ValueError(
      "num_microbatches must divide the rows of the batch, got "
      f"num_microbatches={num_parts} and {num_rows} rows"
    )

  def cut(x: jax.Array) -> jax.Array:
    parts = x.reshape(num_rows // num_parts, num_parts, *x.shape[1:])
    return jnp.moveaxis(parts, 1, 0)

  return {name: cut(array) for name, array in batch.items()}


def _in_parts(
  loss_fn: LossFn,
  num_parts: int,
  params: Any,
  batch: Batch,
  key: jax.Array,
  constants: tuple[Any, ...],
) -> tuple[tuple[jax.Array, Metrics], Any]:
  """Return ((loss, metrics), gradient), each the mean over the parts."""

  def add(total: Any, part: tuple[jax.Array, Batch]) -> tuple[Any, Any]:
    index, rows = part
    values, grads = jax.value_and_grad(loss_fn, has_aux=True)(
      params, rows, jax.random.fold_in(key, index), *constants
    )
    # Summed up in float32: bfloat16 would lose the small parts.
    total = jax.tree.map(lambda t, g: t + g.astype(jnp.float32), total, grads)
    return total, values

  total, values = jax.lax.scan(
    add,
    jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params),
    (jnp.arange(num_parts), _cut(batch, num_parts)),
  )
  # In the dtype of the parameters, as the optimiser's state was made for.
  grads = jax.tree.map(
    lambda t, p: (t / num_parts).astype(p.dtype), total, params
  )
  means = jax.tree.map(lambda x: x.astype(jnp.float32).mean(axis=0), values)
  return means, grads


def make_train_step(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  *,
  schedule: optax.Schedule | None = None,
  num_microbatches: int = 1,
) -> TrainStep:
  """Return `train_step(state, batch, *constants)`, not yet jitted.

  It returns `(state, metrics)`. The constants, such as frozen weights or a
  reference policy, are handed to the loss as they are and have no gradient.

  Args:
    loss_fn: `(params, batch, key, *constants) -> (loss float32[], metrics)`.
    tx: the optimiser whose state `state.opt_state` is.
    schedule: the learning rate by step, only to report it.
    num_microbatches: M parts of the batch that are worked through one after
      the other, each with a key of its own where M > 1; the loss must then be
      of the form that the module describes. M must divide the batch's rows.

  Returns:
    The step. Its metrics, float32[] each, are those of `loss_fn` with
    `train/loss`, `train/grad_norm` (before clipping), `train/param_norm`
    (before the update) and, given a schedule, `train/learning_rate`. Where
    M > 1 those of `loss_fn` are means over the parts, counts too.

  Raises:
    ValueError: if `num_microbatches` is not positive or, when the step is
      traced, does not divide the rows of the batch.
  """
  if num_microbatches < 1:
    raise ValueError(
      f"num_microbatches must be positive, got {num_microbatches}"
    )

  def train_step(
    state: train_state.TrainState, batch: Batch, *constants: Any
  ) -> tuple[train_state.TrainState, Metrics]:
    key = jax.random.fold_in(state.key, state.step)
    if num_microbatches == 1:
      (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(
        state.params, batch, key, *constants
      )
    else:
      (loss, aux), grads = _in_parts(
        loss_fn, num_microbatches, state.params, batch, key, constants
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
