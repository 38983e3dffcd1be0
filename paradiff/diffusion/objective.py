"""The supervised loss: cross-entropy on hidden tokens, text and picture.

  loss = text_coef / (B T) sum w_text(k) CE + image_coef / (B N) sum w_image CE

over the hidden positions only; no other row reaches the head. A row that
hides k of n tokens weighs as at t_k, the time with mask probability k / n:

  one           1
  inv_t         1 / t_k
  inv_maskprob  n / k
  elbo          1 / (k (t_k - t_(k-1))), the bound on -log p(answer) per token

The paper's choice is text `inv_t` and picture `one`. For text t_k = k / n, so
the last three agree there. Differs from upstream: weighing at the drawn time
t instead of t_k has no finite mean where at least one token is always hidden.

Source: arXiv 2511.09611 eq. 2 and table 9; arXiv 2406.07524 eq. 10 (elbo).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paradiff import masked
from paradiff import sequence as sequence_lib
from paradiff.diffusion import chunks
from paradiff.diffusion import corrupt
from paradiff.diffusion import model as model_lib

WEIGHTS = ("one", "inv_t", "inv_maskprob", "elbo")


@dataclasses.dataclass(frozen=True)
class SftConfig:
  """Settings of the supervised loss.

  Attributes:
    text_weight: one of WEIGHTS.
    image_weight: one of WEIGHTS.
    text_coef: weight of the text's loss.
    image_coef: weight of the picture's loss.
    drop_text_rate: share of rows that lose their prompt.
    drop_image_rate: share of rows that lose their input picture.
    drop_both_rate: share of rows that lose both; the three are disjoint.
    rows: shares of rows that noise one modality only; the loss averages each
      modality over the rows that are asked for it.
    chunk_len: rows that pass the head at once; bounds memory at V = 134,656.
  """

  text_weight: str = "inv_t"
  image_weight: str = "one"
  text_coef: float = 1.0
  image_coef: float = 1.0
  drop_text_rate: float = 0.1
  drop_image_rate: float = 0.1
  drop_both_rate: float = 0.0
  rows: corrupt.RowRates = corrupt.PARALLEL
  chunk_len: int = 8192

  def __post_init__(self) -> None:
    for name in ("text_weight", "image_weight"):
      if getattr(self, name) not in WEIGHTS:
        raise ValueError(
          f"{name} must be one of {WEIGHTS}, got {getattr(self, name)!r}"
        )
    rates = (self.drop_text_rate, self.drop_image_rate, self.drop_both_rate)
    if min(rates) < 0.0 or sum(rates) > 1.0:
      raise ValueError(
        f"dropout rates must be at least 0 and add up to at most 1, got {rates}"
      )
    if self.chunk_len < 1:
      raise ValueError(f"chunk_len must be positive, got {self.chunk_len}")


def weight_table(
  name: str, *, length: int, time_at: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
  """Return float32[length]: the weight of a row that hides k = 1 ... length.

  Args:
    name: one of WEIGHTS.
    length: tokens of the modality, n.
    time_at: maps the hidden share in [0, 1] to the time.

  Raises:
    ValueError: if the name is unknown.
  """
  count = np.arange(1, length + 1)
  time = time_at(count / length)
  match name:
    case "one":
      table = np.ones(length)
    case "inv_t":
      table = 1.0 / time
    case "inv_maskprob":
      table = length / count
    case "elbo":
      # t_k - t_(k-1) is the probability that exactly k tokens are hidden.
      table = 1.0 / (count * np.diff(time, prepend=0.0))
    case _:
      raise ValueError(f"weight must be one of {WEIGHTS}, got {name!r}")
  return table.astype(np.float32)


def cross_entropy(
  model: model_lib.Model,
  params: Any,
  hidden: jax.Array,
  targets: jax.Array,
  *,
  columns: tuple[int, int],
  chunk_len: int,
) -> tuple[jax.Array, jax.Array]:
  """Score rows through the head in chunks, recomputed in the backward pass.

  Args:
    model: the network, its layout and ids.
    params: the network's parameters.
    hidden: float[R, D].
    targets: int32[R], token ids within `columns`.
    columns: half-open range of token ids.
    chunk_len: rows a chunk.

  Returns:
    Cross-entropy float32[R] in nats and whether the argmax is right, bool[R].
  """

  def score(parts: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    rows, column = parts
    logits = model.denoiser.head(params, rows, columns=columns)
    return -masked.token_logp(logits, column), logits.argmax(-1) == column

  return chunks.mapped(
    score, (hidden, targets - columns[0]), chunk_len=chunk_len
  )


def _modality_loss(
  config: SftConfig,
  model: model_lib.Model,
  params: Any,
  hidden: jax.Array,
  answer: jax.Array,
  *,
  mask: jax.Array,
  weights: np.ndarray,
  index: np.ndarray,
  columns: tuple[int, int],
  num_rows: int,
  noised_rate: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Return loss, token accuracy and token count of one modality."""
  size = mask.size
  rows = jnp.nonzero(mask.reshape(-1), size=num_rows, fill_value=size)[0]
  is_real = rows < size
  rows = jnp.minimum(rows, size - 1)
  targets = answer[:, index].reshape(-1)[rows]
  ce, right = cross_entropy(
    model,
    params,
    hidden[:, index].reshape(size, -1)[rows],
    jnp.where(is_real, targets, columns[0]),
    columns=columns,
    chunk_len=config.chunk_len,
  )
  # A row that hides nothing gets some weight, and has nothing to weigh.
  weight = jnp.asarray(weights)[mask.sum(axis=1) - 1]
  row_weights = jnp.repeat(weight, len(index))[rows]
  total = jnp.where(is_real, ce * row_weights, 0.0).sum()
  loss = total / (size * noised_rate)
  accuracy = masked.masked_mean(right.astype(jnp.float32), is_real)
  return loss, accuracy, is_real.sum()


def drop_conditions(
  config: SftConfig,
  model: model_lib.Model,
  condition: sequence_lib.Condition,
  *,
  key: jax.Array,
) -> sequence_lib.Condition:
  """Drop prompt, input picture or both on disjoint random shares of rows."""
  draw = jax.random.uniform(key, (condition.prefix.shape[0],))
  first = config.drop_text_rate
  second = first + config.drop_image_rate
  both = (draw >= second) & (draw < second + config.drop_both_rate)
  return sequence_lib.drop_rows(
    model.layout,
    model.vocab,
    condition,
    text=(draw < first) | both,
    image=((draw >= first) & (draw < second)) | both,
  )


def sft_loss(
  config: SftConfig,
  model: model_lib.Model,
  params: Any,
  condition: sequence_lib.Condition,
  answer: jax.Array,
  *,
  key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Corrupt a batch and score what was hidden.

  Args:
    config: the settings.
    model: the network, its layout and ids.
    params: the network's parameters.
    condition: prefix int32[B, P].
    answer: int32[B, A], clean.
    key: typed PRNG key.

  Returns:
    The loss float32[] and metrics, each float32[].
  """
  layout, vocab = model.layout, model.vocab
  key_drop, key_corrupt = jax.random.split(key)
  condition = drop_conditions(config, model, condition, key=key_drop)
  noisy = corrupt.corrupt(
    layout,
    answer,
    mask_id=vocab.mask_id,
    key=key_corrupt,
    rows=config.rows,
  )
  hidden = model.answer_hidden(params, condition, noisy.answer)
  text_rows, image_rows = corrupt.capacity(layout, batch_size=answer.shape[0])
  text_loss, text_accuracy, text_count = _modality_loss(
    config,
    model,
    params,
    hidden,
    answer,
    mask=noisy.text_mask,
    weights=weight_table(
      config.text_weight,
      length=layout.text_len,
      time_at=corrupt.text_time,
    ),
    index=layout.text_index,
    columns=vocab.text_columns,
    num_rows=text_rows,
    noised_rate=config.rows.noised_text,
  )
  image_loss, image_accuracy, image_count = _modality_loss(
    config,
    model,
    params,
    hidden,
    answer,
    mask=noisy.image_mask,
    weights=weight_table(
      config.image_weight,
      length=layout.image_len,
      time_at=corrupt.image_time,
    ),
    index=layout.image_index,
    columns=vocab.code_columns,
    num_rows=image_rows,
    noised_rate=config.rows.noised_image,
  )
  loss = config.text_coef * text_loss + config.image_coef * image_loss
  return loss, {
    "train/loss_text": text_loss,
    "train/loss_image": image_loss,
    "train/accuracy_text": text_accuracy,
    "train/accuracy_image": image_accuracy,
    "train/tokens_text": text_count.astype(jnp.float32),
    "train/tokens_image": image_count.astype(jnp.float32),
  }
