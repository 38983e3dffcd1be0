import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from paradiff import layout as layout_lib
from paradiff.diffusion import corrupt
from paradiff.diffusion import schedule

MASK = toy.VOCAB.mask_id
# Sizes of the shipped models, times that fall on integers, odd sizes.
LAYOUTS = [
  toy.LAYOUT,
  layout_lib.Layout(grid=(4, 4), prompt_len=2, text_len=48),
  layout_lib.Layout(grid=(1, 1), prompt_len=1, text_len=1),
  layout_lib.Layout(grid=(8, 8), prompt_len=1, text_len=49),
]


def _many(layout, batch_size, num_keys, seed=0, **rates):
  """Corrupt one batch under many keys: each field leads with [keys, B]."""
  answer = toy.answers(batch_size, layout=layout)
  keys = jax.random.split(jax.random.key(seed), num_keys)
  run = jax.jit(
    jax.vmap(
      lambda key: corrupt.corrupt(
        layout, answer, mask_id=MASK, key=key, **rates
      )
    )
  )
  return answer, jax.tree.map(np.asarray, run(keys))


def test_mask_probabilities_hand_worked():
  time = jnp.array([1 / 3, 1.0])
  np.testing.assert_allclose(corrupt.text_mask_prob(time), time)
  np.testing.assert_allclose(corrupt.image_mask_prob(time), [0.5, 1.0])


def test_times_invert_the_mask_probabilities():
  time = np.linspace(0.0, 1.0, 33)
  for prob, inverse in (
    (corrupt.text_mask_prob, corrupt.text_time),
    (corrupt.image_mask_prob, corrupt.image_time),
  ):
    # Near t = 1 the picture's curve is flat: compare the probabilities.
    share = np.asarray(prob(jnp.asarray(time)))
    np.testing.assert_allclose(prob(inverse(share)), share, atol=1e-6)


def test_training_hides_what_the_sampler_leaves():
  left = np.linspace(0.0, 1.0, 9)
  np.testing.assert_allclose(
    corrupt.image_mask_prob(jnp.asarray(left)),
    schedule.mask_rate("cosine", left),
    atol=1e-6,
  )


@pytest.mark.parametrize("batch_size", [1, 2, 7, 16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_corrupt_hides_exactly_the_share_of_the_time_within_capacity(
  layout, batch_size
):
  answer, got = _many(layout, batch_size, 200)
  text_len, image_len = layout.text_len, layout.image_len
  time = got.time.astype(np.float64)
  assert (time > 0.0).all() and (time <= 1.0).all()
  for mask, share, length in (
    (got.text_mask, time, text_len),
    (got.image_mask, np.sin(np.pi / 2 * time), image_len),
  ):
    count = mask.sum(axis=-1)
    np.testing.assert_array_equal(count, np.ceil(share * length - 1e-5))
    assert count.min() >= 1
  for mask, index in (
    (got.text_mask, layout.text_index),
    (got.image_mask, layout.image_index),
  ):
    np.testing.assert_array_equal(got.answer[..., index] == MASK, mask)
  hidden = got.answer == MASK
  np.testing.assert_array_equal(
    got.answer[~hidden], np.broadcast_to(answer, hidden.shape)[~hidden]
  )
  text, image = corrupt.capacity(layout, batch_size=batch_size)
  most = (got.text_mask.sum((1, 2)).max(), got.image_mask.sum((1, 2)).max())
  assert most[0] <= text <= batch_size * text_len
  assert most[1] <= image <= batch_size * image_len


def test_clean_rows_keep_one_modality_and_lose_the_other_as_ever():
  rows = corrupt.RowRates(clean_text=0.3, clean_image=0.2)
  _, got = _many(toy.LAYOUT, 8, 2000, rows=rows)
  text, image = (m.sum(axis=-1) for m in (got.text_mask, got.image_mask))
  assert not ((text == 0) & (image == 0)).any()
  # 16,000 rows: a deviation is 0.004.
  assert abs((text == 0).mean() - 0.3) < 0.02
  assert abs((image == 0).mean() - 0.2) < 0.02
  time = got.time.astype(np.float64)
  for count, share, length in (
    (text, time, toy.LAYOUT.text_len),
    (image, np.sin(np.pi / 2 * time), toy.LAYOUT.image_len),
  ):
    noised = count > 0
    np.testing.assert_array_equal(
      count[noised], np.ceil(share * length - 1e-5)[noised]
    )
  # Which rows stay clean has nothing to do with their times.
  assert abs(time[text == 0].mean() - 0.5) < 0.02


def test_sequential_rows_noise_one_modality_and_see_no_later_one():
  answer, got = _many(toy.LAYOUT, 8, 500, rows=corrupt.SEQUENTIAL)
  text, image = got.text_mask.any(axis=-1), got.image_mask.any(axis=-1)
  np.testing.assert_array_equal(text, ~image)
  assert abs(text.mean() - 0.5) < 0.03
  codes = got.answer[..., toy.LAYOUT.image_index]
  assert (codes[text] == MASK).all()  # the picture is not there yet
  words = got.answer[..., toy.LAYOUT.text_index]
  given = np.broadcast_to(answer[:, toy.LAYOUT.text_index], words.shape)
  np.testing.assert_array_equal(words[image], given[image])


def test_rows_without_a_text_noise_the_picture_beside_masks_alone():
  rows = corrupt.RowRates(clean_text=0.3, absent_image=0.3, absent_text=0.4)
  answer, got = _many(toy.LAYOUT, 8, 500, rows=rows)
  text, image = got.text_mask.any(axis=-1), got.image_mask.any(axis=-1)
  np.testing.assert_array_equal(text, ~image)
  words = got.answer[..., toy.LAYOUT.text_index]
  is_absent = (words == MASK).all(axis=-1) & ~text
  # 4,000 rows: a deviation is 0.008.
  assert abs(is_absent.mean() - 0.4) < 0.03
  assert abs(text.mean() - 0.3) < 0.03
  given = np.broadcast_to(answer[:, toy.LAYOUT.text_index], words.shape)
  has_words = image & ~is_absent
  np.testing.assert_array_equal(words[has_words], given[has_words])


@pytest.mark.parametrize(
  "rates",
  [
    {"clean_text": -0.1},
    {"clean_text": 1.0},
    {"clean_image": 1.0},
    {"clean_image": 0.5, "absent_image": 0.5},
    {"clean_text": 0.5, "absent_text": 0.5},
    {"clean_text": 0.6, "clean_image": 0.6},
  ],
  ids=str,
)
def test_bad_row_rates_are_refused(rates):
  with pytest.raises(ValueError, match="leave rows that noise either"):
    corrupt.RowRates(**rates)


def test_capacity_hand_worked():
  layout = layout_lib.Layout(grid=(1, 6), prompt_len=1, text_len=5)
  # Times up to 1/2 and 1: 3 + 5 words, ceil(4.24) + 6 codes.
  assert corrupt.capacity(layout, batch_size=2) == (8, 11)


@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_capacity_is_reached_but_for_a_row_or_so_a_stratum(layout):
  _, got = _many(layout, 3, 2000)
  text, image = corrupt.capacity(layout, batch_size=3)
  # Times near the upper end of all three strata at once are rare.
  assert got.text_mask.sum((1, 2)).max() >= text - max(3, 0.1 * text)
  assert got.image_mask.sum((1, 2)).max() >= image - max(3, 0.1 * image)
  bound = 3 * np.array([layout.text_len, layout.image_len])
  assert text < 0.8 * bound[0] and image < bound[1]


@pytest.mark.parametrize("num_rows", [1, 8, 24, 48, 64, 97, 768])
def test_capacity_bounds_the_largest_float32_times(num_rows):
  for layout in LAYOUTS:
    text, image = corrupt.capacity(layout, batch_size=num_rows)
    time = (jnp.arange(num_rows) + jnp.float32(1.0)) / num_rows
    for prob, length, bound in (
      (corrupt.text_mask_prob(time), layout.text_len, text),
      (corrupt.image_mask_prob(time), layout.image_len, image),
    ):
      count = np.clip(np.ceil(np.asarray(prob) * length), 1, length)
      assert count.sum() <= bound <= count.sum() + num_rows


def test_times_are_stratified_and_each_row_sees_all_of_them():
  _, got = _many(toy.LAYOUT, 4, 2000)
  strata = np.ceil(got.time * 4) - 1
  np.testing.assert_array_equal(
    np.sort(strata, axis=1), np.broadcast_to(np.arange(4), (2000, 4))
  )
  for row in range(4):
    # Uniform on (0, 1]: deviation of the mean of 2,000 is 0.0065.
    assert abs(got.time[:, row].mean() - 0.5) < 0.033
    assert got.time[:, row].min() < 0.01 and got.time[:, row].max() > 0.99


def test_hidden_positions_are_uniform_and_differ_between_modalities():
  _, got = _many(layout_lib.Layout((1, 5), 1, 5), 2, 3000)
  for mask in (got.text_mask, got.image_mask):
    share = mask.mean(axis=0)
    assert np.ptp(share) < 0.06  # deviation of each is 0.009
  both = got.text_mask & got.image_mask
  assert (both != got.text_mask).any()


@functools.cache
def _jitted():
  return jax.jit(corrupt.corrupt, static_argnums=0, static_argnames="mask_id")


def test_jit_equals_no_jit_and_keys_matter():
  answer, key = toy.answers(4), jax.random.key(3)
  run = functools.partial(corrupt.corrupt, toy.LAYOUT, answer, mask_id=MASK)
  jitted = _jitted()(toy.LAYOUT, answer, mask_id=MASK, key=key)
  for got, expected in zip(
    jax.tree.leaves(run(key=key)), jax.tree.leaves(jitted), strict=True
  ):
    np.testing.assert_array_equal(got, expected)
  assert (run(key=jax.random.key(4)).answer != jitted.answer).any()
