"""The reference samplers replay the recorded runs of the published code.

Fed with the recorded draws, every sequence that the model is given at every
step is identical to the recording.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import published_runs
import pytest

from paradiff import sequence
from paradiff.diffusion import denoise
from paradiff.diffusion import sampler
from paradiff.diffusion import schedule as schedule_lib

RUNS = published_runs.RUNS_A + published_runs.RUNS_M


@functools.cache
def _program(model):
  """Return a jitted step that also hands out every sequence of the trunk."""
  seen = []

  def trunk(params, tokens, valid, places):
    seen.append(tokens)
    return model.denoiser.trunk(params, tokens, valid, places)

  denoiser = dataclasses.replace(model.denoiser, trunk=trunk)
  recorder = dataclasses.replace(model, denoiser=denoiser)

  def step(config, is_image_step, params, condition, state, row, noise):
    seen.clear()
    # Known before the step: a branch of `cond` could not hand out its inputs.
    row = dataclasses.replace(row, is_image_step=is_image_step)
    with jax.disable_jit():
      state = denoise.denoise_step(
        config, recorder, params, condition, state, step=row, noise=noise
      )
    return state, [np.asarray(tokens) for tokens in seen]

  return step


def _replay(run, config=None):
  """Run the reference sampler on the recorded draws: calls and last state."""
  config = config or run.config
  plan = sampler.schedule_of(config, run.model.layout)
  state = sampler.start(config, run.model, run.answer)
  noise = published_runs.noise_of(run)
  calls, drawn = [], next(noise)
  for i in range(len(plan.step)):
    row = schedule_lib.rows(plan, slice(i, i + 1))
    row = jax.tree.map(lambda a: a[0], row)
    state, seen = _program(run.model)(
      config,
      bool(plan.image_step[i]),
      run.params,
      run.condition,
      state,
      row,
      drawn,
    )
    calls.append(seen)
    words = np.asarray(state.tokens)[0, run.model.layout.text_index]
    masks = int((words == run.model.vocab.mask_id).sum())
    drawn = noise.send(masks) if i + 1 < len(plan.step) else None
  return calls, state


@functools.cache
def _reference(name):
  return _replay(published_runs.load(name))


@pytest.mark.parametrize("name", RUNS)
def test_every_model_input_of_every_step_is_the_recorded_one(name):
  run = published_runs.load(name)
  calls, _ = _reference(name)
  if name in published_runs.RUNS_A:
    got = np.concatenate([tokens for step in calls for tokens in step])
  else:
    got = np.stack([np.concatenate(step) for step in calls])
  np.testing.assert_array_equal(got, run.file["calls"])


@pytest.mark.parametrize("name", published_runs.RUNS_A)
def test_the_prefixes_are_the_recorded_ones(name):
  run = published_runs.load(name)
  np.testing.assert_array_equal(run.condition.prefix[0], run.file["con"])
  for part, expected in (("text", "uncon_text"), ("image", "uncon_image")):
    null = sequence.drop(
      run.model.layout,
      run.model.vocab,
      run.condition,
      text=part == "text",
      image=part == "image",
    )
    np.testing.assert_array_equal(null.prefix[0], run.file[expected])
    assert null.valid.all()
  whole = np.concatenate([run.condition.prefix[0], run.answer[0]])
  np.testing.assert_array_equal(whole, run.file["input_ids"][0])


@pytest.mark.parametrize("name", published_runs.RUNS_M)
def test_the_null_prefix_of_m_is_the_recorded_one(name):
  run = published_runs.load(name)
  np.testing.assert_array_equal(run.condition.prefix[0], run.file["inp"])
  null = sequence.drop(
    run.model.layout, run.model.vocab, run.condition, text=True, image=True
  )
  np.testing.assert_array_equal(null.prefix[0], run.file["uinp"])


@pytest.mark.parametrize("name", published_runs.RUNS_A)
def test_one_masked_code_is_left_and_filled_with_the_recorded_draw(name):
  run = published_runs.load(name)
  _, state = _reference(name)
  layout, vocab = run.model.layout, run.model.vocab
  image = np.asarray(state.tokens)[0, layout.image_index]
  left = image == vocab.mask_id
  assert left.sum() == 1
  # The greedy runs fill it from an unrecorded generator.
  codes = np.where(left, run.file["vq"], 0)[None]
  if run.tape:
    kind, drawn = run.tape[-1]
    assert kind == "randint"
    codes = np.where(left, drawn.reshape(-1)[0], 0)[None]
  answer = sampler.fill(run.config, run.model, state, codes=jnp.asarray(codes))
  got = np.asarray(answer)[0]
  np.testing.assert_array_equal(
    got[layout.image_index] - vocab.code_offset, run.file["vq"]
  )
  words = got[layout.text_index]
  np.testing.assert_array_equal(words[words != vocab.mask_id], run.file["text"])


@pytest.mark.parametrize("name", published_runs.RUNS_M)
def test_the_picture_of_m_is_that_of_the_last_proposals(name):
  run = published_runs.load(name)
  _, state = _reference(name)
  layout, vocab = run.model.layout, run.model.vocab
  none = jnp.zeros((1, layout.image_len), jnp.int32)
  got = np.asarray(sampler.fill(run.config, run.model, state, codes=none))[0]
  np.testing.assert_array_equal(
    got[layout.image_index] - vocab.code_offset, run.file["image"][0]
  )
  # The recorded text begins with the fixed `bos`.
  np.testing.assert_array_equal(got[layout.text_index], run.file["text"][0][1:])
