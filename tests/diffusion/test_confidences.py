"""What makes a token sure decides the order in which a run commits."""

import dataclasses
import functools

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
from paradiff.diffusion import settings

LAYOUT = layout_lib.Layout(
  grid=(3, 4), prompt_len=1, text_len=12, prefix=("bos", "prompt")
)
# One word and one code a step.
STEADY = settings.SamplerConfig(
  num_steps=12,
  num_image_steps=12,
  image_start_rate=0.0,
  image_schedule="linear",
)
RULES = settings.CONFIDENCES


def _config(rule, **changes):
  return dataclasses.replace(
    STEADY, text_confidence=rule, image_confidence=rule, **changes
  )


@functools.cache
def _table(seed=0):
  table = published.table(LAYOUT, seed=seed)
  table[:, toy.VOCAB.eos_id] = -20.0  # no end, behind which all is certain
  return table


@functools.cache
def _order(config, seed=0, key=0):
  """Return the order in which words and codes are committed in a run."""
  run = runs.sample(
    config,
    toy.table_model(LAYOUT),
    jnp.asarray(_table(seed)),
    published.condition(LAYOUT, toy.VOCAB, [[]]),
    published.masked_answers(LAYOUT, toy.VOCAB, 1),
    key=runs.key(key),
  )
  steps = np.asarray(run.commit_step)[0]
  found = [
    np.argsort(steps[index]).tolist()
    for index in (LAYOUT.text_index, LAYOUT.image_index)
  ]
  assert sorted(steps[LAYOUT.text_index]) == list(range(12))
  assert sorted(steps[LAYOUT.image_index]) == list(range(12))
  return found


def _logits(seed=0):
  """Return what words and codes are chosen from: float[12, V] of each."""
  answer = _table(seed)[LAYOUT.prefix_len :].astype(np.float64)
  words = answer[LAYOUT.text_index, :22]
  words = np.delete(words, toy.VOCAB.suppressed_text_ids, axis=1)
  return words, answer[LAYOUT.image_index, 24:40]


def _certainty(rule, logits):
  """State the rule in numpy: float[12] for the most probable tokens."""
  probs = np.sort(oracles.softmax(logits), axis=1)[:, ::-1]
  return {
    "probability": np.log(probs[:, 0]),
    "margin": probs[:, 0] - probs[:, 1],
    "entropy": (probs * np.log(probs)).sum(axis=1),
  }[rule]


@pytest.mark.parametrize("rule", RULES[:3])
def test_the_surest_by_each_rule_go_first(rule):
  for got, logits in zip(_order(_config(rule)), _logits(), strict=True):
    certainty = _certainty(rule, logits)
    assert got == np.argsort(-certainty, kind="stable").tolist()


def test_the_rules_give_different_orders():
  orders = [_order(_config(rule)) for rule in RULES]
  for kind in (0, 1):
    assert len({tuple(order[kind]) for order in orders}) == 4


def _numbers(config, name, key):
  """Return the confidence noise of each step, float32[12, 12]."""
  rows = []
  for step in range(12):
    noise = noise_lib.draw(
      config,
      toy.table_model(LAYOUT),
      1,
      jax.random.fold_in(runs.key(key), step),
    )
    rows.append(np.asarray(getattr(noise, f"{name}_confidence"))[0])
  return np.stack(rows)


def _ordered(keys):
  """Take the largest of what is left, one a row of keys float[12, 12]."""
  order = []
  for row in keys:
    left = [i for i in range(12) if i not in order]
    order.append(max(left, key=lambda i, row=row: row[i]))
  return order


def test_chance_alone_orders_by_the_noise_and_not_by_the_logits():
  config = _config("random")
  for key in (0, 1):
    first, second = _order(config, 0, key), _order(config, 1, key)
    assert first == second
    for kind, name in enumerate(("text", "image")):
      assert first[kind] == _ordered(_numbers(config, name, key))
  assert _order(config, 0, 0) != _order(config, 0, 1)
  assert _order(_config("probability"), 0) != _order(_config("probability"), 1)


def test_noise_is_added_to_whatever_rule_and_fades():
  config = _config("margin", text_noise=0.3, image_noise=0.3)
  got = _order(config)
  fade = 1.0 - np.arange(1, 13)[:, None] / 12
  for kind, name in enumerate(("text", "image")):
    certainty = _certainty("margin", _logits()[kind])[None]
    noisy = certainty + 0.3 * fade * _numbers(config, name, 0)
    assert got[kind] == _ordered(noisy)
    assert got[kind] != np.argsort(-certainty[0]).tolist()


def test_rules_of_text_and_picture_are_apart():
  mixed = dataclasses.replace(
    STEADY, text_confidence="entropy", image_confidence="margin"
  )
  text, image = _order(mixed)
  assert text == _order(_config("entropy"))[0]
  assert image == _order(_config("margin"))[1]


@pytest.mark.parametrize("rule", RULES)
def test_behind_an_end_nothing_waits_under_any_rule(rule):
  answer = np.array(published.masked_answers(LAYOUT, toy.VOCAB, 1))
  answer[0, LAYOUT.text_index[3]] = toy.VOCAB.eos_id
  run = runs.sample(
    _config(rule),
    toy.table_model(LAYOUT),
    jnp.asarray(_table()),
    published.condition(LAYOUT, toy.VOCAB, [[]]),
    jnp.asarray(answer),
    key=runs.key(),
  )
  steps = np.asarray(run.commit_step)[0, LAYOUT.text_index]
  assert steps[4:].tolist() == sorted(steps[4:])
  assert steps[4:].max() < steps[:3].min()
  assert (run.tokens[0, LAYOUT.text_index[3:]] == toy.VOCAB.eos_id).all()
