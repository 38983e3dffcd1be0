"""Corruption for training: one mask time shared by text and picture.

A row at time t in (0, 1] hides ceil(t T) of its text tokens and
ceil(sin(pi t / 2) N) of its picture tokens, positions uniform without
replacement: the canvases of the sampler's own schedule. The times of a batch
are stratified, one in each of B equal strata, which lowers the variance of
the loss and bounds the number of masked tokens, so that the head runs on a
static number of rows; which row gets which stratum is random.

A share of the rows can keep one modality clean. Where both are noised, few
objects have their whole mention in view ((1 - t)^4 for four words), so what
binds words to places shows seldom; beside a clean partner it always does.

Source: arXiv 2511.09611 eq. 2; arXiv 2107.00630 appendix I (stratified times).
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from paradiff import layout as layout_lib
from paradiff import masked
from paradiff.diffusion import schedule


@flax.struct.dataclass
class Corrupted:
  """A corrupted batch.

  Attributes:
    answer: int32[B, A], with `mask_id` at the hidden positions.
    text_mask: bool[B, T], hidden text positions.
    image_mask: bool[B, N], hidden picture positions.
    time: float32[B], in (0, 1].
  """

  answer: jax.Array
  text_mask: jax.Array
  image_mask: jax.Array
  time: jax.Array


def text_mask_prob(time: jax.Array) -> jax.Array:
  """Share of text hidden at `time`: linear."""
  return time


def image_mask_prob(time: jax.Array) -> jax.Array:
  """Share of the picture hidden at `time`: sin(pi t / 2)."""
  return jnp.sin(0.5 * jnp.pi * time)


def text_time(share: np.ndarray) -> np.ndarray:
  """Time at which `share` of the text is hidden; inverts `text_mask_prob`."""
  return np.asarray(share, np.float64)


def image_time(share: np.ndarray) -> np.ndarray:
  """Time at which `share` of the picture is hidden."""
  return np.arcsin(np.asarray(share, np.float64)) / (0.5 * np.pi)


def capacity(layout: layout_lib.Layout, *, batch_size: int) -> tuple[int, int]:
  """Return the most text and picture tokens that a batch can hide.

  The time in stratum b is at most (b + 1) / B, so the counts cannot exceed
  the sums of the counts at those times. For B = 2 and T = 5: 3 + 5 = 8
  instead of 10.
  """
  latest = (np.arange(batch_size) + 1) / batch_size
  # A hair of slack: float32 times may round up across an integer.
  text = np.ceil(latest * layout.text_len + 1e-3)
  rate = schedule.mask_rate("cosine", latest)
  image = np.ceil(rate * layout.image_len + 1e-3)
  return (
    int(np.minimum(text, layout.text_len).sum()),
    int(np.minimum(image, layout.image_len).sum()),
  )


def _hide(key: jax.Array, count: jax.Array, length: int) -> jax.Array:
  """Return bool[B, length] with exactly `count` int32[B] True a row."""
  score = jax.random.uniform(key, (count.shape[0], length))
  return masked.descending_rank(score) < count[:, None]


def corrupt(
  layout: layout_lib.Layout,
  answer: jax.Array,
  *,
  mask_id: int,
  key: jax.Array,
  clean_text_rate: float = 0.0,
  clean_image_rate: float = 0.0,
) -> Corrupted:
  """Hide part of each answer.

  Args:
    layout: the sizes.
    answer: int32[B, A], clean.
    mask_id: the mask token.
    key: typed PRNG key.
    clean_text_rate: share of rows whose text stays, in [0, 1].
    clean_image_rate: share of rows whose picture stays, in [0, 1]; none of
      them keeps its text too, so the two add up to at most 1.
  """
  batch_size = answer.shape[0]
  key_time, key_row, key_text, key_image, key_clean = jax.random.split(key, 5)
  jitter = 1.0 - jax.random.uniform(key_time, (batch_size,))  # (0, 1]
  # Shuffled, so that no place in the batch always gets the late times.
  stratum = jax.random.permutation(key_row, batch_size)
  time = (stratum + jitter) / batch_size
  draw = jax.random.uniform(key_clean, (batch_size,))
  is_text_clean = draw < clean_text_rate
  is_image_clean = ~is_text_clean & (draw < clean_text_rate + clean_image_rate)
  masks = []
  for key_hide, prob, is_clean, index in (
    (key_text, text_mask_prob(time), is_text_clean, layout.text_index),
    (key_image, image_mask_prob(time), is_image_clean, layout.image_index),
  ):
    length = len(index)
    count = jnp.clip(jnp.ceil(prob * length), 1, length)
    count = jnp.where(is_clean, 0, count)
    masks.append(_hide(key_hide, count.astype(jnp.int32), length))
  text_mask, image_mask = masks
  noisy = answer
  for mask, index in (
    (text_mask, layout.text_index),
    (image_mask, layout.image_index),
  ):
    hidden = jnp.where(mask, mask_id, answer[:, index])
    noisy = noisy.at[:, index].set(hidden)
  return Corrupted(
    answer=noisy, text_mask=text_mask, image_mask=image_mask, time=time
  )
