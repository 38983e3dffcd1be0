"""Runs over the sequences of every published family, on a toy network."""

import dataclasses

import numpy as np
import pytest
import toy
import toy_published as published
import toy_runs as runs

from paradiff.diffusion import guidance

GUIDED = dataclasses.replace(
  runs.SAMPLED,
  text_guidance=guidance.Guidance(both=0.7),
  image_guidance=guidance.Guidance(text=1.5, image=2.0),
)


def _run(run, config, layout, vocab, prompts):
  """Run `run` (sample or canvas) on prompts, one list of ids a row."""
  codes = published.drawn_codes(layout, vocab) or None
  return run(
    config,
    toy.model(toy.CONFIG, layout, vocab),
    toy.params(),
    published.condition(layout, vocab, prompts, codes),
    published.masked_answers(layout, vocab, len(prompts)),
    key=runs.key(),
  )


@pytest.mark.parametrize("name", published.FAMILIES)
def test_a_run_leaves_nothing_masked_and_the_frame_alone(name):
  layout, vocab = published.FAMILIES[name]
  run = _run(runs.sample, GUIDED, layout, vocab, [[11, 12], [13]])
  tokens, steps = np.asarray(run.tokens), np.asarray(run.commit_step)
  codes, words = tokens[:, layout.image_index], tokens[:, layout.text_index]
  assert ((codes >= 24) & (codes < 40)).all()
  assert (words < 22).all()
  assert not np.isin(words, vocab.suppressed_text_ids).any()
  frame = np.ones(layout.answer_len, bool)
  frame[layout.image_index] = frame[layout.text_index] = False
  given = np.asarray(published.masked_answers(layout, vocab, 2))
  np.testing.assert_array_equal(tokens[:, frame], given[:, frame])
  assert (steps[:, frame] == -1).all()
  assert (steps[:, ~frame] >= 0).all()
  assert (steps < GUIDED.num_steps).all()


@pytest.mark.parametrize("name", ["edit_a", "edit_m", "text_m"])
def test_padding_that_is_left_out_changes_no_sampled_token(name):
  layout, vocab = published.FAMILIES[name]
  found = []
  for prompt_len in (1 + layout.prompt_ends, 9):  # without padding, and with
    bucket = dataclasses.replace(layout, prompt_len=prompt_len)
    found.append(_run(runs.sample, GUIDED, bucket, vocab, [[14]] * 6))
  runs.assert_equal(*found)
  assert len(np.unique(found[0].tokens, axis=0)) > 1


def test_rows_of_one_bucket_may_have_prompts_of_any_length():
  prompts, found = [[11, 12, 13], [14], []], []
  for prompt_len in (3, 9):
    bucket = dataclasses.replace(published.EDIT_A, prompt_len=prompt_len)
    run = _run(runs.sample, GUIDED, bucket, published.VOCAB_A, prompts)
    found.append(run)
  runs.assert_equal(*found)


def test_attended_padding_changes_the_logits():
  found = []
  for prompt_len in (4, 9):
    bucket = dataclasses.replace(
      published.EDIT_M, prompt_len=prompt_len, padding="attended"
    )
    run = _run(runs.sample, runs.BASE, bucket, published.VOCAB_M, [[14]])
    found.append(run)
  assert np.abs(found[0].commit_logp - found[1].commit_logp).max() > 0.1


def test_a_null_prompt_longer_than_the_prompt_guides_a_run():
  layout = dataclasses.replace(
    published.EDIT_A, prompt_len=1, null_prompt=(10, 9, 10)
  )
  found = []
  for scale in (0.0, 2.0):
    config = dataclasses.replace(
      runs.SAMPLED, image_guidance=guidance.Guidance(text=scale)
    )
    run = _run(runs.sample, config, layout, published.VOCAB_A, [[11]] * 6)
    assert (run.tokens != published.VOCAB_A.mask_id).all()
    found.append(np.asarray(run.tokens))
  assert (found[0] != found[1]).any()


def test_a_vocabulary_without_codes_is_enough_for_text():
  vocab = dataclasses.replace(published.VOCAB_M, codebook_size=0)
  for run in (runs.sample, published.canvas):
    got = _run(run, runs.SAMPLED, published.TEXT_M, vocab, [[11]] * 2)
    assert (getattr(got, "tokens", got) != vocab.mask_id).all()
