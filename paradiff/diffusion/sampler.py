"""The parallel sampler: one scan that commits text and picture together.

At each step one pass over the whole sequence proposes a token for every
masked position; the surest text tokens and, on picture steps, the surest
picture tokens are committed, all from the same state. Guidance branches run
only on the steps that use them.

Source: arXiv 2511.09611 section 3.2 and appendix (decoding schedules).
Differs from upstream: the picture's temperature scales its logits, ids a
modality cannot have are suppressed, nothing is left masked at the end, and
behind a committed end of text only `eos` follows.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paradiff import layout as layout_lib
from paradiff.diffusion import commit
from paradiff.diffusion import guidance
from paradiff.diffusion import model as model_lib
from paradiff.diffusion import noise as noise_lib
from paradiff.diffusion import schedule as schedule_lib
from paradiff.diffusion import trajectory

# Above every log-probability: `eos` behind the end of a text goes first.
_CERTAIN = 1e9


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
  """Settings of a sampler run; static, so each value compiles once.

  Attributes:
    num_steps: S, steps of the shared clock.
    num_image_steps: steps at which the picture is updated.
    image_start_rate: share of the clock before the first of them.
    text_end_rate: share of the clock by which the text is complete; below 1
      the last picture steps see all of it, which settles free choices.
    text_temperature: divides text logits; 0 is greedy.
    image_temperature: divides picture logits; 0 is greedy.
    text_noise: Gumbel noise on text confidence, annealed to 0.
    image_noise: Gumbel noise on picture confidence, annealed to 0.
    end_penalty: subtracted from the confidence of `eos`; the surest tokens of
      an unwritten text are those behind its end, and committing them first
      settles the length before the words.
    text_guidance: guidance of the text logits.
    image_guidance: guidance of the picture logits.
  """

  num_steps: int = 32
  num_image_steps: int = 16
  image_start_rate: float = 0.25
  text_end_rate: float = 1.0
  text_temperature: float = 0.0
  image_temperature: float = 0.0
  text_noise: float = 0.0
  image_noise: float = 0.0
  end_penalty: float = 0.0
  text_guidance: guidance.Guidance = guidance.Guidance()
  image_guidance: guidance.Guidance = guidance.Guidance()

  def __post_init__(self) -> None:
    for modality in ("text", "image"):
      for name in (f"{modality}_temperature", f"{modality}_noise"):
        value = getattr(self, name)
        if value < 0.0:
          raise ValueError(f"{name} must be at least 0, got {value}")
    schedule_lib.image_steps(
      num_steps=self.num_steps,
      num_image_steps=self.num_image_steps,
      start_rate=self.image_start_rate,
    )
    schedule_lib.num_text_steps(
      num_steps=self.num_steps, text_end_rate=self.text_end_rate
    )


def _anneal(
  config: SamplerConfig, scale: float, step: schedule_lib.Step
) -> jax.Array:
  """Return the confidence noise's scale, falling linearly to 0."""
  return scale * (1.0 - (step.clock + 1.0) / config.num_steps)


def commit_text(
  config: SamplerConfig,
  model: model_lib.Model,
  state: trajectory.State,
  logits: jax.Array,
  *,
  step: schedule_lib.Step,
  noise: noise_lib.Noise,
) -> trajectory.State:
  """Commit this step's share of the text from logits float32[B, T, Vt]."""
  vocab, index = model.vocab, model.layout.text_index
  ban = np.zeros(vocab.text_size, np.bool_)
  ban[list(vocab.suppressed_text_ids)] = True
  lowest = jnp.finfo(jnp.float32).min
  logits = jnp.where(jnp.asarray(ban)[None, None, :], lowest, logits)
  proposal, logp, confidence = commit.propose(
    logits, noise.text, temperature=config.text_temperature
  )
  confidence += _anneal(config, config.text_noise, step) * noise.text_gumbel
  confidence -= config.end_penalty * (proposal == vocab.eos_id)
  canvas = state.tokens[:, index]
  is_end = (canvas == vocab.eos_id).astype(jnp.int32)
  # Behind a committed end of text there is nothing left to choose.
  ended = jnp.cumsum(is_end, axis=1) - is_end > 0
  proposal = jnp.where(ended, vocab.eos_id, proposal)
  logp = jnp.where(ended, 0.0, logp)
  confidence = jnp.where(ended, _CERTAIN, confidence)
  eligible = canvas == vocab.mask_id
  remaining = schedule_lib.text_remaining(
    state.num_text_masks,
    step=step.clock,
    num_steps=schedule_lib.num_text_steps(
      num_steps=config.num_steps, text_end_rate=config.text_end_rate
    ),
  )
  num_commits = eligible.sum(axis=1, dtype=jnp.int32) - remaining
  selected = commit.commit_k(eligible, confidence, num_commits)
  return trajectory.commit(
    state,
    index,
    proposal=proposal,
    logp=logp,
    selected=selected,
    step=step.clock,
  )


def commit_image(
  config: SamplerConfig,
  model: model_lib.Model,
  state: trajectory.State,
  logits: jax.Array,
  *,
  step: schedule_lib.Step,
  noise: noise_lib.Noise,
) -> trajectory.State:
  """Commit this step's share of the picture from logits float32[B, N, C]."""
  vocab, index = model.vocab, model.layout.image_index
  code, logp, confidence = commit.propose(
    logits, noise.image, temperature=config.image_temperature
  )
  confidence += _anneal(config, config.image_noise, step) * noise.image_gumbel
  eligible = state.tokens[:, index] == vocab.mask_id
  num_masked = eligible.sum(axis=1, dtype=jnp.int32)
  target = jnp.floor(state.num_image_masks * step.image_mask_rate)
  # At least one commit a picture step, so that no step is wasted.
  remaining = jnp.minimum(target.astype(jnp.int32), num_masked - 1)
  num_commits = num_masked - jnp.maximum(remaining, 0)
  selected = commit.commit_k(eligible, confidence, num_commits)
  return trajectory.commit(
    state,
    index,
    proposal=vocab.code_to_token(code),
    logp=logp,
    selected=selected,
    step=step.clock,
  )


def denoise_step(
  config: SamplerConfig,
  model: model_lib.Model,
  params: Any,
  condition: layout_lib.Condition,
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
  canvas = state.tokens
  wanted_by_text = config.text_guidance.branches
  # The picture's own branches wait for the steps that update the picture.
  wanted_late = tuple(
    name
    for name in config.image_guidance.branches
    if name not in wanted_by_text
  )

  def unconditional(branches: tuple[str, ...]) -> dict[str, jax.Array]:
    prefixes = guidance.conditions(
      model.layout, model.vocab, condition, branches=branches
    )
    return {
      name: model.answer_hidden(params, prefix, canvas)
      for name, prefix in prefixes.items()
    }

  def guided(
    hidden: dict[str, jax.Array],
    scales: guidance.Guidance,
    index: np.ndarray,
    columns: tuple[int, int],
  ) -> jax.Array:
    logits = {
      name: model.denoiser.head(params, hidden[name][:, index], columns=columns)
      for name in ("none", *scales.branches)
    }
    return guidance.guide(logits["none"], logits, scales)

  hidden = {
    "none": model.answer_hidden(params, condition, canvas),
    **unconditional(wanted_by_text),
  }

  def with_image(state: trajectory.State) -> trajectory.State:
    logits = guided(
      {**hidden, **unconditional(wanted_late)},
      config.image_guidance,
      model.layout.image_index,
      model.vocab.code_columns,
    )
    return commit_image(config, model, state, logits, step=step, noise=noise)

  logits = guided(
    hidden,
    config.text_guidance,
    model.layout.text_index,
    model.vocab.text_columns,
  )
  state = commit_text(config, model, state, logits, step=step, noise=noise)
  return jax.lax.cond(
    step.is_image_step, with_image, lambda state: state, state
  )


def schedule_of(
  config: SamplerConfig, layout: layout_lib.Layout
) -> schedule_lib.Schedule:
  """Return the tables of a run."""
  return schedule_lib.make_schedule(
    num_steps=config.num_steps,
    num_image_steps=config.num_image_steps,
    start_rate=config.image_start_rate,
    text_len=layout.text_len,
    text_end_rate=config.text_end_rate,
  )


def slices(
  config: SamplerConfig, layout: layout_lib.Layout, *, stride: int
) -> Iterator[schedule_lib.Step]:
  """Cut the schedule into scans of at most `stride` > 0 steps, for display."""
  if stride < 1:
    raise ValueError(f"stride must be positive, got {stride=}")
  schedule = schedule_of(config, layout)
  for first in range(0, len(schedule.step), stride):
    yield schedule_lib.rows(schedule, slice(first, first + stride))


def start(
  config: SamplerConfig, model: model_lib.Model, answer: jax.Array
) -> trajectory.State:
  """Begin a run from answers int32[B, A], masked where tokens are wanted."""
  return trajectory.start(
    model.layout,
    answer,
    mask_id=model.vocab.mask_id,
    num_steps=config.num_steps,
  )


def advance(
  config: SamplerConfig,
  model: model_lib.Model,
  params: Any,
  condition: layout_lib.Condition,
  state: trajectory.State,
  steps: schedule_lib.Step,
  *,
  key: jax.Array,
) -> trajectory.State:
  """Run a slice of the schedule.

  The arguments of `sample` and `denoise_step`, but `steps` holds rows of the
  schedule and `key` is that of the whole run: each step folds in its clock, so
  a run gives the same tokens however it is sliced.
  """

  def body(
    state: trajectory.State, step: schedule_lib.Step
  ) -> tuple[trajectory.State, None]:
    step_key = jax.random.fold_in(key, step.clock)
    noise = noise_lib.draw(model.layout, state.tokens.shape[0], step_key)
    state = denoise_step(
      config, model, params, condition, state, step=step, noise=noise
    )
    return state, None

  state, _ = jax.lax.scan(body, state, steps)
  return state


def sample(
  config: SamplerConfig,
  model: model_lib.Model,
  params: Any,
  condition: layout_lib.Condition,
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
  """
  steps = schedule_lib.rows(schedule_of(config, model.layout), slice(None))
  state = start(config, model, answer)
  state = advance(config, model, params, condition, state, steps, key=key)
  return trajectory.finish(state, num_steps=config.num_steps)
