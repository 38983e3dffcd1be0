"""A rollout is a run of the sampler, and every state on its way is known."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rl_toy
import toy
import toy_runs as runs

from paradiff.diffusion import sampler
from paradiff.diffusion import schedule as schedule_lib
from paradiff.diffusion import settings
from paradiff.diffusion import trajectory as trajectory_lib
from paradiff.rl import rollout as rollout_lib

MASK = toy.VOCAB.mask_id
# With idle steps.
CONFIG = dataclasses.replace(runs.SAMPLED, num_steps=9)
POINTS = jnp.arange(1, CONFIG.num_steps + 1, dtype=jnp.int32)


def _inputs():
  return toy.params(), toy.conditions(runs.SIZE), toy.partial_answers(runs.SIZE)


@functools.cache
def _stepped():
  """Step the sampler: {clock: canvas before it}, {clock: state after it}."""
  model, (params, condition, answer) = toy.model(), _inputs()
  step_once = jax.jit(
    sampler.step_once, static_argnums=(0, 1), compiler_options=runs.FAST
  )
  state, before, after = sampler.start(CONFIG, model, answer), {}, {}
  schedule = sampler.schedule_of(CONFIG, toy.LAYOUT)
  for row, clock in enumerate(schedule.step.tolist()):
    step = jax.tree.map(
      lambda x: x[0], schedule_lib.rows(schedule, slice(row, row + 1))
    )
    before[clock] = np.asarray(state.tokens)
    state = step_once(
      CONFIG, model, params, condition, state, step, key=runs.key()
    )
    after[clock] = state
  return before, after


@functools.cache
def _rollout():
  return rl_toy.rollout(
    CONFIG, toy.model(), *_inputs(), points=POINTS, key=runs.key()
  )


def test_rollout_is_the_run_of_the_sampler():
  runs.assert_equal(_rollout().trajectory, runs.run(CONFIG), atol=1e-6)


def test_state_before_each_step_is_rebuilt_from_tokens_and_commit_steps():
  before, _ = _stepped()
  steps = jnp.asarray(list(before))
  assert len(before) < CONFIG.num_steps  # some are idle
  got = rollout_lib.committed_at(_rollout().trajectory, steps, mask_id=MASK)
  np.testing.assert_array_equal(got, np.stack(list(before.values()), axis=1))
  assert len({canvas.tobytes() for canvas in before.values()}) == len(before)


def test_predicted_canvases_are_those_after_each_point():
  _, after = _stepped()
  got = np.asarray(_rollout().predicted)
  assert got.shape == (runs.SIZE, CONFIG.num_steps, toy.LAYOUT.answer_len)
  expected = None
  for point in POINTS.tolist():
    # Behind an idle step stands what was predicted before it.
    expected = after[point - 1].predicted if point - 1 in after else expected
    np.testing.assert_array_equal(got[:, point - 1], expected)
  np.testing.assert_array_equal(got[:, -1], _rollout().trajectory.tokens)


def _trajectory(text, text_step, *, num_steps=4):
  """Make a run of one row with this text; the picture was given."""
  layout = toy.LAYOUT
  tokens = np.array(toy.answers(1))
  step = np.full(tokens.shape, -1)
  tokens[:, layout.text_index], step[:, layout.text_index] = text, text_step
  return trajectory_lib.Trajectory(
    tokens=jnp.asarray(tokens, jnp.int32),
    commit_step=jnp.asarray(step, jnp.int32),
    commit_logp=jnp.zeros(tokens.shape, jnp.float32),
    num_steps=num_steps,
  )


EOS, END, WORD = toy.VOCAB.eos_id, 5, 9


@pytest.mark.parametrize(
  ("text", "step", "expected"),
  [
    # Every word was drawn, also the end itself.
    ([WORD, WORD, WORD, WORD, EOS], [0, 3, 1, 2, 2], [1, 1, 1, 1, 1]),
    # What stood behind a committed end was not.
    ([WORD, EOS, EOS, EOS, EOS], [0, 1, 2, 3, 2], [1, 1, 0, 0, 0]),
    # In the same step or before the end it was drawn.
    ([WORD, EOS, EOS, WORD, EOS], [0, 2, 2, 1, 3], [1, 1, 1, 1, 0]),
    # The earliest end counts, not the first in the text.
    ([EOS, EOS, WORD, WORD, EOS], [3, 0, 1, 0, 2], [1, 1, 0, 1, 0]),
    # A given end, other given words, and what was never committed.
    ([WORD, EOS, EOS, EOS, EOS], [-1, -1, 0, 1, 2], [0, 0, 0, 0, 0]),
    ([WORD, WORD, MASK, WORD, EOS], [-1, 0, 4, 1, 2], [0, 1, 0, 1, 1]),
    # Another id that ends a text.
    ([END, WORD, EOS, WORD, EOS], [1, 0, 2, 1, 3], [1, 1, 0, 1, 0]),
  ],
)
def test_chosen_are_the_tokens_that_the_policy_drew(text, step, expected):
  vocab = dataclasses.replace(toy.VOCAB, edit_id=None, turn_end_id=END)
  model = dataclasses.replace(toy.model(), vocab=vocab)
  got = np.asarray(rollout_lib.chosen(model, _trajectory(text, step)))
  np.testing.assert_array_equal(
    got[0, toy.LAYOUT.text_index], np.array(expected, bool)
  )
  assert not got[0, toy.LAYOUT.image_index].any()  # given


def test_tokens_that_were_not_chosen_have_no_log_probability():
  run = _rollout().trajectory
  chosen = np.asarray(rollout_lib.chosen(toy.model(), run))
  was_masked = np.asarray(_inputs()[2] == MASK)
  logp = np.asarray(run.commit_logp)
  assert (logp[chosen] < 0.0).all() and (logp[~chosen] == 0.0).all()
  assert not (chosen & ~was_masked).any()
  forced = was_masked & ~chosen
  assert forced.any() and (np.asarray(run.tokens)[forced] == EOS).all()


def test_candidates_are_the_places_that_a_step_proposed_for():
  before, _ = _stepped()
  image_steps = sampler.schedule_of(CONFIG, toy.LAYOUT)
  due = dict(
    zip(image_steps.step.tolist(), image_steps.image_step, strict=True)
  )
  canvas = np.concatenate(list(before.values()))
  start = np.repeat(list(before), runs.SIZE)
  got = rollout_lib.candidates_at(
    CONFIG, toy.model(), jnp.asarray(canvas), start=jnp.asarray(start)
  )
  expected = np.zeros(canvas.shape, bool)
  for row, step in enumerate(start.tolist()):
    for i in toy.LAYOUT.text_index:
      first = toy.LAYOUT.text_index[0]
      ended = EOS in canvas[row, first:i]
      expected[row, i] = canvas[row, i] == MASK and not ended
    for i in toy.LAYOUT.image_index:
      expected[row, i] = canvas[row, i] == MASK and due[step]
  np.testing.assert_array_equal(got, expected)
  assert expected.any() and not all(due.values())


def test_runs_without_log_probabilities_are_refused():
  for name in ("text", "image"):
    greedy = dataclasses.replace(CONFIG, **{f"{name}_temperature": 0.0})
    with pytest.raises(ValueError, match=f"{name}_temperature must be posit"):
      rollout_lib.check_sampler(greedy, toy.LAYOUT)
    with pytest.raises(ValueError, match=f"{name}_temperature must be posit"):
      rl_toy.rollout(
        greedy, toy.model(), *_inputs(), points=POINTS, key=runs.key()
      )
  quirky = dataclasses.replace(CONFIG, quirks=settings.Quirks(open_end=True))
  with pytest.raises(ValueError, match="without quirks .*open_end=True"):
    rollout_lib.check_sampler(quirky, toy.LAYOUT)
  # What the answer lacks may be greedy.
  no_text = dataclasses.replace(toy.LAYOUT, text_len=0, answer=("image",))
  greedy = dataclasses.replace(CONFIG, text_temperature=0.0)
  rollout_lib.check_sampler(greedy, no_text)


def test_parts_of_a_batch_are_rollouts_of_every_other_row():
  config, model, key = rl_toy.SAMPLER, rl_toy.model(), runs.key()
  params, condition = rl_toy.draw_params(), rl_toy.conditions(4)
  points = jnp.asarray([1, config.num_steps])

  def in_parts(num_parts):
    return rollout_lib.in_parts(
      config,
      model,
      params,
      condition,
      points=points,
      num_parts=num_parts,
      key=key,
    )

  got = jax.jit(lambda: in_parts(2), compiler_options=runs.FAST)()
  for part, part_key in enumerate(jax.random.split(key, 2)):
    expected = rl_toy.rollout(
      config,
      model,
      params,
      jax.tree.map(lambda x, i=part: x[i::2], condition),
      rl_toy.masked_answers(2),
      points=points,
      key=part_key,
    )
    mine = jax.tree.map(lambda x, i=part: x[i::2], got)
    runs.assert_equal(mine.trajectory, expected.trajectory, atol=1e-5)
    np.testing.assert_array_equal(mine.predicted, expected.predicted)
  with pytest.raises(ValueError, match="num_parts must divide .* 3 of 4"):
    in_parts(3)
