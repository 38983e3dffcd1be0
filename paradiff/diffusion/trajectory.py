"""The canvas while it is denoised, and the record that a run leaves behind.

A committed token never changes, so final tokens and commit steps describe a
whole run in O(B A) memory: `canvas_at` rebuilds the canvas of any step.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from paradiff import layout as layout_lib


@flax.struct.dataclass
class State:
  """The carry of the sampler's scan.

  Attributes:
    tokens: int32[B, A], the canvas.
    commit_step: int32[B, A]; -1 for given tokens, S while masked.
    commit_logp: float32[B, A]; 0 for given tokens and while masked.
    predicted: int32[B, A], the canvas with the latest proposal at every
      masked position (`mask_id` before the first).
    num_text_masks: int32[B], masks in the text at the start.
    num_image_masks: int32[B], masks in the picture at the start.
  """

  tokens: jax.Array
  commit_step: jax.Array
  commit_logp: jax.Array
  predicted: jax.Array
  num_text_masks: jax.Array
  num_image_masks: jax.Array


@flax.struct.dataclass
class Trajectory:
  """A finished run; every canvas on the way follows from it.

  Attributes:
    tokens: int32[B, A], the final answer.
    commit_step: int32[B, A]; -1 for given tokens, S for never committed.
    commit_logp: float32[B, A], natural log at the temperature drawn with.
    num_steps: S.
  """

  tokens: jax.Array
  commit_step: jax.Array
  commit_logp: jax.Array
  num_steps: int = flax.struct.field(pytree_node=False)


def canvas_at(
  trajectory: Trajectory, step: jax.Array | int, *, mask_id: int
) -> jax.Array:
  """Rebuild the canvas as it stood before `step`.

  Args:
    trajectory: a finished run.
    step: int32[], in [0, S]; S gives the final answer.
    mask_id: the mask token.

  Returns:
    int32[B, A].
  """
  pending = trajectory.commit_step >= step
  return jnp.where(pending, mask_id, trajectory.tokens)


def start(
  layout: layout_lib.Layout,
  answer: jax.Array,
  *,
  mask_id: int,
  num_steps: int,
) -> State:
  """Begin a run from answers int32[B, A] with masks where tokens are free."""
  is_masked = answer == mask_id

  def count(index: np.ndarray) -> jax.Array:
    return is_masked[:, index].sum(axis=1, dtype=jnp.int32)

  return State(
    tokens=answer,
    commit_step=jnp.where(is_masked, num_steps, -1).astype(jnp.int32),
    commit_logp=jnp.zeros(answer.shape, jnp.float32),
    predicted=answer,
    num_text_masks=count(layout.text_index),
    num_image_masks=count(layout.image_index),
  )


def commit(
  state: State,
  index: np.ndarray,
  *,
  proposal: jax.Array,
  logp: jax.Array,
  selected: jax.Array,
  step: jax.Array,
) -> State:
  """Commit the selected proposals and remember the others as predictions.

  Args:
    state: the canvas before.
    index: int32[n], answer columns of a modality.
    proposal: int32[B, n], token ids.
    logp: float32[B, n], their log-probabilities.
    selected: bool[B, n], a subset of the masked positions.
    step: int32[], the clock.
  """
  old = state.tokens[:, index]
  pending = state.commit_step[:, index] >= step
  columns = {
    "tokens": jnp.where(selected, proposal, old),
    "commit_step": jnp.where(selected, step, state.commit_step[:, index]),
    "commit_logp": jnp.where(selected, logp, state.commit_logp[:, index]),
    "predicted": jnp.where(pending, proposal, old),
  }
  return dataclasses.replace(
    state,
    **{
      name: getattr(state, name).at[:, index].set(value)
      for name, value in columns.items()
    },
  )


def finish(state: State, *, num_steps: int) -> Trajectory:
  """Return the trajectory of a run that has come to its end."""
  return Trajectory(
    tokens=state.tokens,
    commit_step=state.commit_step,
    commit_logp=state.commit_logp,
    num_steps=num_steps,
  )
