import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from paradiff.diffusion import commit

SIZES = [1, 5, 128, 129, 1000]
BELOW_ONE = np.nextafter(np.float32(1.0), np.float32(0.0))
LOWEST = np.finfo(np.float32).min

_categorical = jax.jit(commit.categorical)


def _draw(logits, uniform):
  """Draw once for each of uniform float[n] from one logits float[V]."""
  logits = np.broadcast_to(logits, (len(uniform), len(logits)))
  return np.asarray(_categorical(logits, jnp.asarray(uniform, jnp.float32)))


def _logits(size, seed=0, scale=2.0):
  rng = np.random.default_rng(seed)
  return (scale * rng.standard_normal(size)).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_categorical_inverts_the_distribution_function(size):
  rng = np.random.default_rng(1)
  logits = _logits(size)
  upper = np.cumsum(oracles.softmax(logits))
  near = [np.float32(upper) + np.float32(d) for d in (-4e-6, 4e-6)]
  uniform = np.concatenate([rng.random(500, np.float32), *near])
  uniform = np.clip(uniform, 0.0, BELOW_ONE)
  drawn = _draw(logits, uniform)
  # The draw's interval holds the uniform number, up to float32 sums.
  lower = upper[drawn] - oracles.softmax(logits)[drawn]
  assert (lower <= uniform + 2e-6).all()
  assert (uniform <= upper[drawn] + 2e-6).all()
  # Away from the interval ends the oracle's very column is drawn.
  safe = np.abs(uniform[:, None] - upper).min(axis=1) > 2e-6
  expected = [oracles.inverse_cdf(logits, u) for u in uniform[safe]]
  np.testing.assert_array_equal(drawn[safe], expected)
  assert safe.sum() > 400


@pytest.mark.parametrize("size", [5, 129])
def test_categorical_draws_with_the_frequencies_of_softmax(size):
  rng = np.random.default_rng(2)
  logits = _logits(size, scale=1.0)
  num_draws = 40_000
  drawn = _draw(logits, rng.random(num_draws, np.float32))
  expected = oracles.softmax(logits) * num_draws
  counts = np.bincount(drawn, minlength=size)
  chi2 = ((counts - expected) ** 2 / expected).sum()
  # Mean size - 1, deviation sqrt(2 (size - 1)); five of them never happen.
  assert abs(chi2 - (size - 1)) < 5 * (2 * (size - 1)) ** 0.5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("impossible", [LOWEST, -np.inf])
def test_categorical_never_draws_a_column_of_probability_zero(size, impossible):
  rng = np.random.default_rng(3)
  for trial in range(8):
    logits = _logits(size, seed=trial)
    dead = rng.random(size) < (0.5 if trial else 0.99)
    dead[rng.integers(size)] = False
    if trial == 1:
      dead[0] = dead[-1] = size > 2
    logits[dead] = impossible
    upper = np.cumsum(oracles.softmax(logits)).astype(np.float32)
    steps = np.float32(2.0**-24) * np.arange(-4, 5, dtype=np.float32)
    uniform = (upper[:, None] + steps).ravel()
    ends = np.array([0.0, BELOW_ONE], np.float32)
    uniform = np.clip(np.concatenate([uniform, ends]), 0.0, BELOW_ONE)
    drawn = _draw(logits, uniform)
    assert not dead[drawn].any()
    assert drawn[-2] == np.flatnonzero(~dead)[0]
    assert drawn[-1] == np.flatnonzero(~dead)[-1]


def test_a_prefix_sum_that_grows_across_empty_columns_draws_none_of_them(
  monkeypatch,
):
  # A tree-shaped sum may be larger by a rounding behind a column without mass.
  mass = jnp.array([[0.25, 0.0, 0.25, 0.0]] * 2)
  rounded = jnp.array([[0.25, 0.26, 0.5, 0.51]] * 2)
  monkeypatch.setattr(commit.jnp, "cumsum", lambda x, axis: rounded)
  column, inside = commit._invert(mass, jnp.array([0.2505, 0.505]) / 0.51)
  assert set(column.tolist()) <= {0, 2}
  assert ((inside >= 0.0) & (inside < 1.0)).all()


def test_a_draw_that_rounds_up_to_one_takes_the_last_possible_column():
  mass = jnp.array([[0.25, 0.0, 0.5, 0.0, 0.0]])
  column, inside = commit._invert(mass, jnp.ones(1))
  assert column.tolist() == [2]
  assert inside[0] < 1.0


def test_categorical_works_for_any_leading_shape():
  logits = _logits(60).reshape(2, 3, 10)
  uniform = np.random.default_rng(4).random((2, 3), np.float32)
  drawn = np.asarray(_categorical(logits, uniform))
  assert (drawn.shape, drawn.dtype) == ((2, 3), np.int32)
  for i in np.ndindex(2, 3):
    assert drawn[i] == oracles.inverse_cdf(logits[i], uniform[i])
  with jax.disable_jit():
    np.testing.assert_array_equal(commit.categorical(logits, uniform), drawn)


def test_propose_greedy_hand_worked():
  logits = jnp.log(jnp.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]]))
  column, logp = commit.propose(logits, None, temperature=0.0)
  np.testing.assert_array_equal(column, [1, 0])  # ties to the first
  np.testing.assert_allclose(jnp.exp(logp), [0.5, 0.4], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_divides_the_logits(temperature):
  rng = np.random.default_rng(5)
  logits = _logits(20, scale=1.0)
  uniform = rng.random(4000, np.float32)
  batch = jnp.broadcast_to(logits, (len(uniform), len(logits)))
  column, logp = commit.propose(batch, uniform, temperature=temperature)
  np.testing.assert_array_equal(column, _draw(logits / temperature, uniform))
  column = np.asarray(column)
  assert (column != _draw(logits, uniform)).mean() > 0.1
  np.testing.assert_allclose(
    logp, oracles.log_softmax(logits / temperature)[column], atol=1e-5
  )
  expected = oracles.softmax(logits / temperature) * len(uniform)
  counts = np.bincount(column, minlength=20)
  chi2 = ((counts - expected) ** 2 / expected).sum()
  assert abs(chi2 - 19) < 5 * 38**0.5


def test_propose_needs_random_numbers_at_a_temperature():
  with pytest.raises(ValueError, match="noise must be given"):
    commit.propose(jnp.zeros((1, 2)), None, temperature=1.0)


def test_gumbel_numbers_a_column_draw_from_the_tempered_distribution():
  logits = _logits(20, scale=1.0)
  uniform = np.random.default_rng(8).random((4000, 20))
  gumbel = -np.log(-np.log(uniform)).astype(np.float32)
  batch = jnp.broadcast_to(logits, gumbel.shape)
  column, logp = commit.propose(batch, jnp.asarray(gumbel), temperature=2.0)
  np.testing.assert_array_equal(column, (logits + 2.0 * gumbel).argmax(-1))
  tempered = oracles.log_softmax(logits / 2.0)
  np.testing.assert_allclose(logp, tempered[np.asarray(column)], atol=1e-5)
  counts = np.bincount(np.asarray(column), minlength=20)
  expected = np.exp(tempered) * 4000
  chi2 = ((counts - expected) ** 2 / expected).sum()
  assert abs(chi2 - 19) < 5 * 38**0.5


def test_certainty_hand_worked():
  logits = jnp.log(jnp.array([[0.2, 0.5, 0.3], [0.25, 0.25, 0.5]]))
  column = jnp.array([2, 2])

  def certainty(rule):
    return commit.certainty(rule, logits, column)

  np.testing.assert_allclose(
    jnp.exp(certainty("probability")), [0.3, 0.5], rtol=1e-6
  )
  np.testing.assert_allclose(certainty("margin"), [0.2, 0.25], rtol=1e-6)
  entropy = [-0.2 * np.log(5) - 0.5 * np.log(2) + 0.3 * np.log(0.3)]
  entropy.append(-1.5 * np.log(2))  # two quarters of 2 bits, a half of 1 bit
  np.testing.assert_allclose(certainty("entropy"), entropy, rtol=1e-6)


def test_the_rules_rank_positions_differently():
  # Surest by probability, by margin, by entropy.
  probs = np.array(
    [
      [0.5, 0.45, 0.01, 0.01, 0.01, 0.01, 0.01],
      [0.46, 0.09, 0.09, 0.09, 0.09, 0.09, 0.09],
      [0.48, 0.48, 0.008, 0.008, 0.008, 0.008, 0.008],
    ]
  )
  column = jnp.zeros(3, jnp.int32)
  best = {
    rule: int(commit.certainty(rule, jnp.log(probs), column).argmax())
    for rule in ("probability", "margin", "entropy")
  }
  assert best == {"probability": 0, "margin": 1, "entropy": 2}


def test_suppressed_columns_carry_no_entropy():
  logits = jnp.array([[0.0, 0.0, LOWEST, LOWEST]])
  got = commit.certainty("entropy", logits, jnp.zeros(1, jnp.int32))
  np.testing.assert_allclose(got, [-np.log(2)], rtol=1e-6)


def test_an_unknown_rule_is_refused():
  with pytest.raises(ValueError, match="rule must be .* got 'sure'"):
    commit.certainty("sure", jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32))


def test_earlier_blocks_go_first_however_sure_the_later_ones_are():
  rng = np.random.default_rng(7)
  block = np.array([0, 0, 0, 1, 1, 1, 2, 2])
  eligible = rng.random((200, 8)) < 0.7
  confidence = rng.integers(-9, 9, (200, 8)).astype(np.float32)
  count = rng.integers(0, eligible.sum(axis=1) + 1)
  got = commit.commit_k(eligible, confidence, count, block=block)
  for row in range(200):
    order = sorted(
      np.flatnonzero(eligible[row]),
      key=lambda i: (block[i], -confidence[row, i], i),
    )
    assert sorted(order[: count[row]]) == np.flatnonzero(got[row]).tolist()


def test_commit_k_hand_worked():
  got = commit.commit_k(
    jnp.array([[True, False, True, True]]),
    jnp.array([[-3.0, 0.0, -1.0, -3.0]]),
    jnp.array([2]),
  )
  np.testing.assert_array_equal(got, [[True, False, True, False]])


def test_commit_k_commits_exactly_k_of_the_eligible_ties_by_position():
  rng = np.random.default_rng(6)
  eligible = rng.random((200, 12)) < 0.6
  confidence = rng.integers(-3, 0, (200, 12)).astype(np.float32)
  count = rng.integers(0, eligible.sum(axis=1) + 1)
  count[:20] = 0
  count[20:40] = eligible[20:40].sum(axis=1)
  got = np.asarray(jax.jit(commit.commit_k)(eligible, confidence, count))
  assert (got.sum(axis=1) == count).all()
  for row in range(200):
    order = sorted(
      np.flatnonzero(eligible[row]), key=lambda i: (-confidence[row, i], i)
    )
    assert sorted(order[: count[row]]) == np.flatnonzero(got[row]).tolist()
