"""Laws of what a reward may return and of how terms become one number."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paradiff.rl import reward
from paradiff.rl import terms

_combine = jax.jit(
  terms.combine,
  static_argnames=("terms", "group_size"),
  compiler_options={"xla_backend_optimization_level": 0},
)
_BUCKET = np.array([0, 1, 1], np.int32)


def _context(num_rows=2, num_points=3, **changes):
  texts = (("a",) * num_points,) * num_rows
  fields = {
    "prompts": tuple(f"prompt {row}" for row in range(num_rows)),
    "texts": texts,
    "predicted_texts": texts,
    "pictures": np.zeros((num_rows, num_points, 4, 4, 3), np.uint8),
    "sources": (None,) * num_rows,
    "steps": np.arange(1, num_points + 1, dtype=np.int32) * 4,
    "num_steps": num_points * 4,
    "examples": (None,) * num_rows,
  }
  return reward.Context(**{**fields, **changes})


def _mapped(term, scores, *, bucket=None, group_size=1, stats=None):
  """Return what one term alone makes of scores [B, R]."""
  raw = jnp.asarray(scores, jnp.float32)[..., None]
  bucket = np.zeros(raw.shape[1], np.int32) if bucket is None else bucket
  stats = terms.init_stats(1, int(bucket.max()) + 1) if stats is None else stats
  return terms.combine(
    (term,), raw, stats, bucket=bucket, group_size=group_size
  )


# Rewards.


def test_evaluate_stacks_rewards_in_the_order_asked_for():
  rewards = {
    "a": lambda c: [[1, 2, 3]] * 2,
    "b": lambda c: jnp.full(c.shape, 0.5, jnp.bfloat16),
    "c": lambda c: np.array(c.texts) == "a",
  }
  found = reward.evaluate(rewards, _context(), names=("c", "a", "b"))
  assert found.dtype == np.float32 and found.shape == (2, 3, 3)
  np.testing.assert_array_equal(found[1, 2], [1.0, 3.0, 0.5])
  default = reward.evaluate(rewards, _context())
  np.testing.assert_array_equal(default[1, 2], [3.0, 0.5, 1.0])


def test_a_reward_that_raises_is_named_and_its_error_kept():
  def broken(context):
    raise KeyError("lost")

  rewards = {"fine": lambda c: np.zeros(c.shape), "mine": broken}
  with pytest.raises(reward.RewardError, match=r"'mine'.*KeyError.*lost") as e:
    reward.evaluate(rewards, _context())
  assert isinstance(e.value.__cause__, KeyError)


@pytest.mark.parametrize(
  ("value", "found"),
  [
    (np.zeros((3, 2)), r"float\[2, 3\], got float64\[3, 2\]"),
    (np.zeros((2, 3, 1)), r"float\[2, 3\], got float64\[2, 3, 1\]"),
    (0.5, r"float\[2, 3\], got float64\[\]"),
    (None, r"float\[2, 3\], got object\[\]"),
    (np.full((2, 3), "x"), r"float\[2, 3\], got <U1"),
    (np.zeros((2, 3), complex), r"float\[2, 3\], got complex128"),
    ([[1.0], [1.0, 2.0]], r"float\[2, 3\], got ValueError"),
  ],
)
def test_a_reward_of_another_shape_or_kind_is_named(value, found):
  with pytest.raises(reward.RewardError, match=f"'mine' must return {found}"):
    reward.evaluate({"mine": lambda c: value}, _context())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_the_first_score_that_is_not_finite_is_pointed_at(value):
  scores = np.zeros((2, 3))
  scores[1, 1:] = value
  place = r"row 1, point 1 \(step 8, prompt 'prompt 1'\) and 1 more"
  with pytest.raises(reward.RewardError, match=f"'mine'.*finite.*{place}"):
    reward.evaluate({"mine": lambda c: scores}, _context())


def test_unknown_rewards_are_refused():
  rewards = {"a": lambda c: np.zeros(c.shape)}
  with pytest.raises(ValueError, match=r"some of \('a',\), got \['b'\]"):
    reward.evaluate(rewards, _context(), names=("a", "b"))
  with pytest.raises(ValueError, match="names must be"):
    reward.evaluate({}, _context())


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"sources": (None,)}, "sources must have one row a prompt, 2, got 1"),
    ({"texts": (("a",), ("a",) * 3)}, "texts must have one text a step, 3"),
    ({"pictures": np.zeros((2, 3, 4, 4, 3))}, "pictures must be uint8"),
    ({"pictures": np.zeros((1, 3, 4, 4, 3), np.uint8)}, "pictures must be"),
    ({"num_steps": 13}, "the last of steps must be num_steps=13"),
  ],
)
def test_a_context_whose_sizes_disagree_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    _context(**changes)


# Terms.


@pytest.mark.parametrize(
  ("clip_at", "expected", "saturated"),
  [
    # c at the mean, +- std, at half a std, at +4 and -2.5 std
    (1.0, [0.5, 1.0, 0.0, 0.75, 1.0, 0.0], 4 / 6),
    (3.0, [0.5, 2 / 3, 1 / 3, 7 / 12, 1.0, 1 / 12], 1 / 6),
    (None, [0.5, 1.0, 0.0, 0.75, 2.5, -0.75], None),
  ],
)
def test_the_papers_map_has_its_values_by_hand(clip_at, expected, saturated):
  term = terms.Term("c", 1.0, "paper_clip", mean=2.0, std=0.5, clip_at=clip_at)
  scores = [[2.0, 2.5, 1.5, 2.25, 4.0, 0.75]]
  total, _, metrics = _mapped(term, scores)
  np.testing.assert_allclose(total, [expected], atol=1e-6)
  if saturated is None:
    assert "reward/c_saturated" not in metrics
  else:
    assert metrics["reward/c_saturated"] == pytest.approx(saturated)


def test_statistics_are_those_of_all_that_was_seen_whole_or_split():
  rng = np.random.default_rng(0)
  scores = rng.normal([5.0, -1.0], [2.0, 0.1], (24, 3, 2)).astype(np.float32)
  split = terms.init_stats(2, 2)
  for part in np.split(scores, [4, 12]):
    split = terms.update(split, jnp.asarray(part), bucket=_BUCKET)
  whole = terms.update(
    terms.init_stats(2, 2), jnp.asarray(scores), bucket=_BUCKET
  )
  for stats in (split, whole):
    for k in range(2):
      for bucket in range(2):
        seen = scores[:, bucket == _BUCKET, k].astype(np.float64)
        assert stats.count[k, bucket] == seen.size
        np.testing.assert_allclose(stats.mean[k, bucket], seen.mean(), 1e-5)
        np.testing.assert_allclose(
          stats.m2[k, bucket], seen.var() * seen.size, 1e-4
        )


def test_running_scores_include_the_batch_and_what_came_before():
  rng = np.random.default_rng(1)
  batches = rng.normal(3.0, 2.0, (3, 4, 3)).astype(np.float32)
  batches[..., 0] += 10.0  # the first bucket lies elsewhere
  stats = {"zscore": terms.init_stats(1, 2), "per_step": terms.init_stats(1, 2)}
  for num, batch in enumerate(batches, 1):
    seen = batches[:num].astype(np.float64)
    early, late = seen[..., :1], seen[..., 1:]
    apart = [early, late, late]
    expected = {
      "zscore": (batch - seen.mean()) / seen.std(),
      "per_step": (batch - [s.mean() for s in apart])
      / [s.std() for s in apart],
    }
    for name, value in expected.items():
      total, stats[name], _ = _mapped(
        terms.Term("c", 1.0, name), batch, bucket=_BUCKET, stats=stats[name]
      )
      np.testing.assert_allclose(total, value, atol=1e-4)


def test_group_scores_have_mean_0_and_spread_1_apart_for_each_point():
  rng = np.random.default_rng(2)
  scores = rng.normal(0.0, 1.0, (6, 2)).astype(np.float32)
  scores[:3, 1] = 0.1  # no spread in this group at this point
  total, _, _ = _mapped(terms.Term("c", 1.0, "group"), scores, group_size=3)
  for rows in (slice(0, 3), slice(3, 6)):
    for point in range(2):
      part = scores[rows, point].astype(np.float64)
      value = np.zeros(3)
      if (rows.start, point) != (0, 1):
        value = (part - part.mean()) / part.std()
      np.testing.assert_allclose(total[rows, point], value, atol=1e-5)
  assert not np.any(total[:3, 1])


@pytest.mark.parametrize("name", ["zscore", "per_step", "group"])
def test_scores_without_a_spread_count_as_the_mean(name):
  total, _, _ = _mapped(
    terms.Term("c", 1.0, name), np.full((4, 3), 0.1), group_size=2
  )
  np.testing.assert_array_equal(total, np.zeros((4, 3)))


def test_output_only_puts_the_finished_answers_value_at_every_point():
  scores = [[1.0, 2.0, 3.0], [4.0, 5.0, 7.0]]
  total, stats, metrics = _mapped(
    terms.Term("c", output_only=True), scores, bucket=_BUCKET
  )
  np.testing.assert_array_equal(total, [[3.0] * 3, [7.0] * 3])
  np.testing.assert_array_equal(stats.mean, [[5.0, 5.0]])
  assert metrics["reward/c"] == 5.0
  assert metrics["reward/c_steps"] == pytest.approx(22 / 6)


_THREE = (
  terms.Term("clip", 0.5, "paper_clip", mean=0.0, std=1.0),
  terms.Term("length", -0.25, "none", output_only=True),
  terms.Term("scenes", 2.0, "per_step"),
)


def test_the_sum_is_weighted_and_every_column_meets_its_own_term():
  rng = np.random.default_rng(3)
  raw = rng.normal(0.0, 1.0, (4, 3, 3)).astype(np.float32)
  total, _, metrics = terms.combine(
    _THREE, raw, terms.init_stats(3, 2), bucket=_BUCKET, group_size=2
  )
  clip = 0.5 * (1.0 + np.clip(raw[..., 0], -1.0, 1.0))
  scenes = np.empty((4, 3))
  for points in (slice(0, 1), slice(1, 3)):
    part = raw[:, points, 2].astype(np.float64)
    scenes[:, points] = (part - part.mean()) / part.std()
  expected = 0.5 * clip - 0.25 * raw[:, -1:, 1] + 2.0 * scenes
  np.testing.assert_allclose(total, expected, atol=1e-5)
  assert metrics["reward/total"] == pytest.approx(
    expected[:, -1].mean(), abs=1e-5
  )
  for k, term in enumerate(_THREE):
    assert metrics[f"reward/{term.name}"] == pytest.approx(
      raw[:, -1, k].mean(), abs=1e-6
    )
    assert metrics[f"reward/{term.name}_steps"] == pytest.approx(
      raw[..., k].mean(), abs=1e-6
    )
  assert metrics["reward/clip_saturated"] == pytest.approx(
    (np.abs(raw[..., 0]) >= 1.0).mean()
  )


def test_jit_equals_no_jit_with_the_bucket_traced():
  rng = np.random.default_rng(4)
  raw = jnp.asarray(rng.normal(0.0, 1.0, (4, 3, 3)), jnp.float32)
  stats = terms.init_stats(3, 2)
  plain = terms.combine(_THREE, raw, stats, bucket=_BUCKET, group_size=2)
  jitted = _combine(_THREE, raw, stats, bucket=_BUCKET, group_size=2)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, jitted
  )
  assert all(v.shape == () for v in jitted[2].values())
  _combine(_THREE, raw, stats, bucket=_BUCKET[::-1].copy(), group_size=2)
  assert _combine._cache_size() == 1


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"normalise": "softmax"}, "normalise must be one of .*'paper_clip'"),
    ({"weight": 0.0}, "weight must be finite and not 0"),
    ({"weight": float("nan")}, "weight must be finite and not 0"),
    ({"normalise": "paper_clip", "mean": 0.0}, "must have mean and std"),
    ({"normalise": "paper_clip", "std": 1.0}, "must have mean and std"),
    ({"mean": 0.0, "std": 0.0}, "std must be positive"),
    ({"mean": float("inf")}, "mean must be finite"),
    ({"clip_at": 0.0}, "clip_at must be None or positive"),
    ({"name": ""}, "name must not be empty"),
  ],
)
def test_terms_that_make_no_sense_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    terms.Term(**{"name": "c", **changes})


def test_combine_refuses_sizes_that_disagree():
  raw, stats = jnp.zeros((4, 3, 3)), terms.init_stats(3, 2)
  twice = (_THREE[0], *_THREE[:2])
  for which, scores, held, bucket, group_size, message in (
    (twice, raw, stats, _BUCKET, 2, "differ in name"),
    ((), raw, stats, _BUCKET, 2, "terms must exist"),
    (_THREE, raw[..., :2], stats, _BUCKET, 2, r"raw must be \[B, R, 3\]"),
    (_THREE, raw, terms.init_stats(2, 2), _BUCKET, 2, "stats must be of 3"),
    (_THREE, raw, stats, _BUCKET[:2], 2, r"bucket \[3\]"),
    (_THREE, raw, stats, _BUCKET, 3, "group_size must divide"),
  ):
    with pytest.raises(ValueError, match=message):
      terms.combine(which, scores, held, bucket=bucket, group_size=group_size)
  with pytest.raises(ValueError, match="must be positive"):
    terms.init_stats(0, 2)


def test_terms_are_static_and_can_be_replaced():
  term = terms.Term("c")
  assert hash(term) == hash(terms.Term("c"))
  assert dataclasses.replace(term, weight=2.0) != term
