"""Rollouts: trajectories and the canvases that were predicted on the way.

The policy that samples is the policy that learns: the same parameters on the
same mesh, the same support of ids, the same temperature.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from paradiff import layout as layout_lib
from paradiff import sequence as sequence_lib
from paradiff.diffusion import denoise
from paradiff.diffusion import model as model_lib
from paradiff.diffusion import sampler
from paradiff.diffusion import schedule as schedule_lib
from paradiff.diffusion import settings
from paradiff.diffusion import trajectory as trajectory_lib


@flax.struct.dataclass
class Rollout:
  """What is kept of a batch of runs.

  Attributes:
    trajectory: the runs.
    predicted: int32[B, R', A], the canvas after each point, with the latest
      proposal at every masked position.
  """

  trajectory: trajectory_lib.Trajectory
  predicted: jax.Array


def check_sampler(
  config: settings.SamplerConfig, layout: layout_lib.Layout
) -> None:
  """Check that runs of these settings have log-probabilities to learn from.

  Raises:
    ValueError: if they have quirks of published programs, whose runs a
      trajectory does not describe, or are greedy.
  """
  if config.quirks != settings.Quirks():
    raise ValueError(
      "rollouts must be sampled without quirks of published programs, got "
      f"{config.quirks}"
    )
  for name, length in (("text", layout.text_len), ("image", layout.image_len)):
    if length and not getattr(config, f"{name}_temperature") > 0.0:
      raise ValueError(
        f"{name}_temperature must be positive in rollouts (a greedy choice has "
        f"no log-probability), got {getattr(config, f'{name}_temperature')}"
      )


def rollout(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  params: Any,
  condition: sequence_lib.Condition,
  answer: jax.Array,
  *,
  points: jax.Array,
  key: jax.Array,
) -> Rollout:
  """Sample answers and keep the canvases predicted at some points.

  Args:
    config: the settings; see `check_sampler`.
    model: the network, its layout and ids.
    params: the network's parameters.
    condition: prefix int32[B, P].
    answer: int32[B, A], `mask_id` where a token is wanted.
    points: int32[R'], steps done, in [1, S].
    key: typed PRNG key; the tokens are those of `sampler.sample`.

  Raises:
    ValueError: as `check_sampler`.
  """
  check_sampler(config, model.layout)
  steps = schedule_lib.rows(
    sampler.schedule_of(config, model.layout), slice(None)
  )
  state = sampler.start(config, model, answer)

  def body(
    carry: tuple[trajectory_lib.State, jax.Array], step: schedule_lib.Step
  ) -> tuple[tuple[trajectory_lib.State, jax.Array], None]:
    state, predicted = carry
    state = sampler.step_once(
      config, model, params, condition, state, step, key=key
    )
    # Overwritten up to its point: idle steps have no row in the schedule.
    is_ahead = (points > step.clock)[None, :, None]
    predicted = jnp.where(is_ahead, state.predicted[:, None], predicted)
    return (state, predicted), None

  shape = (answer.shape[0], points.shape[0], answer.shape[1])
  predicted = jnp.broadcast_to(answer[:, None], shape)
  (state, predicted), _ = jax.lax.scan(body, (state, predicted), steps)
  return Rollout(
    trajectory=trajectory_lib.finish(state, num_steps=config.num_steps),
    predicted=predicted,
  )


def in_parts(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  params: Any,
  condition: sequence_lib.Condition,
  *,
  points: jax.Array,
  num_parts: int,
  key: jax.Array,
) -> Rollout:
  """Sample a whole answer to each row, part of the batch after part.

  The arguments of `rollout`; a part draws from a key of its own, so other
  numbers of parts give other answers.

  Raises:
    ValueError: if `num_parts` does not divide the batch.
  """
  blank = jnp.asarray(sequence_lib.encode_answer(model.layout, model.vocab))

  def run(
    part: tuple[sequence_lib.Condition, jax.Array],
  ) -> Rollout:
    condition, key = part
    shape = (condition.prefix.shape[0], len(blank))
    return rollout(
      config,
      model,
      params,
      condition,
      jnp.broadcast_to(blank[None], shape),
      points=points,
      key=key,
    )

  num_rows = condition.prefix.shape[0]
  if num_parts == 1:
    return run((condition, key))
  if num_rows % num_parts:
    raise ValueError(
      f"num_parts must divide the rollouts, got {num_parts} of {num_rows}"
    )
  # With strides, so that every device has a share of each part.
  parts = jax.tree.map(
    lambda x: jnp.moveaxis(x.reshape(-1, num_parts, *x.shape[1:]), 1, 0),
    condition,
  )
  whole = jax.lax.map(run, (parts, jax.random.split(key, num_parts)))
  return jax.tree.map(
    lambda x: jnp.moveaxis(x, 0, 1).reshape(num_rows, *x.shape[2:]), whole
  )


def chosen(
  model: model_lib.Model, trajectory: trajectory_lib.Trajectory
) -> jax.Array:
  """Return bool[B, A]: tokens that the policy drew.

  Not those that were given, nor those never committed, nor the `eos` that
  follow a committed end of text, where nothing was left to choose.
  """
  step = trajectory.commit_step
  is_drawn = (step >= 0) & (step < trajectory.num_steps)
  index = model.layout.text_index
  if not len(index):
    return is_drawn
  text, when = trajectory.tokens[:, index], step[:, index]
  ends = jnp.isin(text, jnp.asarray(model.vocab.end_ids))
  # The earliest end among the places before each place.
  end_step = jnp.where(ends, when, trajectory.num_steps)
  before = jax.lax.associative_scan(jnp.minimum, end_step, axis=1)
  before = jnp.pad(
    before[:, :-1], ((0, 0), (1, 0)), constant_values=trajectory.num_steps
  )
  return is_drawn.at[:, index].set(is_drawn[:, index] & (when <= before))


def committed_at(
  trajectory: trajectory_lib.Trajectory, points: jax.Array, *, mask_id: int
) -> jax.Array:
  """Return int32[B, R', A]: the canvases as committed before each point."""
  return jax.vmap(
    lambda point: trajectory_lib.canvas_at(trajectory, point, mask_id=mask_id),
    out_axes=1,
  )(points)


def candidates_at(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  canvas: jax.Array,
  *,
  start: jax.Array,
) -> jax.Array:
  """Return bool[n, A]: positions that a step proposed a token for.

  Args:
    config: the settings of the rollouts.
    model: the network, its layout and ids.
    canvas: int32[n, A], before the step.
    start: int32[n], the step.
  """
  layout, vocab = model.layout, model.vocab
  schedule = sampler.schedule_of(config, layout)
  due = np.zeros(config.num_steps, np.bool_)
  due[schedule.step[schedule.image_step]] = True
  masked = canvas == vocab.mask_id
  if layout.text_len:
    index = layout.text_index
    open_text = masked[:, index] & ~denoise.behind_end(vocab, canvas[:, index])
    masked = masked.at[:, index].set(open_text)
  if layout.image_len:
    index = layout.image_index
    is_due = jnp.asarray(due)[start][:, None]
    masked = masked.at[:, index].set(masked[:, index] & is_due)
  return masked
