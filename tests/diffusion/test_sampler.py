import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import toy
import toy_runs as runs

from paradiff import layout as layout_lib
from paradiff import sequence as sequence_lib
from paradiff import sharding
from paradiff.diffusion import guidance
from paradiff.diffusion import noise as noise_lib
from paradiff.diffusion import sampler
from paradiff.diffusion import trajectory
from paradiff.models import transformer

Guidance = guidance.Guidance
CONFIGS = {
  "greedy": runs.BASE,
  "sampled": runs.SAMPLED,
  "image guidance": dataclasses.replace(
    runs.BASE, image_guidance=Guidance(image=2.0)
  ),
  "text guidance": dataclasses.replace(
    runs.BASE, text_guidance=Guidance(text=1.0)
  ),
  "all guidance": runs.ALL_GUIDED,
}


@functools.cache
def _noise():
  """Return the run's random numbers as numpy, one dict of arrays a step."""
  draw = jax.jit(noise_lib.draw, static_argnums=(0, 1, 2))
  table = []
  for step in range(runs.BASE.num_steps):
    noise = draw(
      runs.BASE, toy.model(), runs.SIZE, jax.random.fold_in(runs.key(), step)
    )
    table.append({name: np.asarray(a) for name, a in vars(noise).items()})
  return table


@pytest.mark.parametrize("name", CONFIGS)
def test_sample_equals_the_numpy_oracle(name):
  got = runs.run(CONFIGS[name])
  condition, answer = toy.conditions(runs.SIZE), toy.partial_answers(runs.SIZE)
  for row in range(runs.SIZE):
    tokens, commit_step, logp = oracles.sample_row(
      CONFIGS[name],
      toy.LAYOUT,
      toy.VOCAB,
      toy.network(),
      np.asarray(condition.prefix[row]),
      np.asarray(condition.valid[row]),
      np.asarray(answer[row]),
      [{kind: a[row] for kind, a in step.items()} for step in _noise()],
    )
    np.testing.assert_array_equal(got.tokens[row], tokens)
    np.testing.assert_array_equal(got.commit_step[row], commit_step)
    np.testing.assert_allclose(got.commit_logp[row], logp, rtol=0, atol=1e-4)


def test_guidance_and_temperature_change_the_answer():
  found = {n: np.asarray(runs.run(c).tokens) for n, c in CONFIGS.items()}
  for name, tokens in found.items():
    same = [n for n, other in found.items() if (tokens == other).all()]
    assert same == [name]


def test_keys_change_a_sampled_run_and_not_a_greedy_one():
  assert (
    runs.run(runs.SAMPLED).tokens != runs.run(runs.SAMPLED, seed=1).tokens
  ).any()
  runs.assert_equal(runs.run(runs.BASE), runs.run(runs.BASE, seed=1), atol=0)


def test_jit_equals_no_jit():
  # One step of everything, and a generator of few primitives: without jit
  # each primitive of each shape compiles by itself.
  key = jax.random.key(0, impl="unsafe_rbg")
  config = dataclasses.replace(runs.SAMPLED, num_steps=1, num_image_steps=1)
  network = dataclasses.replace(toy.CONFIG, num_layers=1)

  def run(sample):
    return sample(
      config,
      toy.model(network),
      toy.params(network),
      toy.conditions(runs.SIZE),
      toy.partial_answers(runs.SIZE),
      key=key,
    )

  expected = run(runs.sample)
  with jax.disable_jit():
    runs.assert_equal(run(sampler.sample), expected)


@functools.cache
def _stream(stride):
  """Return the canvases after each slice of a run: (clock, state) pairs."""
  advance = jax.jit(
    sampler.advance, static_argnums=(0, 1), compiler_options=runs.FAST
  )
  answer = toy.partial_answers(runs.SIZE)
  state = sampler.start(runs.SAMPLED, toy.model(), answer)
  canvases = [(0, state)]
  for steps in sampler.slices(runs.SAMPLED, toy.LAYOUT, stride=stride):
    state = advance(
      runs.SAMPLED,
      toy.model(),
      toy.params(),
      toy.conditions(runs.SIZE),
      state,
      steps,
      key=runs.key(),
    )
    canvases.append((int(steps.clock[-1]) + 1, state))
  return canvases


@pytest.mark.parametrize("stride", [1, 3])
def test_sample_equals_any_stream_of_slices(stride):
  canvases = _stream(stride)
  assert len(canvases) == 1 + runs.SAMPLED.num_steps // stride
  last = trajectory.finish(canvases[-1][1], num_steps=runs.SAMPLED.num_steps)
  runs.assert_equal(last, runs.run(runs.SAMPLED), atol=1e-6)


@pytest.mark.parametrize("stride", [1, 4, 99])
def test_slices_are_the_schedule_cut_in_order(stride):
  pieces = list(sampler.slices(runs.BASE, toy.LAYOUT, stride=stride))
  plan = sampler.schedule_of(runs.BASE, toy.LAYOUT)
  assert {len(p.clock) for p in pieces[:-1]} <= {stride}
  for name, whole in (
    ("clock", plan.step),
    ("is_image_step", plan.image_step),
    ("text_commits", plan.text_commits),
    ("image_left", plan.image_left),
  ):
    joined = np.concatenate([getattr(p, name) for p in pieces])
    np.testing.assert_array_equal(joined, whole)


def test_slices_refuse_a_stride_that_is_not_positive():
  with pytest.raises(ValueError, match="stride must be positive"):
    next(sampler.slices(runs.BASE, toy.LAYOUT, stride=0))


def test_canvas_at_rebuilds_every_canvas_of_the_run():
  run = runs.run(runs.SAMPLED)
  canvases = _stream(1)
  assert len(canvases) == runs.SAMPLED.num_steps + 1
  for clock, state in canvases:
    rebuilt = trajectory.canvas_at(run, clock, mask_id=toy.VOCAB.mask_id)
    np.testing.assert_array_equal(rebuilt, state.tokens)


def test_predictions_fill_the_masks_and_keep_what_is_committed():
  last_image_masks = None
  for clock, state in _stream(1):
    tokens, predicted = np.asarray(state.tokens), np.asarray(state.predicted)
    fixed = tokens != toy.VOCAB.mask_id
    np.testing.assert_array_equal(predicted[fixed], tokens[fixed])
    words = predicted[:, toy.LAYOUT.text_index]
    assert clock == 0 or (words != toy.VOCAB.mask_id).all()
    last_image_masks = predicted[:, toy.LAYOUT.image_index]
  assert (last_image_masks != toy.VOCAB.mask_id).all()


@pytest.mark.parametrize("shape", toy.MESHES, ids=str)
def test_tokens_and_steps_do_not_depend_on_the_mesh(shape):
  expected = runs.run(runs.ALL_GUIDED)
  mesh = toy.mesh(shape)
  places = sharding.shardings(mesh, transformer.logical_axes(toy.CONFIG))
  with jax.set_mesh(mesh):
    got = runs.sample(
      runs.ALL_GUIDED,
      toy.model(),
      jax.device_put(toy.params(), places),
      toy.conditions(runs.SIZE),
      toy.partial_answers(runs.SIZE),
      key=runs.key(),
    )
  runs.assert_equal(got, expected)


def test_rows_are_independent_of_their_batch():
  config = CONFIGS["image guidance"]
  batch = runs.run(config)
  condition, answer = toy.conditions(runs.SIZE), toy.partial_answers(runs.SIZE)
  for row in range(runs.SIZE):
    pick = functools.partial(jax.tree.map, lambda a, i=row: a[i : i + 1])
    alone = runs.sample(
      config,
      toy.model(),
      toy.params(),
      pick(condition),
      pick(answer),
      key=runs.key(),
    )
    runs.assert_equal(alone, pick(batch))


def test_noise_differs_between_steps_kinds_and_positions():
  table = _noise()
  draws = np.concatenate([a.ravel() for step in table for a in step.values()])
  assert len(np.unique(draws)) == draws.size
  for step in table:
    assert (step["text"] >= 0.0).all() and (step["image"] < 1.0).all()
    assert (step["text_confidence"] < 0.0).any()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"num_steps": 0}, "num_steps"),
    ({"num_image_steps": 0}, "num_image_steps"),
    ({"image_start_rate": 1.0}, "start_rate"),
    ({"text_temperature": -0.1}, "text_temperature must be at least 0"),
    ({"image_noise": -1.0}, "image_noise must be at least 0"),
  ],
  ids=str,
)
def test_config_errors_name_the_field(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(runs.BASE, **change)


def test_layouts_of_one_code_and_one_word_work():
  layout = layout_lib.Layout(grid=(1, 1), prompt_len=1, text_len=1)
  answer = sequence_lib.encode_answer(layout, toy.VOCAB)
  run = runs.sample(
    runs.BASE,
    toy.model(toy.CONFIG, layout),
    toy.params(),
    toy.conditions(1, layout=layout),
    jnp.asarray(answer[None]),
    key=runs.key(),
  )
  assert (run.tokens != toy.VOCAB.mask_id).all()
