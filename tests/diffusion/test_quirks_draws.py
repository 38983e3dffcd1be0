"""Departures in which tokens may be drawn and from which random numbers.

Each test shows what the published samplers do (quirk on) and what ours does.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import oracles
import toy
import toy_published as published
import toy_runs as runs

from paradiff import layout as layout_lib
from paradiff.diffusion import denoise
from paradiff.diffusion import noise as noise_lib
from paradiff.diffusion import sampler
from paradiff.diffusion import schedule
from paradiff.diffusion import settings

MASK, EOS = toy.VOCAB.mask_id, toy.VOCAB.eos_id
# One word and one code: 8 columns, so that many rows cost little.
NARROW = layout_lib.Layout(
  grid=(1, 1), prompt_len=1, text_len=1, prefix=("bos", "prompt")
)
WORDS = layout_lib.Layout(
  grid=(1, 1), prompt_len=1, text_len=5, prefix=("bos", "prompt")
)
SIZE = 4000
ONE_STEP = settings.SamplerConfig(
  num_steps=1, num_image_steps=1, image_start_rate=0.0
)


def _canvas(config, layout, table, batch_size=1):
  """Return the answers int[B, A] of a table model."""
  answer = published.masked_answers(layout, toy.VOCAB, batch_size)
  return np.asarray(
    published.canvas(
      config,
      toy.table_model(layout),
      jnp.asarray(table),
      published.condition(layout, toy.VOCAB, [[]] * batch_size),
      answer,
      key=runs.key(),
    )
  )


def _words(config, table):
  return _canvas(config, WORDS, table)[0, WORDS.text_index].tolist()


def _wanting(*tokens):
  """Return a table whose n-th word is surest of tokens[n], the later surer."""
  table = np.zeros(
    (WORDS.prefix_len + WORDS.answer_len, toy.VOCAB.size), np.float32
  )
  for place, token in enumerate(tokens):
    row = WORDS.prefix_len + WORDS.text_index[place]
    table[row, token] = 9.0 + place
    table[row, 11] = 5.0
  return table


def test_text_holds_words_and_its_end_alone():
  # Row 12: an unused row, a code, a mark and the mask token want to be text.
  table = _wanting(MASK, 22, 30, toy.VOCAB.soi_id, 12)
  steady = dataclasses.replace(ONE_STEP, num_steps=5)
  assert _words(steady, table) == [11, 11, 11, 11, 12]
  as_published = published.with_quirks(steady, any_text_id=True)
  assert _words(as_published, table) == [MASK, 22, 30, toy.VOCAB.soi_id, 12]


def test_as_published_a_place_that_wants_the_mask_uses_steps_up():
  # Five steps of one word each; the surest place commits the mask each time.
  table = _wanting(12, 12, 12, 12, MASK)
  steady = dataclasses.replace(ONE_STEP, num_steps=5)
  as_published = published.with_quirks(steady, any_text_id=True)
  assert _words(as_published, table) == [MASK] * 5
  assert _words(steady, table) == [12, 12, 12, 12, 11]


def test_only_ends_follow_an_end():
  # Row 13: the third word ends the text and is the surest.
  table = _wanting(12, 12, EOS, 12, 12)
  table[WORDS.prefix_len + WORDS.text_index[2], EOS] = 20.0
  steady = dataclasses.replace(ONE_STEP, num_steps=5)
  assert _words(steady, table) == [12, 12, EOS, EOS, EOS]
  as_published = published.with_quirks(steady, text_behind_end=True)
  assert _words(as_published, table) == [12, 12, EOS, 12, 12]


def _chi2(counts, probs):
  """Return how far counts are from probs, in standard deviations of chi^2."""
  expected = np.asarray(probs) * counts.sum()
  kept = expected > 0
  assert counts[~kept].sum() == 0
  chi2 = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
  free = kept.sum() - 1
  return abs(chi2 - free) / (2 * free) ** 0.5


@functools.cache
def _draws(temperature, **quirks):
  """Return how often each word and each code was drawn, and their logits."""
  config = dataclasses.replace(
    published.with_quirks(ONE_STEP, **quirks),
    text_temperature=temperature,
    image_temperature=temperature,
  )
  table = published.table(NARROW, scale=1.5)
  got = _canvas(config, NARROW, table, SIZE)
  word, code = NARROW.text_index[0], NARROW.image_index[0]
  words = table[NARROW.prefix_len + word, :22].copy()
  words[list(toy.VOCAB.suppressed_text_ids)] = -1e9
  return (
    np.bincount(got[:, word], minlength=22),
    np.bincount(got[:, code] - 24, minlength=16),
    words,
    table[NARROW.prefix_len + code, 24:40],
  )


def test_the_temperature_of_the_picture_scales_its_logits():
  # Row 14.
  _, codes, _, logits = _draws(2.0)
  assert _chi2(codes, oracles.softmax(logits / 2.0)) < 5
  assert _chi2(codes, oracles.softmax(logits)) > 50
  _, codes, _, _ = _draws(2.0, unscaled_image_temperature=True)
  assert _chi2(codes, oracles.softmax(logits)) < 5
  assert _chi2(codes, oracles.softmax(logits / 2.0)) > 50


def test_as_published_a_temperature_of_zero_still_is_greedy():
  counts = _draws(0.0, unscaled_image_temperature=True)[1]
  assert counts.max() == SIZE


def test_gumbel_numbers_draw_from_the_same_distribution():
  words, codes, word_logits, code_logits = _draws(0.7)
  gumbel = _draws(0.7, gumbel_draws=True)
  for counts, other, logits in (
    (words, gumbel[0], word_logits),
    (codes, gumbel[1], code_logits),
  ):
    probs = oracles.softmax(logits / 0.7)
    assert _chi2(counts, probs) < 5
    assert _chi2(other, probs) < 5
    assert (counts != other).any()


def _noise(batch_size, layout=WORDS, **quirks):
  """Draw the random numbers of a step."""
  draw = jax.jit(noise_lib.draw, static_argnums=(0, 1, 2))
  return draw(
    published.with_quirks(ONE_STEP, **quirks),
    toy.table_model(layout),
    batch_size,
    runs.key(),
  )


def test_gumbel_numbers_come_one_a_column():
  noise = _noise(3)
  assert (noise.text.shape, noise.image.shape) == ((3, 5), (3, 1))
  noise = _noise(3, gumbel_draws=True)
  assert (noise.text.shape, noise.image.shape) == ((3, 5, 22), (3, 1, 16))
  # Row 12: as published also for what no text can be.
  noise = _noise(3, gumbel_draws=True, any_text_id=True)
  assert noise.text.shape == (3, 5, 44)


def _moments(x):
  """Return mean, variance and skewness."""
  x = np.asarray(x, np.float64).ravel()
  z = (x - x.mean()) / x.std()
  return x.mean(), x.var(), (z**3).mean()


def test_the_noise_on_confidence_is_gumbel_and_as_published_normal():
  # Row 14. Of a Gumbel number: 0.5772, pi^2 / 6, 1.1395.
  gumbel = (0.5772, np.pi**2 / 6, 1.1395)
  ours = _noise(40_000)
  theirs = _noise(40_000, normal_image_noise=True)
  np.testing.assert_allclose(_moments(ours.image_confidence), gumbel, atol=0.1)
  np.testing.assert_allclose(
    _moments(theirs.image_confidence), (0, 1, 0), atol=0.05
  )
  # The text's stays as it is.
  np.testing.assert_array_equal(ours.text_confidence, theirs.text_confidence)
  np.testing.assert_allclose(_moments(ours.text_confidence), gumbel, atol=0.05)


def _bfloat16_gumbel(uniform):
  """Compute -log(-log(u)) with every step rounded to bfloat16."""
  tiny, u = ml_dtypes.bfloat16(1e-10), uniform.astype(ml_dtypes.bfloat16)
  rate = -np.log(u + tiny) + tiny
  assert rate.dtype == ml_dtypes.bfloat16
  return -np.log(rate).astype(np.float32)


def test_noise_has_the_far_tail_that_as_published_is_missing():
  # Row 11.
  key, shape = runs.key(), (1_000_000,)
  draw = jax.jit(noise_lib.coarse_gumbel, static_argnames=("shape", "dtype"))
  fine = np.asarray(draw(key, shape=shape, dtype=jnp.float32))
  coarse = np.asarray(draw(key, shape=shape, dtype=jnp.bfloat16))
  # A share 1 - exp(-exp(-5.54)) = 0.4% of Gumbel numbers lies above 5.54.
  assert 0.003 < (fine > 5.54).mean() < 0.005
  assert fine.max() > 11 and len(np.unique(fine)) > 500_000
  assert coarse.max() == 5.53125
  # All that bfloat16 can give: every number in [0, 1) goes through.
  bits = np.arange(0x3F80, dtype=np.uint16).view(ml_dtypes.bfloat16)
  possible = np.unique(_bfloat16_gumbel(bits))
  found = np.unique(coarse)
  assert np.isin(found, possible).all()
  assert 500 < len(found) < 540
  # Rounding moves no number far, but for those next to 1 that become 0.
  near = fine < 4.0
  assert np.abs(fine - coarse)[near].max() < 0.2


def test_coarse_noise_is_the_text_s_alone():
  coarse = _noise(400, gumbel_draws=True, bfloat16_noise=True)
  fine = _noise(400, gumbel_draws=True)
  assert len(np.unique(coarse.text)) < 540 < len(np.unique(fine.text))
  np.testing.assert_array_equal(coarse.image, fine.image)


def _orders(floor, layout, table):
  """Return the order in which codes are committed, by a run and by numpy."""
  config = dataclasses.replace(
    published.with_quirks(ONE_STEP, confidence_floor=floor),
    num_steps=layout.image_len,
    num_image_steps=layout.image_len,
    image_schedule="linear",
    image_noise=1.0,
  )
  model = toy.table_model(layout)
  run = runs.sample(
    config,
    model,
    jnp.asarray(table),
    published.condition(layout, toy.VOCAB, [[]]),
    published.masked_answers(layout, toy.VOCAB, 1),
    key=runs.key(),
  )
  got = np.argsort(np.asarray(run.commit_step)[0, layout.image_index])
  columns = table[layout.prefix_len :][layout.image_index, 24:40]
  probs = oracles.softmax(columns).max(axis=1)
  expected = []
  for step in range(layout.image_len):
    key = jax.random.fold_in(runs.key(), step)
    drawn = np.asarray(noise_lib.draw(config, model, 1, key).image_confidence)
    fade = 1.0 - (step + 1) / layout.image_len
    order = np.log(probs + floor) + fade * drawn[0]
    order[expected] = -np.inf
    expected.append(int(order.argmax()))
  return got.tolist(), expected


def test_confidence_is_the_log_of_a_probability_and_of_nothing_more():
  layout = dataclasses.replace(WORDS, grid=(1, 12))
  table = published.table(layout)
  ours, expected = _orders(0.0, layout, table)
  assert ours == expected
  # 1e-10 is published; a larger number shows it.
  floored, expected = _orders(1.0, layout, table)
  assert floored == expected
  assert floored != ours


def test_the_noise_on_the_picture_falls_and_as_published_by_dimoo_stays():
  layout = dataclasses.replace(NARROW, grid=(1, 8))
  table = np.zeros((layout.prefix_len + layout.answer_len, toy.VOCAB.size))
  start = layout.prefix_len + layout.image_index[0]
  table[start : start + 8, toy.VOCAB.code_offset] = 5.0
  config = dataclasses.replace(
    ONE_STEP, num_steps=100, num_image_steps=1, image_noise=3.0
  )
  order = {}
  for constant in (False, True):
    noisy = published.with_quirks(config, constant_image_noise=constant)
    model = toy.table_model(layout)
    noise = noise_lib.draw(noisy, model, 1, jax.random.key(0))
    step = schedule.rows(sampler.schedule_of(noisy, layout), slice(-1, None))
    step = jax.tree.map(lambda a: a[0], step)
    logits = jnp.asarray(table[start : start + 8, 24:40], jnp.float32)[None]
    got = denoise._confidence(
      noisy,
      "image",
      logits,
      jnp.zeros((1, 8), jnp.int32),
      step=step,
      noise=noise.image_confidence,
    )
    order[constant] = np.asarray(got)
  # The last step: nothing of the noise is left, or all of it.
  assert np.ptp(order[False]) < 1e-5
  np.testing.assert_allclose(
    order[True] - order[False], 3.0 * noise.image_confidence, atol=1e-5
  )
