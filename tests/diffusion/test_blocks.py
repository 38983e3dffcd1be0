"""Semi-autoregressive text: earlier blocks are committed first."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import toy
import toy_published as published
import toy_runs as runs

from paradiff.diffusion import settings

VOCAB = published.VOCAB_M
SIZE = 4
PROMPTS = [[], [11], [12, 13], [14, 15, 16]]
SAMPLED = settings.SamplerConfig(
  text_temperature=0.9, text_noise=1.0, image_temperature=1.0
)


def _layout(text_len):
  return dataclasses.replace(published.TEXT_M, text_len=text_len)


def _run(config, layout, answer=None, model=None, params=None):
  if answer is None:
    answer = published.masked_answers(layout, VOCAB, SIZE)
  return runs.sample(
    config,
    model or toy.model(toy.CONFIG, layout, VOCAB),
    toy.params() if params is None else params,
    published.condition(layout, VOCAB, PROMPTS),
    answer,
    key=runs.key(),
  )


def _llada(network, prompt, *, text_len, block_len, num_steps):
  """Decode block by block as LLaDA does, greedily: tokens and steps.

  Each block has its share of the steps, each step of a block its even share of
  the block's masks, the remainder first; later blocks have no confidence.
  """
  text, step_of = [VOCAB.mask_id] * text_len, [None] * text_len
  num_blocks = text_len // block_len
  each = num_steps // num_blocks
  for block in range(num_blocks):
    for step in range(each):
      num_commits = block_len // each + (step < block_len % each)
      logits = network(np.array([*prompt, *text]))[len(prompt) :]
      logits = logits[:, : VOCAB.text_size].copy()
      logits[:, list(VOCAB.suppressed_text_ids)] = -np.inf
      confidence = oracles.softmax(logits).max(axis=1)
      confidence[[token != VOCAB.mask_id for token in text]] = -np.inf
      confidence[(block + 1) * block_len :] = -np.inf
      for place in np.argsort(-confidence, kind="stable")[:num_commits]:
        text[place] = int(logits[place].argmax())
        step_of[place] = block * each + step
  return text, step_of


@pytest.mark.parametrize(
  ("text_len", "block_len", "num_steps"),
  [
    (12, 4, 12),  # one word a step
    (12, 6, 4),  # three
    (8, 4, 6),  # of a block two, one, one
    (10, 5, 4),  # three, two
    (6, 6, 4),  # two, one, two, one here and two, two, one, one there
  ],
)
def test_blocks_of_equal_shares_are_decoded_as_by_llada(
  text_len, block_len, num_steps
):
  layout = _layout(text_len)
  counts = "first" if block_len == text_len else "exact"
  config = settings.SamplerConfig(
    num_steps=num_steps,
    text_block_len=block_len,
    # LLaDA goes on behind an end.
    quirks=settings.Quirks(text_behind_end=True, text_counts=counts),
  )
  got = _run(config, layout)
  for row, words in enumerate(PROMPTS):
    text, step_of = _llada(
      toy.network(),
      [VOCAB.bos_id, *words, VOCAB.eos_id],
      text_len=text_len,
      block_len=block_len,
      num_steps=num_steps,
    )
    assert got.tokens[row].tolist() == text
    assert got.commit_step[row].tolist() == step_of
  # Without blocks another order is surer.
  whole = _run(dataclasses.replace(config, text_block_len=0), layout)
  same = (whole.commit_step == got.commit_step).all()
  assert bool(same) == (block_len == text_len)


def _in_order(steps, block_len):
  """Whether no token is committed before one of an earlier block."""
  steps = np.asarray(steps)
  blocks = [steps[i : i + block_len] for i in range(0, len(steps), block_len)]
  blocks = [block[block >= 0] for block in blocks]  # given tokens have none
  blocks = [block for block in blocks if len(block)]
  return all(
    earlier.max() <= later.min()
    for earlier, later in zip(blocks, blocks[1:], strict=False)
  )


@pytest.mark.parametrize("block_len", [1, 3, 4])
@pytest.mark.parametrize("num_steps", [4, 11])
def test_no_block_begins_before_the_one_before_it_is_complete(
  block_len, num_steps
):
  # 11 words: the last block is shorter; 4 steps: some complete two blocks.
  layout = _layout(11)
  config = dataclasses.replace(
    SAMPLED, num_steps=num_steps, text_block_len=block_len
  )
  answer = np.array(published.masked_answers(layout, VOCAB, SIZE))
  answer[1, 2:5] = answer[2, 9] = 11
  answer[3, 4] = VOCAB.eos_id  # all behind it is certain
  run = _run(config, layout, jnp.asarray(answer))
  steps = np.asarray(run.commit_step)
  assert all(_in_order(row, block_len) for row in steps)
  if num_steps == 4:  # every step commits what no block changes
    masks = (answer == VOCAB.mask_id).sum(axis=1)
    for step in range(num_steps):
      left = masks * (num_steps - 1 - step) // num_steps
      np.testing.assert_array_equal((steps > step).sum(axis=1), left)
  assert (np.asarray(run.tokens) != VOCAB.mask_id).all()
  whole = _run(dataclasses.replace(config, text_block_len=0), layout)
  assert not all(
    _in_order(row, block_len) for row in np.asarray(whole.commit_step)
  )


def test_a_step_that_completes_a_block_spends_the_rest_on_the_next_one():
  # Five words in three steps, 2 2 1, and blocks of three; later words surer.
  layout = _layout(5)
  table = np.zeros((layout.prefix_len + 5, VOCAB.size), np.float32)
  table[layout.prefix_len :, 11] = np.arange(5) + 4
  config = settings.SamplerConfig(num_steps=3, text_block_len=3)
  run = _run(
    config,
    layout,
    model=toy.table_model(layout, VOCAB),
    params=jnp.asarray(table),
  )
  # 1 and 2 go first, then 0 and of the next block the surer 4.
  assert run.commit_step.tolist() == [[1, 0, 0, 2, 1]] * SIZE


def test_one_block_as_long_as_the_text_is_no_block():
  layout = _layout(6)
  plain = dataclasses.replace(SAMPLED, num_steps=4)
  expected = _run(plain, layout)
  for block_len in (6, 9):
    config = dataclasses.replace(plain, text_block_len=block_len)
    runs.assert_equal(_run(config, layout), expected, atol=0)


def test_blocks_leave_the_picture_alone():
  table = jnp.asarray(published.table(toy.LAYOUT))
  found = []
  for block_len in (0, 2):
    config = dataclasses.replace(runs.SAMPLED, text_block_len=block_len)
    run = runs.sample(
      config,
      toy.table_model(),
      table,
      toy.conditions(runs.SIZE),
      toy.partial_answers(runs.SIZE),
      key=runs.key(),
    )
    found.append(jax.tree.map(np.asarray, run))
  image, text = toy.LAYOUT.image_index, toy.LAYOUT.text_index
  np.testing.assert_array_equal(*(r.tokens[:, image] for r in found))
  np.testing.assert_array_equal(*(r.commit_step[:, image] for r in found))
  assert (found[0].commit_step[:, text] != found[1].commit_step[:, text]).any()
