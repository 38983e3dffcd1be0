"""The weights of the loss, and the bound that `elbo` computes exactly."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import toy

from paradiff import layout as layout_lib
from paradiff import sequence as sequence_lib
from paradiff.diffusion import corrupt
from paradiff.diffusion import objective


def test_weights_hand_worked():
  table = functools.partial(objective.weight_table, length=4)
  text = functools.partial(table, time_at=corrupt.text_time)
  image = functools.partial(table, time_at=corrupt.image_time)
  np.testing.assert_allclose(text("one"), [1, 1, 1, 1])
  for name in ("inv_t", "inv_maskprob", "elbo"):
    np.testing.assert_allclose(text(name), [4, 2, 4 / 3, 1], rtol=1e-6)
  np.testing.assert_allclose(image("inv_maskprob"), [4, 2, 4 / 3, 1], rtol=1e-6)
  # sin(pi t / 2) = 1/4, 1/2, 3/4, 1 at t = 0.1609, 1/3, 0.5399, 1.
  time = np.array([0.160861, 1 / 3, 0.539893, 1.0])
  np.testing.assert_allclose(image("inv_t"), 1 / time, rtol=1e-5)
  chance = [0.160861, 0.172472, 0.20656, 0.460107]
  expected = 1 / (np.arange(1, 5) * chance)
  np.testing.assert_allclose(image("elbo"), expected, rtol=1e-5)
  with pytest.raises(ValueError, match="weight must be one of"):
    text("half")


@pytest.mark.parametrize("name", objective.WEIGHTS)
@pytest.mark.parametrize("modality", ["text", "image"])
def test_weights_are_bounded_and_never_rise_with_the_share(name, modality):
  time_at = {"text": corrupt.text_time, "image": corrupt.image_time}[modality]
  table = objective.weight_table(name, length=64, time_at=time_at)
  assert (table.dtype, table.shape) == (np.float32, (64,))
  assert (np.diff(table) <= 0.0).all() and table[-1] > 0.0
  assert table[0] <= 1.6 * 64


def _mean_over_orders(logits_of, target, mask_id):
  """Average -log p(target) over all orders of filling in.

  logits_of maps a canvas tuple to float64[n, C]; target holds columns.
  """
  size, total = len(target), 0.0
  orders = list(itertools.permutations(range(size)))
  for order in orders:
    canvas = [mask_id] * size
    for position in order:
      logp = oracles.log_softmax(logits_of(tuple(canvas))[position])
      total -= logp[target[position]]
      canvas[position] = target[position]
  return total / len(orders)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_elbo_is_the_mean_code_length_over_all_orders(modality):
  # One modality has three tokens; the other has one, which is always hidden.
  sizes = {"text": ((1, 1), 3), "image": ((1, 3), 1)}
  grid, text_len = sizes[modality]
  layout = layout_lib.Layout(grid=grid, prompt_len=1, text_len=text_len)
  model = toy.model(toy.CONFIG, layout)
  condition = toy.conditions(1, layout=layout)
  answer = sequence_lib.encode_answer(
    layout,
    toy.VOCAB,
    text_ids=[9, 15][: text_len - 1],
    codes=np.array([3, 1, 7])[: layout.image_len],
  )
  index = getattr(layout, f"{modality}_index")
  first, last = getattr(
    toy.VOCAB, {"text": "text_columns", "image": "code_columns"}[modality]
  )
  blank = sequence_lib.encode_answer(layout, toy.VOCAB)

  @functools.cache
  def logits_of(canvas):
    row = blank.copy()
    ids = np.array(canvas)
    row[index] = np.where(ids < 0, toy.VOCAB.mask_id, ids + first)
    prefix, valid = np.asarray(condition.prefix)[0], np.asarray(condition.valid)
    logits = oracles.answer_logits(
      toy.network(), layout, toy.VOCAB, prefix, valid[0], row
    )
    return logits[index][:, first:last]

  expected = _mean_over_orders(logits_of, answer[index] - first, -1)

  # The same number from the weights, every mask enumerated.
  time_at = {"text": corrupt.text_time, "image": corrupt.image_time}[modality]
  table = objective.weight_table("elbo", length=3, time_at=time_at)
  latest = time_at(np.arange(4) / 3)
  total = 0.0
  for hidden_len in (1, 2, 3):
    masks = list(itertools.combinations(range(3), hidden_len))
    for mask in masks:
      canvas = answer[index] - first
      canvas[list(mask)] = -1
      logp = oracles.log_softmax(logits_of(tuple(canvas)))
      nats = -sum(logp[i, answer[index[i]] - first] for i in mask)
      chance = (latest[hidden_len] - latest[hidden_len - 1]) / len(masks)
      total += chance * table[hidden_len - 1] * nats
  assert total == pytest.approx(expected, rel=1e-6)

  # And from the loss itself, averaged over keys.
  config = objective.SftConfig(
    text_weight="elbo",
    image_weight="elbo",
    drop_text_rate=0.0,
    drop_image_rate=0.0,
  )

  @jax.jit
  def losses(keys):
    def one(key):
      _, metrics = objective.sft_loss(
        config,
        model,
        toy.params(),
        condition,
        jnp.asarray(answer[None]),
        key=key,
      )
      return metrics[f"train/loss_{modality}"]

    return jax.lax.map(one, keys, batch_size=512)

  draws = 3.0 * np.asarray(
    losses(jax.random.split(jax.random.key(7), 8192)), np.float64
  )
  error = draws.std() / len(draws) ** 0.5
  assert error < 0.01 * expected
  assert abs(draws.mean() - expected) < 4 * error
