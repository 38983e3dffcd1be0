"""Laws of a run: what changes, when, and what an answer may hold."""

import dataclasses
import functools
import math

import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import toy
import toy_runs as runs

from paradiff.diffusion import sampler

LAW_CONFIGS = [
  runs.SAMPLED,
  dataclasses.replace(runs.SAMPLED, num_steps=3, num_image_steps=1),
  dataclasses.replace(runs.SAMPLED, num_steps=17, num_image_steps=9),
]


@functools.cache
def _law_runs():
  """Return (config, answer, run) triples over answers given to any degree."""
  triples = []
  for config in LAW_CONFIGS:
    for seed in range(3):
      answer = toy.partial_answers(runs.SIZE, seed=seed)
      triples.append(
        (config, answer, runs.run(config, answer=answer, seed=seed))
      )
  return triples


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
    runs.BASE, text_temperature=temperature, image_temperature=temperature
  )
  run = runs.sample(
    config,
    toy.table_model(),
    jnp.asarray(table),
    toy.conditions(runs.SIZE),
    jnp.tile(toy.partial_answers(1), (runs.SIZE, 1)),
    key=runs.key(),
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
  run = runs.sample(
    dataclasses.replace(runs.BASE, num_steps=5, num_image_steps=1),
    toy.table_model(),
    jnp.asarray(table),
    toy.conditions(1),
    toy.partial_answers(1),
    key=runs.key(),
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
  answer = toy.partial_answers(runs.SIZE).at[0, end].set(toy.VOCAB.eos_id)
  run = runs.run(runs.SAMPLED, answer=answer)
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
