"""The parallel sampler: one scan that commits text and picture together.

At each step one pass over the whole sequence proposes a token for every
masked position; the surest text tokens and, on picture steps, the surest
picture tokens are committed, all from the same state.

Source: arXiv 2511.09611 section 3.2 and appendix (decoding schedules).
Differs from upstream: the picture's temperature scales its logits, ids a
modality cannot have are suppressed, nothing is left masked at the end, and
behind a committed end of text only `eos` follows. `settings.Quirks` has a
field for each departure.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from paradiff import layout as layout_lib
from paradiff import sequence as sequence_lib
from paradiff.diffusion import denoise
from paradiff.diffusion import model as model_lib
from paradiff.diffusion import noise as noise_lib
from paradiff.diffusion import schedule as schedule_lib
from paradiff.diffusion import settings
from paradiff.diffusion import trajectory


def schedule_of(
  config: settings.SamplerConfig, layout: layout_lib.Layout
) -> schedule_lib.Schedule:
  """Return the tables of a run."""
  num_steps, quirks = config.num_steps, config.quirks
  return schedule_lib.make_schedule(
    image_steps=schedule_lib.image_steps(
      num_steps=num_steps,
      num_image_steps=config.num_image_steps,
      start_rate=config.image_start_rate,
      open_end=quirks.open_end,
      end=config.image_end,
    ),
    text_left=schedule_lib.text_table(
      num_steps=num_steps,
      text_steps=config.text_steps,
      text_len=layout.text_len,
      rate=config.text_schedule,
      power=config.schedule_power,
      counts=quirks.text_counts,
      start=config.text_start,
    ),
    image_left=schedule_lib.image_table(
      num_steps=num_steps,
      image_len=layout.image_len,
      rate=config.image_schedule,
      power=config.schedule_power,
      counts=quirks.image_counts,
      start=0 if config.decoding == "parallel" else config.image_start,
      end=config.image_end,
    ),
    idle_steps=quirks.idle_steps,
  )


def slices(
  config: settings.SamplerConfig, layout: layout_lib.Layout, *, stride: int
) -> Iterator[schedule_lib.Step]:
  """Cut the schedule into scans of at most `stride` > 0 steps, for display."""
  if stride < 1:
    raise ValueError(f"stride must be positive, got {stride=}")
  schedule = schedule_of(config, layout)
  for first in range(0, len(schedule.step), stride):
    yield schedule_lib.rows(schedule, slice(first, first + stride))


def start(
  config: settings.SamplerConfig, model: model_lib.Model, answer: jax.Array
) -> trajectory.State:
  """Begin a run from answers int32[B, A], masked where tokens are wanted."""
  return trajectory.start(
    model.layout,
    answer,
    mask_id=model.vocab.mask_id,
    num_steps=config.num_steps,
  )


def step_once(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  params: Any,
  condition: sequence_lib.Condition,
  state: trajectory.State,
  step: schedule_lib.Step,
  *,
  key: jax.Array,
) -> trajectory.State:
  """Run one row of the schedule; the arguments of `advance`."""
  step_key = jax.random.fold_in(key, step.clock)
  noise = noise_lib.draw(config, model, state.tokens.shape[0], step_key)
  return denoise.denoise_step(
    config, model, params, condition, state, step=step, noise=noise
  )


def advance(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  params: Any,
  condition: sequence_lib.Condition,
  state: trajectory.State,
  steps: schedule_lib.Step,
  *,
  key: jax.Array,
) -> trajectory.State:
  """Run a slice of the schedule.

  The arguments of `sample` and `denoise.denoise_step`, but `steps` holds rows
  of the schedule and `key` is that of the whole run: each step folds in its
  clock, so a run gives the same tokens however it is sliced.
  """

  def body(
    state: trajectory.State, step: schedule_lib.Step
  ) -> tuple[trajectory.State, None]:
    return step_once(
      config, model, params, condition, state, step, key=key
    ), None

  state, _ = jax.lax.scan(body, state, steps)
  return state


def _run(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  params: Any,
  condition: sequence_lib.Condition,
  answer: jax.Array,
  *,
  key: jax.Array,
) -> trajectory.State:
  """Denoise answers int32[B, A] to the last step."""
  steps = schedule_lib.rows(schedule_of(config, model.layout), slice(None))
  state = start(config, model, answer)
  return advance(config, model, params, condition, state, steps, key=key)


def sample(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  params: Any,
  condition: sequence_lib.Condition,
  answer: jax.Array,
  *,
  key: jax.Array,
) -> trajectory.Trajectory:
  """Denoise answers to the end; one program with the first two static.

  Args:
    config: the settings.
    model: the network, its layout and ids.
    params: the network's parameters.
    condition: prefix int32[B, P].
    answer: int32[B, A], `mask_id` where a token is wanted; other tokens are
      given and never change.
    key: typed PRNG key.

  Returns:
    The trajectory; nothing is left masked.

  Raises:
    ValueError: if a quirk lets commits be undone or leaves masks: such a run
      has canvases (`canvas`) but no trajectory.
  """
  if not config.quirks.commits_are_final:
    raise ValueError(
      "a trajectory must come from commits that are final, got "
      f"{config.quirks}; canvas() runs these settings"
    )
  state = _run(config, model, params, condition, answer, key=key)
  return trajectory.finish(state, num_steps=config.num_steps)


def canvas(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  params: Any,
  condition: sequence_lib.Condition,
  answer: jax.Array,
  *,
  key: jax.Array,
) -> jax.Array:
  """Denoise answers to the end with any settings: the answers int32[B, A].

  The arguments of `sample`. Where commits are not final masks may be left:
  text with `any_text_id`, codes with `remask_known` or `open_end`.
  """
  state = _run(config, model, params, condition, answer, key=key)
  return finish(config, model, state, key=key).tokens


def finish(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  state: trajectory.State,
  *,
  key: jax.Array,
) -> trajectory.State:
  """Give picture tokens that the last step left masked a code; see `fill`."""
  shape = (state.tokens.shape[0], model.layout.image_len)
  codes = jax.random.randint(
    # No step has this number.
    jax.random.fold_in(key, config.num_steps),
    shape,
    0,
    model.vocab.codebook_size,
  )
  tokens = fill(config, model, state, codes=codes)
  return dataclasses.replace(state, tokens=tokens, predicted=tokens)


def fill(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  state: trajectory.State,
  *,
  codes: jax.Array,
) -> jax.Array:
  """Give every picture token that stayed masked a code: int32[B, A].

  Args:
    config: the settings; `quirks.leftover` says what becomes of them.
    model: the network, its layout and ids.
    state: the canvas after the last step.
    codes: int32[B, N] in [0, codebook_size), random.
  """
  if config.quirks.leftover == "proposed":
    index = model.layout.image_index
    return state.tokens.at[:, index].set(state.predicted[:, index])
  if config.quirks.leftover == "none" or not model.layout.image_len:
    return state.tokens
  index = model.layout.image_index
  tokens = state.tokens[:, index]
  filled = jnp.where(
    tokens == model.vocab.mask_id, model.vocab.code_to_token(codes), tokens
  )
  return state.tokens.at[:, index].set(filled)
