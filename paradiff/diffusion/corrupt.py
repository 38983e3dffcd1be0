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

Training for sequential decoding noises one modality at a time: the text beside
a picture that is not there yet, the picture beside the whole text. Training to
draw without thinking noises the picture beside a text that is not there.

Source: arXiv 2511.09611 eq. 2 and table 3 (sequential training); arXiv
2107.00630 appendix I (stratified times).
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from paradiff import layout as layout_lib
from paradiff import masked
from paradiff.diffusion import schedule


@dataclasses.dataclass(frozen=True)
class RowRates:
  """Shares of the rows that do not noise both modalities; disjoint.

  Attributes:
    clean_text: keep their whole text and lose picture tokens only.
    clean_image: keep their whole picture and lose text only.
    absent_image: hide the whole picture and are not asked for it; their text
      is noised.
    absent_text: likewise for the text.

  Raises:
    ValueError: if a rate is negative, or a modality would never be noised.
  """

  clean_text: float = 0.0
  clean_image: float = 0.0
  absent_image: float = 0.0
  absent_text: float = 0.0

  def __post_init__(self) -> None:
    rates = dataclasses.astuple(self)
    if (
      min(rates) < 0.0
      or sum(rates) > 1.0
      or min(self.noised_text, self.noised_image) <= 0.0
    ):
      raise ValueError(
        "rates must be at least 0, add up to at most 1 and leave rows that "
        f"noise either modality, got {self}"
      )

  @property
  def noised_text(self) -> float:
    """Share of rows that are asked for text."""
    return 1.0 - self.clean_text - self.absent_text

  @property
  def noised_image(self) -> float:
    """Share of rows that are asked for picture tokens."""
    return 1.0 - self.clean_image - self.absent_image


PARALLEL = RowRates()
SEQUENTIAL = RowRates(clean_text=0.5, absent_image=0.5)


@flax.struct.dataclass
class Corrupted:
  """A corrupted batch.

  Attributes:
    answer: int32[B, A], with `mask_id` at the hidden positions.
    text_mask: bool[B, T], text positions to predict; none where the
      whole text is hidden as absent.
    image_mask: bool[B, N], picture positions to predict; none where the whole
      picture is hidden as absent.
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
  rows: RowRates = PARALLEL,
) -> Corrupted:
  """Hide part of each answer.

  Args:
    layout: the sizes.
    answer: int32[B, A], clean.
    mask_id: the mask token.
    key: typed PRNG key.
    rows: shares of rows that noise one modality only.
  """
  batch_size = answer.shape[0]
  key_time, key_row, key_text, key_image, key_clean = jax.random.split(key, 5)
  jitter = 1.0 - jax.random.uniform(key_time, (batch_size,))  # (0, 1]
  # Shuffled, so that no place in the batch always gets the late times.
  stratum = jax.random.permutation(key_row, batch_size)
  time = (stratum + jitter) / batch_size
  # Which of the kinds a row is: in the order of the fields, then noised.
  rates = jnp.asarray(dataclasses.astuple(rows))
  draw = jax.random.uniform(key_clean, (batch_size,))
  kind = jnp.searchsorted(jnp.cumsum(rates), draw, side="right")
  kinds = {f.name: kind == i for i, f in enumerate(dataclasses.fields(rows))}
  masks = {}
  noisy = answer
  for name, key_hide, prob, index in (
    ("text", key_text, text_mask_prob(time), layout.text_index),
    ("image", key_image, image_mask_prob(time), layout.image_index),
  ):
    length = len(index)
    count = jnp.clip(jnp.ceil(prob * length), 1, length)
    is_absent = kinds[f"absent_{name}"]
    count = jnp.where(kinds[f"clean_{name}"] | is_absent, 0, count)
    masks[name] = _hide(key_hide, count.astype(jnp.int32), length)
    is_hidden = masks[name] | is_absent[:, None]
    hidden = jnp.where(is_hidden, mask_id, answer[:, index])
    noisy = noisy.at[:, index].set(hidden)
  return Corrupted(
    answer=noisy, text_mask=masks["text"], image_mask=masks["image"], time=time
  )
