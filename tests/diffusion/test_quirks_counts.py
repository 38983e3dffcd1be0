"""Departures in how many tokens a step commits and what stays in the end.

Each test shows what the published samplers do (quirk on) and what ours does.
Numbers in brackets are rows of the table of defects that the settings cite.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import toy
import toy_published as published
import toy_runs as runs

from paradiff import layout as layout_lib
from paradiff.diffusion import noise as noise_lib
from paradiff.diffusion import sampler
from paradiff.diffusion import schedule
from paradiff.diffusion import settings

MASK = toy.VOCAB.mask_id
WIDE = layout_lib.Layout(
  grid=(4, 8), prompt_len=1, text_len=1, prefix=("bos", "prompt")
)
# Every step is a picture step.
STEADY = settings.SamplerConfig(
  num_steps=8, num_image_steps=8, image_start_rate=0.0
)
_advance = jax.jit(
  sampler.advance, static_argnums=(0, 1), compiler_options=runs.FAST
)


def _run(run, config, layout, answer, *, seed=0, table=None):
  """Run `run` (sample or canvas) on a table model."""
  if table is None:
    table = published.table(layout)
  condition = published.condition(layout, toy.VOCAB, [[]] * len(answer))
  return run(
    config,
    toy.table_model(layout),
    jnp.asarray(table),
    condition,
    answer,
    key=runs.key(seed),
  )


def _picture_left(config):
  """Paint 16 of 32 codes: how many are left masked after each step."""
  answer = published.masked_answers(
    WIDE, toy.VOCAB, 1, codes=np.arange(32) % 16
  )
  answer = answer.at[:, WIDE.image_index[8:24]].set(MASK)
  run = _run(runs.sample, config, WIDE, answer)
  steps = np.asarray(run.commit_step)[0, WIDE.image_index]
  return [int((steps > s).sum()) for s in range(config.num_steps)]


def test_painting_follows_the_schedule_from_its_first_step():
  # cos(pi r / 2) at r = 1/8 ... 1: 0.98 0.92 0.83 0.71 0.56 0.38 0.20 0.
  # Of 32: 31 29 26 22 17 12 6 0, so that most steps have to commit one and
  # only one; of the 16 that are masked: 15 14 13 11 8 6 3 0.
  as_published = published.with_quirks(STEADY, image_counts="all")
  assert _picture_left(as_published) == [15, 14, 13, 12, 11, 10, 6, 0]
  assert _picture_left(STEADY) == [15, 14, 13, 11, 8, 6, 3, 0]


def test_a_large_painting_waits_for_the_last_updates_as_published():
  # Row 8: 512 of 1024 masked, at the default 128 steps and 64 of the picture.
  left = {}
  for counts in schedule.IMAGE_COUNTS:
    table = schedule.image_table(num_steps=128, image_len=1024, counts=counts)
    due = schedule.image_steps(
      num_steps=128, num_image_steps=64, start_rate=0.25
    )
    masks, left[counts] = 512, []
    for step in due:
      masks = min(int(table[step, 512]), masks - 1)
      left[counts].append(masks)
  commits = {k: -np.diff(v, prepend=512) for k, v in left.items()}
  # 1024 cos(pi r / 2) falls below the 475 that are left behind the 37th.
  assert (commits["all"][:37] == 1).all()
  assert commits["all"][37:].min() >= 4
  assert commits["initial"][:37].min() >= 3
  r = (due + 1) / 128
  np.testing.assert_array_equal(
    left["initial"][:-1], np.floor(512 * np.cos(np.pi * r / 2))[:-1]
  )


def test_the_published_share_is_of_all_positions_whatever_is_masked():
  got = schedule.image_table(num_steps=8, image_len=32, counts="all")
  for total in (0, 1, 16, 32):
    for step in range(7):
      share = math.cos(math.pi * (step + 1) / 16)
      assert got[step, total] == math.floor(32 * share)
  ours = schedule.image_table(num_steps=8, image_len=32)
  assert (ours.max(axis=0) <= np.arange(33)).all()


def _text_commits(num_steps, text_len, counts):
  left = schedule.text_table(
    num_steps=num_steps,
    text_steps=num_steps,
    text_len=text_len,
    counts=counts,
  )
  return -np.diff(left, axis=0, prepend=np.arange(text_len + 1)[None])


def test_as_many_steps_as_words_commit_one_word_a_step():
  exact = _text_commits(100, 100, "exact")[:, 100]
  assert (exact == 1).all()
  rounded = _text_commits(100, 100, "float")[:, 100]
  assert set(rounded) == {0, 1, 2}
  assert rounded.sum() == 100
  first = _text_commits(100, 100, "first")[:, 100]
  assert (first == 1).all()


@pytest.mark.parametrize(("num_steps", "text_len"), [(7, 30), (128, 256)])
def test_published_text_counts_are_those_of_the_published_formulas(
  num_steps, text_len
):
  rounded = _text_commits(num_steps, text_len, "float")
  first = _text_commits(num_steps, text_len, "first")
  for masks in range(text_len + 1):
    left = masks
    for step in range(num_steps):
      target = int(masks * (1 - (step + 1) / num_steps))
      assert rounded[step, masks] == left - target
      left = target
      more = step < masks % num_steps
      assert first[step, masks] == masks // num_steps + more
  np.testing.assert_array_equal(first.sum(axis=0), np.arange(text_len + 1))


def test_the_remainder_is_spread_and_not_put_first():
  # 10 words in 4 steps.
  assert _text_commits(4, 10, "first")[:, 10].tolist() == [3, 3, 2, 2]
  assert _text_commits(4, 10, "exact")[:, 10].tolist() == [3, 2, 3, 2]


def test_the_last_step_updates_the_picture_even_if_it_is_the_only_one():
  one = {"num_steps": 8, "num_image_steps": 1, "start_rate": 0.25}
  assert schedule.image_steps(**one, open_end=True).tolist() == [2]
  assert schedule.image_steps(**one).tolist() == [7]
  # From two updates on both end with the last step.
  two = one | {"num_image_steps": 2}
  assert schedule.image_steps(**two, open_end=True).tolist() == [2, 7]
  assert schedule.image_steps(**two).tolist() == [2, 7]


def test_a_single_early_update_leaves_most_of_the_picture_to_chance():
  config = dataclasses.replace(STEADY, num_image_steps=1, image_start_rate=0.25)
  answer = published.masked_answers(WIDE, toy.VOCAB, 1)
  table = published.table(WIDE)
  columns = table[WIDE.prefix_len :][WIDE.image_index, 24:40]
  surest = columns.argmax(axis=1)

  def differing(**quirks):
    got = _run(
      published.canvas,
      published.with_quirks(config, **quirks),
      WIDE,
      answer,
      table=table,
    )
    codes = np.asarray(got)[0, WIDE.image_index] - 24
    assert ((codes >= 0) & (codes < 16)).all()
    return (codes != surest).sum()

  # floor(32 cos(3 pi / 16)) = 26 of 32 stay masked.
  assert 20 <= differing(open_end=True, leftover="random") <= 26
  assert differing() == 0


def test_steps_without_a_commit_are_left_out_and_change_nothing():
  config = dataclasses.replace(runs.SAMPLED, num_steps=17, num_image_steps=3)
  idle = published.with_quirks(config, idle_steps=True)
  plans = {
    c.quirks.idle_steps: sampler.schedule_of(c, toy.LAYOUT)
    for c in (config, idle)
  }
  assert plans[True].step.tolist() == list(range(17))
  # 5 words fall at 0, 3, 6, 10, 13; the picture is due at 3, 10, 16.
  assert plans[False].step.tolist() == [0, 3, 6, 10, 13, 16]
  answer = published.masked_answers(toy.LAYOUT, toy.VOCAB, runs.SIZE)
  runs.assert_equal(
    runs.run(config, answer=answer), runs.run(idle, answer=answer), atol=1e-6
  )


@functools.cache
def _leftover(leftover):
  """Draw many pictures: last state, last answer, their table and settings."""
  size = 400
  layout = dataclasses.replace(WIDE, grid=(1, 4))
  config = dataclasses.replace(
    published.with_quirks(STEADY, leftover=leftover),
    num_steps=3,
    num_image_steps=3,
    image_temperature=1.0,
    image_noise=0.5,
  )
  answer = published.masked_answers(layout, toy.VOCAB, size)
  model, table = toy.table_model(layout), published.table(layout)
  condition = published.condition(layout, toy.VOCAB, [[]] * size)
  state = _advance(
    config,
    model,
    jnp.asarray(table),
    condition,
    sampler.start(config, model, answer),
    schedule.rows(sampler.schedule_of(config, layout), slice(None)),
    key=runs.key(),
  )
  got = _run(published.canvas, config, layout, answer, table=table)
  last = noise_lib.draw(
    config, model, size, jax.random.fold_in(runs.key(), config.num_steps - 1)
  )
  return (
    np.asarray(state.tokens)[:, layout.image_index],
    np.asarray(got)[:, layout.image_index] - 24,
    table[layout.prefix_len :][layout.image_index, 24:40],
    np.asarray(last.image),
  )


def test_nothing_is_left_masked_at_the_end():
  tokens, codes, _, _ = _leftover("none")
  assert (tokens != MASK).all()
  np.testing.assert_array_equal(tokens - 24, codes)


def test_as_published_one_code_stays_masked_and_becomes_a_uniform_one():
  # Row 6.
  tokens, codes, table, _ = _leftover("random")
  left = tokens == MASK
  assert (left.sum(axis=1) == 1).all()
  np.testing.assert_array_equal(tokens[~left] - 24, codes[~left])
  counts = np.bincount(codes[left], minlength=16)
  chi2 = ((counts - 25.0) ** 2 / 25.0).sum()
  assert abs(chi2 - 15) < 5 * 30**0.5
  # The model's own codes are nothing like uniform.
  places = np.nonzero(left)[1]
  expected = oracles.softmax(table)[places].sum(axis=0)
  assert ((counts - expected) ** 2 / expected).sum() > 1000


def test_as_published_the_picture_is_that_of_the_last_proposals():
  tokens, codes, table, uniform = _leftover("proposed")
  left = tokens == MASK
  assert (left.sum(axis=1) == 1).all()
  np.testing.assert_array_equal(tokens[~left] - 24, codes[~left])
  for row, place in np.argwhere(left):
    drawn = oracles.inverse_cdf(table[place], uniform[row, place])
    assert codes[row, place] == drawn


def _given_picture(config, **quirks):
  """Run with every code given: the codes before and after."""
  given = np.arange(32) % 16
  answer = published.masked_answers(WIDE, toy.VOCAB, 4, codes=given)
  got = _run(
    published.canvas, published.with_quirks(config, **quirks), WIDE, answer
  )
  return given, np.asarray(got)[:, WIDE.image_index] - 24


def test_a_picture_of_which_nothing_is_masked_stays_as_it_is():
  # Row 7.
  config = dataclasses.replace(STEADY, num_steps=3, num_image_steps=3)
  before, after = _given_picture(config)
  assert (after == before).all()
  before, after = _given_picture(config, leftover="random")
  assert (after == before).all()
  # As published the first code goes where no noise decides.
  before, after = _given_picture(config, leftover="random", remask_known=True)
  assert (after[:, 1:] == before[1:]).all()
  assert (after[:, 0] != before[0]).any()


def test_as_published_the_noise_decides_which_known_code_is_lost():
  config = dataclasses.replace(
    STEADY, num_steps=3, num_image_steps=3, image_noise=2.0
  )
  quirks = {"leftover": "random", "remask_known": True}
  before, after = _given_picture(config, **quirks)
  first = noise_lib.draw(
    published.with_quirks(config, **quirks),
    toy.table_model(WIDE),
    4,
    jax.random.fold_in(runs.key(), 0),
  )
  lost = np.asarray(first.image_confidence).argmin(axis=1)
  assert len(set(lost.tolist())) > 1
  for row in range(4):
    kept = np.arange(32) != lost[row]
    assert (after[row, kept] == before[kept]).all()


def test_as_published_a_lost_code_is_proposed_anew():
  # The two quirks of M together: the picture holds codes and no mask.
  config = dataclasses.replace(STEADY, num_steps=3, num_image_steps=3)
  quirks = {"leftover": "proposed", "remask_known": True}
  before, after = _given_picture(config, **quirks)
  assert (after[:, 1:] == before[1:]).all()
  table = published.table(WIDE)
  place = WIDE.prefix_len + WIDE.image_index[0]
  assert (after[:, 0] == table[place, 24:40].argmax()).all()
