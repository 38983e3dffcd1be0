import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import toy

from paradiff import layout as layout_lib
from paradiff import sharding
from paradiff.diffusion import guidance
from paradiff.diffusion import noise as noise_lib
from paradiff.diffusion import sampler
from paradiff.diffusion import trajectory
from paradiff.models import transformer

Guidance = guidance.Guidance
BASE = sampler.SamplerConfig(
  num_steps=6, num_image_steps=4, image_start_rate=0.2
)
SAMPLED = dataclasses.replace(
  BASE,
  text_temperature=0.7,
  image_temperature=1.3,
  text_noise=0.5,
  image_noise=0.8,
)
ALL_GUIDED = dataclasses.replace(
  SAMPLED,
  text_guidance=Guidance(text=0.6, both=-0.3),
  image_guidance=Guidance(text=1.5, image=2.0, both=0.5),
)
CONFIGS = {
  "greedy": BASE,
  "sampled": SAMPLED,
  "image guidance": dataclasses.replace(
    BASE, image_guidance=Guidance(image=2.0)
  ),
  "text guidance": dataclasses.replace(BASE, text_guidance=Guidance(text=1.0)),
  "all guidance": ALL_GUIDED,
}

SIZE = 8

# Compiled without optimisation: each program here runs once or twice.
_FAST = {"xla_backend_optimization_level": 0}
_sample = jax.jit(sampler.sample, static_argnums=(0, 1), compiler_options=_FAST)


def _key(seed=0):
  return jax.random.key(seed)


def _run(config, *, seed=0, answer=None):
  answer = toy.partial_answers(SIZE) if answer is None else answer
  return _sample(
    config,
    toy.model(),
    toy.params(),
    toy.conditions(SIZE),
    answer,
    key=_key(seed),
  )


def _assert_equal(got, expected, *, atol=1e-4):
  np.testing.assert_array_equal(got.tokens, expected.tokens)
  np.testing.assert_array_equal(got.commit_step, expected.commit_step)
  np.testing.assert_allclose(
    got.commit_logp, expected.commit_logp, rtol=0, atol=atol
  )


@functools.cache
def _noise():
  """Return the run's random numbers as numpy, one dict of arrays a step."""
  draw = jax.jit(noise_lib.draw, static_argnums=(0, 1))
  table = []
  for step in range(BASE.num_steps):
    noise = draw(toy.LAYOUT, SIZE, jax.random.fold_in(_key(), step))
    table.append({name: np.asarray(a) for name, a in vars(noise).items()})
  return table


@pytest.mark.parametrize("name", CONFIGS)
def test_sample_equals_the_numpy_oracle(name):
  got = _run(CONFIGS[name])
  condition, answer = toy.conditions(SIZE), toy.partial_answers(SIZE)
  for row in range(SIZE):
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
  runs = {name: np.asarray(_run(c).tokens) for name, c in CONFIGS.items()}
  for name, tokens in runs.items():
    same = [n for n, other in runs.items() if (tokens == other).all()]
    assert same == [name]


def test_keys_change_a_sampled_run_and_not_a_greedy_one():
  assert (_run(SAMPLED).tokens != _run(SAMPLED, seed=1).tokens).any()
  _assert_equal(_run(BASE), _run(BASE, seed=1), atol=0)


def test_jit_equals_no_jit():
  # One step of everything: without jit each primitive compiles by itself.
  config = dataclasses.replace(
    SAMPLED,
    num_steps=1,
    num_image_steps=1,
    image_guidance=Guidance(image=1.0),
  )
  network = dataclasses.replace(toy.CONFIG, num_layers=1)

  def run(sample):
    return sample(
      config,
      toy.model(network),
      toy.params(network),
      toy.conditions(SIZE),
      toy.partial_answers(SIZE),
      key=_key(),
    )

  expected = run(_sample)
  with jax.disable_jit():
    _assert_equal(run(sampler.sample), expected)


@functools.cache
def _stream(stride):
  """Return the canvases after each slice of a run: (clock, state) pairs."""
  advance = jax.jit(
    sampler.advance, static_argnums=(0, 1), compiler_options=_FAST
  )
  answer = toy.partial_answers(SIZE)
  state = sampler.start(SAMPLED, toy.model(), answer)
  canvases = [(0, state)]
  for steps in sampler.slices(SAMPLED, toy.LAYOUT, stride=stride):
    state = advance(
      SAMPLED,
      toy.model(),
      toy.params(),
      toy.conditions(SIZE),
      state,
      steps,
      key=_key(),
    )
    canvases.append((int(steps.clock[-1]) + 1, state))
  return canvases


@pytest.mark.parametrize("stride", [1, 3])
def test_sample_equals_any_stream_of_slices(stride):
  canvases = _stream(stride)
  assert len(canvases) == 1 + SAMPLED.num_steps // stride
  last = trajectory.finish(canvases[-1][1], num_steps=SAMPLED.num_steps)
  _assert_equal(last, _run(SAMPLED), atol=1e-6)


@pytest.mark.parametrize("stride", [1, 4, 99])
def test_slices_are_the_schedule_cut_in_order(stride):
  pieces = list(sampler.slices(BASE, toy.LAYOUT, stride=stride))
  plan = sampler.schedule_of(BASE, toy.LAYOUT)
  assert {len(p.clock) for p in pieces[:-1]} <= {stride}
  for name, whole in (
    ("clock", plan.step),
    ("is_image_step", plan.image_step),
    ("image_mask_rate", plan.image_mask_rate),
  ):
    joined = np.concatenate([getattr(p, name) for p in pieces])
    np.testing.assert_array_equal(joined, whole)


def test_slices_refuse_a_stride_that_is_not_positive():
  with pytest.raises(ValueError, match="stride must be positive"):
    next(sampler.slices(BASE, toy.LAYOUT, stride=0))


def test_canvas_at_rebuilds_every_canvas_of_the_run():
  run = _run(SAMPLED)
  canvases = _stream(1)
  assert len(canvases) == SAMPLED.num_steps + 1
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
  expected = _run(ALL_GUIDED)
  mesh = toy.mesh(shape)
  places = sharding.shardings(mesh, transformer.logical_axes(toy.CONFIG))
  with jax.set_mesh(mesh):
    got = _sample(
      ALL_GUIDED,
      toy.model(),
      jax.device_put(toy.params(), places),
      toy.conditions(SIZE),
      toy.partial_answers(SIZE),
      key=_key(),
    )
  _assert_equal(got, expected)


LAW_CONFIGS = [
  SAMPLED,
  dataclasses.replace(SAMPLED, num_steps=3, num_image_steps=1),
  dataclasses.replace(SAMPLED, num_steps=17, num_image_steps=9),
]


@functools.cache
def _law_runs():
  """Return (config, answer, run) triples over answers given to any degree."""
  runs = []
  for config in LAW_CONFIGS:
    for seed in range(3):
      answer = toy.partial_answers(SIZE, seed=seed)
      runs.append((config, answer, _run(config, answer=answer, seed=seed)))
  return runs


def test_given_tokens_never_change():
  for _, answer, run in _law_runs():
    given = np.asarray(answer) != toy.VOCAB.mask_id
    assert 0.2 < given.mean() < 0.9
    np.testing.assert_array_equal(run.tokens[given], answer[given])
    assert (run.commit_step[given] == -1).all()
    assert (run.commit_logp[given] == 0.0).all()
    assert (run.commit_step[~given] >= 0).all()


def test_nothing_is_left_masked():
  for config, _, run in _law_runs():
    assert (run.tokens != toy.VOCAB.mask_id).all()
    assert (run.commit_step < config.num_steps).all()


def _left(commit_step, step):
  """Count the masks after `step` in each row of commit_step int[B, n]."""
  return (np.asarray(commit_step) > step).sum(axis=1)


def test_each_step_commits_exactly_the_scheduled_text():
  for config, answer, run in _law_runs():
    text = toy.LAYOUT.text_index
    masks = (np.asarray(answer)[:, text] == toy.VOCAB.mask_id).sum(axis=1)
    assert len(set(masks.tolist())) > 2
    for step in sampler.schedule_of(config, toy.LAYOUT).step.tolist():
      expected = [
        m * (config.num_steps - 1 - step) // config.num_steps for m in masks
      ]
      assert _left(run.commit_step[:, text], step).tolist() == expected


def test_each_picture_step_commits_exactly_the_scheduled_codes():
  for config, answer, run in _law_runs():
    image = toy.LAYOUT.image_index
    total = (np.asarray(answer)[:, image] == toy.VOCAB.mask_id).sum(axis=1)
    left = total.copy()
    for step in range(config.num_steps):
      if step in oracles.image_steps(config):
        share = math.cos(math.pi / 2 * (step + 1) / config.num_steps)
        target = np.floor(total * share + 1e-6 * (share > 1e-9))
        left = np.minimum(target, np.maximum(left - 1, 0)).astype(int)
      got = _left(run.commit_step[:, image], step)
      assert got.tolist() == left.tolist()


def test_answers_hold_only_ids_of_their_modality():
  for _, _, run in _law_runs():
    tokens = np.asarray(run.tokens)
    codes = tokens[:, toy.LAYOUT.image_index]
    assert (codes >= 24).all() and (codes < 40).all()
    words = tokens[:, toy.LAYOUT.text_index]
    assert (words < 22).all()
    assert not np.isin(words, toy.VOCAB.suppressed_text_ids).any()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_suppressed_ids_never_appear_however_probable(temperature):
  table = np.zeros((28, toy.VOCAB.size), np.float32)
  table[:, list(toy.VOCAB.suppressed_text_ids)] = 30.0
  table[:, 22:24] = table[:, 40:] = 40.0  # no modality has these
  config = dataclasses.replace(
    BASE, text_temperature=temperature, image_temperature=temperature
  )
  run = _sample(
    config,
    toy.table_model(),
    jnp.asarray(table),
    toy.conditions(SIZE),
    jnp.tile(toy.partial_answers(1), (SIZE, 1)),
    key=_key(),
  )
  words = np.asarray(run.tokens)[:, toy.LAYOUT.text_index]
  assert not np.isin(words, toy.VOCAB.suppressed_text_ids).any()
  # Probabilities are those of the 16 words that are left.
  logp = np.asarray(run.commit_logp)[:, toy.LAYOUT.text_index]
  assert np.isin(np.round(np.exp(logp), 4), [1 / 16, 1.0]).all()


def _ending(surest):
  """Run a text whose position 2 ends it; return text tokens, steps, logp."""
  table = np.zeros((28, toy.VOCAB.size), np.float32)
  table[:, 10] = 3.0  # every other position wants the word 10
  row = 14 + toy.LAYOUT.text_index[2]
  table[row, 10], table[row, toy.VOCAB.eos_id] = 0.0, surest
  run = _sample(
    dataclasses.replace(BASE, num_steps=5, num_image_steps=1),
    toy.table_model(),
    jnp.asarray(table),
    toy.conditions(1),
    toy.partial_answers(1),
    key=_key(),
  )
  text = toy.LAYOUT.text_index
  return (
    np.asarray(run.tokens)[0, text].tolist(),
    np.asarray(run.commit_step)[0, text].tolist(),
    np.asarray(run.commit_logp)[0, text],
  )


def test_behind_a_committed_end_only_ends_follow_and_go_first():
  tokens, steps, logp = _ending(surest=6.0)
  assert tokens == [10, 10, 2, 2, 2]
  assert steps == [3, 4, 0, 1, 2]
  assert (logp[3:] == 0.0).all() and (logp[:3] < 0.0).all()


def test_words_committed_before_the_end_stay():
  tokens, steps, _ = _ending(surest=2.5)
  assert tokens == [10, 10, 2, 10, 10]
  assert steps == [0, 1, 4, 2, 3]


def test_a_given_end_ends_the_text():
  end, text = toy.LAYOUT.text_index[1], toy.LAYOUT.text_index
  answer = toy.partial_answers(SIZE).at[0, end].set(toy.VOCAB.eos_id)
  run = _run(SAMPLED, answer=answer)
  assert (run.tokens[0, text[1:]] == toy.VOCAB.eos_id).all()
  assert (run.commit_logp[0, text[2:]] == 0.0).all()


def test_no_word_is_committed_after_an_earlier_end():
  num_ends = 0
  for _, _, run in _law_runs():
    text = toy.LAYOUT.text_index
    tokens = np.asarray(run.tokens)[:, text]
    steps = np.asarray(run.commit_step)[:, text]
    for row in range(len(tokens)):
      for end in np.flatnonzero(tokens[row] == toy.VOCAB.eos_id):
        num_ends += 1
        late = steps[row, end + 1 :] > steps[row, end]
        assert (tokens[row, end + 1 :][late] == toy.VOCAB.eos_id).all()
  assert num_ends > 10


def test_rows_are_independent_of_their_batch():
  config = CONFIGS["image guidance"]
  batch = _run(config)
  condition, answer = toy.conditions(SIZE), toy.partial_answers(SIZE)
  for row in range(SIZE):
    pick = functools.partial(jax.tree.map, lambda a, i=row: a[i : i + 1])
    alone = _sample(
      config,
      toy.model(),
      toy.params(),
      pick(condition),
      pick(answer),
      key=_key(),
    )
    _assert_equal(alone, pick(batch))


def test_noise_differs_between_steps_kinds_and_positions():
  table = _noise()
  draws = np.concatenate([a.ravel() for step in table for a in step.values()])
  assert len(np.unique(draws)) == draws.size
  for step in table:
    assert (step["text"] >= 0.0).all() and (step["image"] < 1.0).all()
    assert (step["text_gumbel"] < 0.0).any()


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
    dataclasses.replace(BASE, **change)


# The program.

LARGE = dataclasses.replace(
  toy.VOCAB, size=4200, text_size=4096, code_offset=4100, codebook_size=64
)


def _large_model():
  """Return a model of 4,200 ids whose trunk is recognisable in a jaxpr."""
  config = dataclasses.replace(toy.CONFIG, vocab_size=LARGE.size)
  model = toy.model(config, toy.LAYOUT, LARGE)

  @jax.jit
  def marked_trunk(params, tokens, valid):
    return model.denoiser.trunk(params, tokens, valid)

  denoiser = dataclasses.replace(model.denoiser, trunk=marked_trunk)
  shapes = jax.eval_shape(lambda: transformer.init(config, jax.random.key(0)))
  return dataclasses.replace(model, denoiser=denoiser), shapes


@functools.cache
def _program(config, batch_size=8):
  """Return the sampler's jaxpr."""
  model, params = _large_model()
  return jax.make_jaxpr(functools.partial(sampler.sample, config, model))(
    params,
    toy.conditions(batch_size),
    toy.partial_answers(batch_size),
    key=_key(),
  ).jaxpr


@pytest.mark.parametrize("config", [BASE, ALL_GUIDED], ids=["plain", "guided"])
def test_no_array_has_the_size_of_all_logits(config):
  jaxpr = _program(config)
  sequence = toy.LAYOUT.prefix_len + toy.LAYOUT.answer_len
  assert toy.largest_array(jaxpr) < 8 * sequence * LARGE.size
  # The walk does see the text logits, the largest array that is needed.
  assert toy.largest_array(jaxpr) >= 8 * toy.LAYOUT.text_len * LARGE.text_size


def test_the_program_never_calls_back_to_the_host():
  for config in (BASE, ALL_GUIDED):
    names = toy.primitives(_program(config))
    assert {"scan", "cond", "dot_general"} <= names
    assert not [n for n in names if "callback" in n or "infeed" in n]


def _trunk_calls(config):
  """Return (runs on every step, runs on picture steps) of the trunk."""
  calls = [
    (times, in_cond)
    for eqn, times, in_cond in toy.equations(_program(config))
    if eqn.params.get("name") == "marked_trunk"
  ]
  return tuple(
    sum(times for times, in_cond in calls if in_cond == where)
    for where in (False, True)
  )


@pytest.mark.parametrize(
  ("text", "image", "always", "late"),
  [
    (Guidance(), Guidance(), 1, 0),
    (Guidance(text=0.0), Guidance(image=0.0), 1, 0),
    (Guidance(), Guidance(image=4.0), 1, 1),
    (Guidance(), Guidance(text=1.0, image=4.0, both=1.0), 1, 3),
    (Guidance(text=2.0), Guidance(), 2, 0),
    (Guidance(text=2.0), Guidance(text=1.0, image=1.0), 2, 1),
    (Guidance(both=1.0), Guidance(both=3.0), 2, 0),
  ],
)
def test_the_trunk_runs_as_often_as_the_schedule_needs(
  text, image, always, late
):
  # 20 steps, of which 7 have work: text at 3, 7, 11, 15, 19 and the picture
  # at 13, 16 and 19. A branch of the picture runs on picture steps only.
  config = dataclasses.replace(
    BASE,
    num_steps=20,
    num_image_steps=3,
    image_start_rate=0.65,
    text_guidance=text,
    image_guidance=image,
  )
  active = len(sampler.schedule_of(config, toy.LAYOUT).step)
  assert _trunk_calls(config) == (always * active, late * active)


def test_idle_steps_run_no_pass():
  config = dataclasses.replace(
    BASE, num_steps=20, num_image_steps=3, image_start_rate=0.65
  )
  plan = sampler.schedule_of(config, toy.LAYOUT)
  assert plan.step.tolist() == [0, 4, 8, 12, 13, 16, 19]
  assert plan.image_step.sum() == 3


def test_a_branch_without_the_picture_runs_a_shorter_sequence():
  config = dataclasses.replace(BASE, image_guidance=Guidance(image=1.0))
  lengths = {
    in_cond: eqn.invars[-2].aval.shape[1]
    for eqn, _, in_cond in toy.equations(_program(config))
    if eqn.params.get("name") == "marked_trunk"
  }
  codes = toy.LAYOUT.image_len
  assert lengths == {False: 28, True: 28 - codes - 2}


def test_layouts_of_one_code_and_one_word_work():
  layout = layout_lib.Layout(grid=(1, 1), prompt_len=1, text_len=1)
  answer = layout_lib.encode_answer(layout, toy.VOCAB)
  run = _sample(
    BASE,
    toy.model(toy.CONFIG, layout),
    toy.params(),
    toy.conditions(1, layout=layout),
    jnp.asarray(answer[None]),
    key=_key(),
  )
  assert (run.tokens != toy.VOCAB.mask_id).all()
