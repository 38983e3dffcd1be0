"""One step of the parallel sampler: propose for every mask, commit the surest.

Text and picture are proposed from the same state. Guidance branches run only
on the steps that use them; an answer without text or without a picture is
denoised by the same step.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paradiff import sequence as sequence_lib
from paradiff import vocab as vocab_lib
from paradiff.diffusion import commit
from paradiff.diffusion import guidance
from paradiff.diffusion import model as model_lib
from paradiff.diffusion import noise as noise_lib
from paradiff.diffusion import schedule as schedule_lib
from paradiff.diffusion import settings
from paradiff.diffusion import trajectory

# Above every log-probability: `eos` behind the end of a text goes first.
_CERTAIN = 1e9


def _fade(config: settings.SamplerConfig, step: schedule_lib.Step) -> jax.Array:
  """Return the share of the confidence noise that is left, falling to 0."""
  return 1.0 - (step.clock + 1.0) / config.num_steps


def _confidence(
  config: settings.SamplerConfig,
  modality: str,
  logits: jax.Array,
  proposal: jax.Array,
  *,
  step: schedule_lib.Step,
  noise: jax.Array,
) -> jax.Array:
  """Return how sure each proposal is, float32[B, n], with its noise."""
  rule = getattr(config, f"{modality}_confidence")
  if rule == "random":
    return noise
  confidence = commit.certainty(rule, logits, proposal)
  floor = config.quirks.confidence_floor
  if floor and modality == "image" and rule == "probability":
    confidence = jnp.log(jnp.exp(confidence) + floor)
  scale = getattr(config, f"{modality}_noise") * _fade(config, step)
  if modality == "image" and config.quirks.constant_image_noise:
    scale = config.image_noise
  return confidence + scale * noise


def suppress(
  config: settings.SamplerConfig, model: model_lib.Model, logits: jax.Array
) -> jax.Array:
  """Rule out ids that a text cannot have, in logits float32[..., Vt]."""
  if config.quirks.any_text_id:
    return logits
  ban = np.zeros(model.vocab.text_size, np.bool_)
  ban[list(model.vocab.suppressed_text_ids)] = True
  ban = ban.reshape((1,) * (logits.ndim - 1) + ban.shape)
  return jnp.where(jnp.asarray(ban), jnp.finfo(jnp.float32).min, logits)


def behind_end(vocab: vocab_lib.Vocab, text: jax.Array) -> jax.Array:
  """Return bool[B, T]: places behind an end of a text int32[B, T].

  Behind a committed end there is nothing left to choose.
  """
  is_end = jnp.isin(text, jnp.asarray(vocab.end_ids)).astype(jnp.int32)
  return jnp.cumsum(is_end, axis=1) - is_end > 0


def commit_text(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  state: trajectory.State,
  logits: jax.Array,
  *,
  step: schedule_lib.Step,
  noise: noise_lib.Noise,
) -> trajectory.State:
  """Commit this step's share of the text from logits float32[B, T, Vt]."""
  vocab, layout, quirks = model.vocab, model.layout, config.quirks
  logits = suppress(config, model, logits)
  proposal, logp = commit.propose(
    logits, noise.text, temperature=config.text_temperature
  )
  confidence = _confidence(
    config, "text", logits, proposal, step=step, noise=noise.text_confidence
  )
  ends = jnp.asarray(vocab.end_ids)
  confidence -= config.end_penalty * jnp.isin(proposal, ends)
  canvas = state.tokens[:, layout.text_index]
  if not quirks.text_behind_end:
    ended = behind_end(vocab, canvas)
    proposal = jnp.where(ended, vocab.eos_id, proposal)
    logp = jnp.where(ended, 0.0, logp)
    confidence = jnp.where(ended, _CERTAIN, confidence)
  block = None
  if config.text_block_len:
    block = np.arange(layout.text_len) // config.text_block_len
  selected = commit.commit_k(
    canvas == vocab.mask_id,
    confidence,
    step.text_commits[state.num_text_masks],
    block=block,
  )
  return trajectory.commit(
    state,
    layout.text_index,
    proposal=proposal,
    logp=logp,
    selected=selected,
    step=step.clock,
  )


def commit_image(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  state: trajectory.State,
  logits: jax.Array,
  *,
  step: schedule_lib.Step,
  noise: noise_lib.Noise,
) -> trajectory.State:
  """Commit this step's share of the picture from logits float32[B, N, C]."""
  vocab, index, quirks = model.vocab, model.layout.image_index, config.quirks
  temperature = config.image_temperature
  if quirks.unscaled_image_temperature and temperature:
    temperature = 1.0
  code, logp = commit.propose(logits, noise.image, temperature=temperature)
  confidence = _confidence(
    config, "image", logits, code, step=step, noise=noise.image_confidence
  )
  eligible = state.tokens[:, index] == vocab.mask_id
  num_masked = eligible.sum(axis=1, dtype=jnp.int32)
  # At least one commit a picture step, so that no step is wasted.
  left = jnp.minimum(step.image_left[state.num_image_masks], num_masked - 1)
  left = jnp.maximum(left, 0 if quirks.leftover == "none" else 1)
  selected = commit.commit_k(eligible, confidence, num_masked - left)
  state = trajectory.commit(
    state,
    index,
    proposal=vocab.code_to_token(code),
    logp=logp,
    selected=selected,
    step=step.clock,
  )
  if not quirks.remask_known:
    return state
  # Known tokens are equally sure; the noise decides, then the position.
  order = _fade(config, step) * config.image_noise * noise.image_confidence
  last = jnp.arange(len(index))[None] == order.argmin(axis=1)[:, None]
  again = last & (num_masked == 0)[:, None]
  tokens = jnp.where(again, vocab.mask_id, state.tokens[:, index])
  # Uncommitted, so that later proposals count for it again.
  step_of = jnp.where(again, config.num_steps, state.commit_step[:, index])
  return dataclasses.replace(
    state,
    tokens=state.tokens.at[:, index].set(tokens),
    commit_step=state.commit_step.at[:, index].set(step_of),
  )


def denoise_step(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  params: Any,
  condition: sequence_lib.Condition,
  state: trajectory.State,
  *,
  step: schedule_lib.Step,
  noise: noise_lib.Noise,
) -> trajectory.State:
  """Advance a run by one step: all proposals come from one state.

  Args:
    config: the settings.
    model: the network, its layout and ids.
    params: the network's parameters.
    condition: prefix int32[B, P].
    state: the canvas before the step.
    step: a row of the schedule.
    noise: the random numbers of this step.

  Returns:
    The canvas after the step.
  """
  layout, vocab, before = model.layout, model.vocab, state.tokens
  branch_hidden = functools.partial(
    unconditional, config, model, params, condition
  )

  def guided(
    hidden: dict[str, jax.Array],
    scales: guidance.Guidance,
    index: np.ndarray,
    columns: tuple[int, int],
  ) -> jax.Array:
    rows = {name: array[:, index] for name, array in hidden.items()}
    return guided_logits(model, params, rows, scales=scales, columns=columns)

  early, late = _branches(config)
  hidden = {
    "none": model.answer_hidden(params, condition, before),
    **branch_hidden(before, early),
  }

  def with_image(state: trajectory.State) -> trajectory.State:
    is_late = config.quirks.late_unconditional
    canvas = state.tokens if is_late else before
    logits = guided(
      {**hidden, **branch_hidden(canvas, late)},
      config.image_guidance,
      layout.image_index,
      vocab.code_columns,
    )
    return commit_image(config, model, state, logits, step=step, noise=noise)

  if layout.text_len:
    logits = guided(
      hidden,
      config.text_guidance,
      layout.text_index,
      noise_lib.text_columns(config, model),
    )
    state = commit_text(config, model, state, logits, step=step, noise=noise)
  if not layout.image_len:
    return state
  return jax.lax.cond(
    step.is_image_step, with_image, lambda state: state, state
  )


def guided_logits(
  model: model_lib.Model,
  params: Any,
  hidden: Mapping[str, jax.Array],
  *,
  scales: guidance.Guidance,
  columns: tuple[int, int],
) -> jax.Array:
  """Return the guided logits float32[..., V] of rows of hidden states.

  Args:
    model: the network, its layout and ids.
    params: the network's parameters.
    hidden: float[..., D] by branch, "none" for the conditional one.
    scales: of the guidance.
    columns: half-open range of token ids.
  """
  logits = {
    name: model.denoiser.head(params, hidden[name], columns=columns)
    for name in ("none", *scales.branches)
  }
  return guidance.guide(logits["none"], logits, scales)


def unconditional(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  params: Any,
  condition: sequence_lib.Condition,
  canvas: jax.Array,
  branches: tuple[str, ...],
) -> dict[str, jax.Array]:
  """Run the trunk over each branch's sequence: float[B, A, D] by name."""
  hidden = {}
  for branch in branches:
    prefix, answer = guidance.without(
      model.layout,
      model.vocab,
      condition,
      canvas,
      branch=branch,
      overwrite=config.quirks.overwrite_prefix,
    )
    hidden[branch] = model.answer_hidden(params, prefix, answer)
  return hidden


def _branches(
  config: settings.SamplerConfig,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Return the branches of every step, and those of picture steps only."""
  text, image = config.text_guidance.branches, config.image_guidance.branches
  if image:
    image += config.quirks.idle_image_branches
  text += config.quirks.idle_text_branches
  names = guidance.BRANCHES
  return (
    tuple(name for name in names if name in text),
    # The picture's own branches wait for the steps that update the picture.
    tuple(name for name in names if name in image and name not in text),
  )
