"""Rows are units of rollouts: their states, tokens and weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rl_toy

from paradiff.rl import rollout as rollout_lib
from paradiff.rl import rows as rows_lib
from paradiff.rl import units as units_lib

CONFIG, MODEL = rl_toy.SAMPLER, rl_toy.model()
LAYOUT, MASK = rl_toy.LAYOUT, rl_toy.VOCAB.mask_id
STEPS = CONFIG.num_steps

_make_rows = jax.jit(
  rows_lib.make_rows,
  static_argnums=(0, 1),
  static_argnames=("units_config", "score_set"),
  compiler_options=rl_toy.FAST,
)
_add_weights = jax.jit(
  rows_lib.add_weights,
  static_argnums=(0, 1),
  static_argnames="num_groups",
  compiler_options=rl_toy.FAST,
)


@functools.cache
def _run():
  """Return conditions and runs that begin anyhow, and which ends they drew."""
  answer = rl_toy.partial_answers()
  condition = rl_toy.conditions(2, repeat=len(answer) // 2)
  run = rl_toy.rollout(
    CONFIG,
    MODEL,
    rl_toy.draw_params(),
    condition,
    answer,
    points=jnp.arange(1, STEPS + 1),
    key=jax.random.key(5),
  )
  return condition, run


def _cut(units_config, start, stop, *, score_set="committed", seed=0):
  """Cut the runs; rows come back as numpy [B, R, ...]."""
  condition, run = _run()
  predicted = run.predicted[:, np.append(stop, STEPS) - 1]
  rows = _make_rows(
    CONFIG,
    MODEL,
    condition,
    dataclasses.replace(run, predicted=predicted),
    units_config=units_config,
    units=units_lib.Units(start=jnp.asarray(start), stop=jnp.asarray(stop)),
    score_set=score_set,
    key=jax.random.key(seed),
  )
  shape = (len(predicted), len(start))
  return {
    name: np.asarray(x).reshape(*shape, *x.shape[1:])
    for name, x in rows.items()
  }


def _slices(num):
  config = units_lib.UnitsConfig(kind="slices", num=num)
  units = units_lib.draw(config, rl_toy.schedule(), jax.random.key(0))
  return config, np.asarray(units.start), np.asarray(units.stop)


def _parts():
  _, run = _run()
  return (
    np.asarray(run.trajectory.tokens),
    np.asarray(run.trajectory.commit_step),
    np.asarray(rollout_lib.chosen(MODEL, run.trajectory)),
  )


def test_a_row_holds_the_state_before_its_unit_and_the_tokens_chosen_in_it():
  condition, _ = _run()
  tokens, when, chosen = _parts()
  start, stop = np.array([0, 1, 3]), np.array([1, 3, 4])
  rows = _cut(units_lib.UnitsConfig("slices", 3), start, stop)
  for unit, (a, b) in enumerate(zip(start, stop, strict=True)):
    np.testing.assert_array_equal(rows["prefix"][:, unit], condition.prefix)
    np.testing.assert_array_equal(
      rows["prefix_valid"][:, unit], condition.valid
    )
    np.testing.assert_array_equal(
      rows["canvas"][:, unit], np.where(when >= a, MASK, tokens)
    )
    np.testing.assert_array_equal(rows["target"][:, unit], tokens)
    np.testing.assert_array_equal(
      rows["scored"][:, unit], chosen & (when >= a) & (when < b)
    )
  # Thirds of a clock of 4: steps 0, 1 | 2 | 3.
  np.testing.assert_array_equal(rows["bucket"], [[0, 0, 2]] * len(tokens))
  assert (rows["prefix"][0, 0] != rows["prefix"][-1, 0]).any()
  assert (chosen != (when >= 0)).any()  # some follow an end


@pytest.mark.parametrize("num", [1, 2, 3, STEPS])
def test_slices_score_each_chosen_token_once(num):
  _, _, chosen = _parts()
  rows = _cut(*_slices(num))
  np.testing.assert_array_equal(rows["scored"].sum(axis=1), chosen)
  assert (rows["canvas"] == MASK)[rows["scored"]].all()


def test_slices_of_one_step_are_isolated_steps():
  config, start, stop = _slices(STEPS)
  got = _cut(config, start, stop)
  expected = _cut(units_lib.UnitsConfig("all", STEPS), start, start + 1)
  for name, value in expected.items():
    np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_candidates_are_scored_with_their_proposals_kept_or_not():
  _, run = _run()
  tokens, when, chosen = _parts()
  start = np.array([1, 3])
  rows = _cut(
    units_lib.UnitsConfig("all", 2), start, start + 1, score_set="candidates"
  )
  for unit, step in enumerate(start):
    target, scored = rows["target"][:, unit], rows["scored"][:, unit]
    np.testing.assert_array_equal(
      target[scored], np.asarray(run.predicted)[:, step][scored]
    )
    expected = rollout_lib.candidates_at(
      CONFIG,
      MODEL,
      jnp.asarray(rows["canvas"][:, unit]),
      start=jnp.full(len(tokens), step),
    )
    np.testing.assert_array_equal(scored, expected)
    kept = chosen & (when == step)
    assert scored[kept].all() and (target == tokens)[kept].all()
  assert (rows["target"] != tokens[:, None])[rows["scored"]].any()


def test_random_masks_hide_part_of_what_was_masked_and_score_what_was_chosen():
  tokens, when, chosen = _parts()
  num = 8
  zeros = np.zeros(num, np.int32)
  config = units_lib.UnitsConfig("masked", num)
  rows = _cut(config, zeros, zeros + STEPS)
  hidden = rows["canvas"] == MASK
  assert not (hidden & (when < 0)[:, None]).any()
  np.testing.assert_array_equal(
    rows["canvas"], np.where(hidden, MASK, tokens[:, None])
  )
  np.testing.assert_array_equal(rows["scored"], hidden & chosen[:, None])
  np.testing.assert_array_equal(
    rows["target"], np.broadcast_to(tokens[:, None], hidden.shape)
  )
  # A rate in [0, 1] a row: half of all on average, and near both ends.
  free = (when >= 0)[:, None]
  assert hidden.sum() / (free.sum() * num) == pytest.approx(0.5, abs=0.06)
  share = hidden[-1].sum(axis=-1) / free[-1].sum()
  assert share.min() < 0.3 and share.max() > 0.7
  other = _cut(config, zeros, zeros + STEPS, seed=1)
  assert (other["canvas"] != rows["canvas"]).any()


# Rows of B = 2, R = 2: 1 word and 2 codes; 2 words; nothing; 1 code.
SCORED = np.zeros((4, LAYOUT.answer_len), bool)
SCORED[0, LAYOUT.text_index[1]] = SCORED[0, LAYOUT.image_index[:2]] = True
SCORED[1, LAYOUT.text_index[:2]] = True
SCORED[3, LAYOUT.image_index[3]] = True
BY_HAND = {  # of a word and of a code of rows 0, 1, 3; times 4 rows
  "paper_sum": ((4 / 3, 4 / 3), (2.0, 0.0), (0.0, 4.0)),
  "step_mean": ((4 / 9, 4 / 9), (4 / 6, 0.0), (0.0, 4 / 3)),
  "token_mean": ((4 / 6, 4 / 6), (4 / 6, 0.0), (0.0, 4 / 6)),
  "per_modality_mean": ((4 / 6, 4 / 12), (4 / 6, 0.0), (0.0, 4 / 3)),
  "sequence": ((4 / 9, 4 / 9), (4 / 6, 0.0), (0.0, 4 / 3)),
}


def _weighed(aggregation, num_groups=1):
  rows = {
    "scored": jnp.asarray(SCORED),
    "bucket": jnp.asarray([0, 2, 0, 2], jnp.int32),
  }
  advantages = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
  return _add_weights(
    aggregation, MODEL, rows, advantages, num_groups=num_groups
  )


@pytest.mark.parametrize("aggregation", rows_lib.AGGREGATIONS)
def test_weights_are_those_computed_by_hand(aggregation):
  rows = _weighed(aggregation)
  np.testing.assert_array_equal(rows["advantage"], [1.0, 2.0, 3.0, 4.0])
  expected = np.zeros(SCORED.shape)
  for row, values in zip((0, 1, 3), BY_HAND[aggregation], strict=True):
    for value, index in zip(
      values, (LAYOUT.text_index, LAYOUT.image_index), strict=True
    ):
      expected[row, index] = value * SCORED[row, index]
  np.testing.assert_allclose(rows["weight"], expected, rtol=0, atol=1e-6)


def test_only_the_printed_sum_depends_on_the_number_of_groups():
  for aggregation in rows_lib.AGGREGATIONS:
    one, two = (_weighed(aggregation, groups)["weight"] for groups in (1, 2))
    factor = 0.5 if aggregation == "paper_sum" else 1.0
    np.testing.assert_allclose(two, factor * one, atol=1e-6)


def test_metrics_count_each_token_of_its_modality_and_bucket_alike():
  rows = _weighed("step_mean")
  # 3 words and 3 codes in all, times 4 rows.
  np.testing.assert_allclose(rows["overall"], np.full((4, 2), 4 / 3), rtol=1e-6)
  # Rows 0 and 2 hold 1 word, 2 codes; rows 1 and 3 hold 2 words, 1 code.
  early, late = [4.0, 2.0], [2.0, 4.0]
  np.testing.assert_allclose(
    rows["share"], [early, late, early, late], rtol=1e-6
  )


def test_nothing_scored_weighs_nothing():
  for aggregation in rows_lib.AGGREGATIONS:
    rows = _add_weights(
      aggregation,
      MODEL,
      {
        "scored": jnp.zeros(SCORED.shape, bool),
        "bucket": jnp.zeros(4, jnp.int32),
      },
      jnp.ones((2, 2)),
      num_groups=1,
    )
    for name in ("weight", "share", "overall"):
      assert np.isfinite(rows[name]).all()
    assert not rows["weight"].any()


def test_settings_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match="aggregation must be one of .*'mean'"):
    _weighed("mean")
  for kind in ("slices", "masked"):
    config = units_lib.UnitsConfig(kind=kind)
    with pytest.raises(ValueError, match=f"isolated steps.*got kind '{kind}'"):
      rows_lib.check("candidates", config)
    rows_lib.check("committed", config)
  for kind in units_lib.ISOLATED:
    rows_lib.check("candidates", units_lib.UnitsConfig(kind=kind))
  with pytest.raises(ValueError, match="isolated steps"):
    _cut(*_slices(2), score_set="candidates")
