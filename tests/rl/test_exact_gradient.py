"""The gradient of the objective is that of the expected reward, exactly.

Every run of a small sampler is listed with its probability, so that the
expected reward is a sum, which is differentiated as it stands. The objective
gets the same runs as rollouts, their probabilities in their advantages.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rl_toy

from paradiff import layout as layout_lib
from paradiff.diffusion import sampler
from paradiff.diffusion import settings
from paradiff.diffusion import trajectory as trajectory_lib
from paradiff.rl import objective
from paradiff.rl import rollout as rollout_lib
from paradiff.rl import rows as rows_lib

LAYOUT = layout_lib.Layout(grid=(1, 2), prompt_len=2, text_len=2)
VOCAB = rl_toy.make_vocab(num_words=2, num_codes=3)
MODEL = rl_toy.model(LAYOUT, VOCAB)
STEPS = 2  # each commits a word and a code
CONFIDENT = settings.SamplerConfig(
  num_steps=STEPS,
  num_image_steps=STEPS,
  image_start_rate=0.0,
  text_temperature=0.8,
  image_temperature=1.3,
)
RANDOM = dataclasses.replace(
  CONFIDENT, text_confidence="random", image_confidence="random"
)
CONFIGS = {"random": RANDOM, "confidence": CONFIDENT}
# Proposals of the first step, orders, and proposals of the second at most.
NUM_RUNS = 81 * 4 * 9
OPEN = np.r_[LAYOUT.image_index, LAYOUT.text_index]
CODES = tuple(range(*VOCAB.code_columns))
WORDS = (VOCAB.eos_id, *range(rl_toy.NUM_SPECIAL, VOCAB.text_size))
CONDITION = rl_toy.conditions(1, layout=LAYOUT, vocab=VOCAB)


def _params(seed):
  return rl_toy.draw_params(seed=seed, layout=LAYOUT, vocab=VOCAB, width=4)


@dataclasses.dataclass
class Run:
  """A run of the sampler up to some step."""

  canvases: list  # before each step and after the last, tuples
  proposals: list  # of each step, {place: token}; what was drawn freely
  predicted: list  # after each step
  when: dict  # place: the step that committed it
  orders: float = 1.0  # probability of the orders


def _picks(order, places, proposal, canvas, logp):
  """Yield (place, probability) of what a modality commits at a step."""
  if order == "random":
    for place in places:
      yield place, 1.0 / len(places)
    return
  # The surest proposal, by its probability at temperature 1.
  yield max(places, key=lambda i: logp(canvas, i)[proposal[i]]), 1.0


def _runs(order, logp):
  """Return every run; logp(canvas, place) maps ids to log-probabilities."""
  start = tuple(
    np.asarray(rl_toy.masked_answers(1, layout=LAYOUT, vocab=VOCAB))[0]
  )
  runs = [Run([start], [], [], {})]
  for step in range(STEPS):
    longer = []
    for run in runs:
      canvas = run.canvases[-1]
      masked = [int(i) for i in OPEN if canvas[i] == VOCAB.mask_id]
      first, second = LAYOUT.text_index
      ended = [
        i for i in masked if i == second and canvas[first] == VOCAB.eos_id
      ]
      free = [i for i in masked if i not in ended]
      ids = [WORDS if i in LAYOUT.text_index else CODES for i in free]
      for drawn in itertools.product(*ids):
        proposal = dict(zip(free, drawn, strict=True))
        shown = proposal | dict.fromkeys(ended, VOCAB.eos_id)
        words = [i for i in masked if i in LAYOUT.text_index]
        codes = [i for i in masked if i not in words]
        pick_words = (
          [(ended[0], 1.0)]
          if ended
          else list(_picks(order, words, proposal, canvas, logp))
        )
        pick_codes = list(_picks(order, codes, proposal, canvas, logp))
        for word, code in itertools.product(pick_words, pick_codes):
          after, predicted = list(canvas), list(canvas)
          for place, token in shown.items():
            predicted[place] = token
          after[word[0]], after[code[0]] = shown[word[0]], shown[code[0]]
          longer.append(
            Run(
              [*run.canvases, tuple(after)],
              [*run.proposals, proposal],
              [*run.predicted, tuple(predicted)],
              run.when | {word[0]: step, code[0]: step},
              run.orders * word[1] * code[1],
            )
          )
    runs = longer
  return runs


def _untempered(params):
  """Return logp(canvas, place) of `_runs`."""

  @functools.cache
  def all_logp(canvas):
    rows = {
      "prefix": np.asarray(CONDITION.prefix),
      "canvas": np.array([canvas]),
    }
    plain = dataclasses.replace(
      CONFIDENT, text_temperature=1.0, image_temperature=1.0
    )
    logits = rl_toy.numpy_logits(params, rows)
    return rl_toy.numpy_logp(plain, MODEL, logits)[0]

  return lambda canvas, place: all_logp(canvas)[place]


def _reward(tokens):
  """Return a reward float64[n] with no structure, of answers int[n, A]."""
  rng = np.random.default_rng(5)
  table = rng.uniform(size=(VOCAB.size,) * len(OPEN))
  return table[tuple(np.asarray(tokens)[:, OPEN].T)]


def _final(runs):
  return np.array([run.canvases[-1] for run in runs])


def _expected_reward(runs):
  """Return J(params) and the probabilities float32[n], differentiable."""
  places = sorted({c for run in runs for c in run.canvases[:-1]})
  number = {canvas: i for i, canvas in enumerate(places)}
  picks, owner = [], []
  for i, run in enumerate(runs):
    for canvas, proposal in zip(run.canvases, run.proposals, strict=False):
      for place, token in proposal.items():
        picks.append((number[canvas], place, token))
        owner.append(i)
  pick, owner = np.array(picks).T, np.array(owner)
  orders = jnp.asarray([run.orders for run in runs], jnp.float32)
  reward = jnp.asarray(_reward(_final(runs)), jnp.float32)
  allowed = np.zeros((LAYOUT.answer_len, VOCAB.size), bool)
  allowed[np.ix_(LAYOUT.text_index, WORDS)] = True
  allowed[np.ix_(LAYOUT.image_index, CODES)] = True
  temperature = np.ones((1, LAYOUT.answer_len, 1), np.float32)
  temperature[:, LAYOUT.text_index] = CONFIDENT.text_temperature
  temperature[:, LAYOUT.image_index] = CONFIDENT.image_temperature

  def expected(params):
    prefix = np.repeat(CONDITION.prefix, len(places), axis=0)
    tokens = jnp.concatenate([prefix, np.array(places)], axis=1)
    hidden = MODEL.denoiser.trunk(params, tokens, None, None)
    logits = hidden[:, LAYOUT.prefix_len :] @ params["head"] / temperature
    logp = jax.nn.log_softmax(jnp.where(allowed[None], logits, -1e9))
    sums = jax.ops.segment_sum(logp[tuple(pick)], owner, len(runs))
    probs = orders * jnp.exp(sums)
    return (probs * reward).sum(), probs

  return expected


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=rl_toy.FAST)
def _rows(config, score_set, rollout, advantages):
  """Cut runs into rows; each token weighs 1 / their number."""
  units_config, units = rl_toy.all_steps(config)
  rows = rows_lib.make_rows(
    config,
    MODEL,
    jax.tree.map(lambda x: jnp.repeat(x, NUM_RUNS, axis=0), CONDITION),
    rollout,
    units_config=units_config,
    units=units,
    score_set=score_set,
    key=jax.random.key(0),
  )
  return rows_lib.add_weights(
    "token_mean", MODEL, rows, advantages, num_groups=1
  )


def _surrogate_gradient(config, params, runs, weights, *, score_set):
  """Return the objective's gradient of runs with advantages float[n]."""
  # As many for all orders and policies, so that programs are shared.
  extra = NUM_RUNS - len(runs)
  runs = [*runs, *[runs[0]] * extra]
  weights = np.pad(weights, (0, extra))
  final = _final(runs)
  step = np.full(final.shape, -1)
  for i, run in enumerate(runs):
    for place, when in run.when.items():
      step[i, place] = when
  predicted = np.array([[*run.predicted, run.predicted[-1]] for run in runs])
  rollout = rollout_lib.Rollout(
    trajectory=trajectory_lib.Trajectory(
      tokens=jnp.asarray(final, jnp.int32),
      commit_step=jnp.asarray(step, jnp.int32),
      commit_logp=jnp.zeros(final.shape, jnp.float32),
      num_steps=STEPS,
    ),
    predicted=jnp.asarray(predicted, jnp.int32),
  )
  advantages = np.repeat(weights[:, None], STEPS, axis=1).astype(np.float32)
  rows = _rows(config, score_set, rollout, advantages)
  (_, _), gradient = rl_toy.loss_and_gradient(
    objective.ObjectiveConfig(
      kl_anchor="none", aggregation="token_mean", score_set=score_set
    ),
    config,
    MODEL,
    rl_toy.spans(config, MODEL),
    params,
    rows,
    None,
    0.0,
  )
  # From the mean over tokens to their sum.
  return _flat(gradient) * -np.float64(rows["scored"].sum())


@functools.cache
def _exact(order, seed):
  params = _params(seed)
  runs = _runs(order, _untempered(params))
  of = jax.jit(
    jax.value_and_grad(_expected_reward(runs), has_aux=True),
    compiler_options=rl_toy.FAST,
  )
  (value, probs), gradient = of(params)
  return params, runs, float(value), np.asarray(probs), gradient


def _flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def _compare(order, score_set, *, baseline, seed=0):
  """Return the relative error and the cosine of the two gradients."""
  params, runs, value, probs, exact = _exact(order, seed)
  reward = _reward(_final(runs)) - (value if baseline else 0.0)
  got = _surrogate_gradient(
    CONFIGS[order], params, runs, probs * reward, score_set=score_set
  )
  exact = _flat(exact)
  error = np.linalg.norm(got - exact) / np.linalg.norm(exact)
  norms = np.linalg.norm(got) * np.linalg.norm(exact)
  return error, got @ exact / norms


@pytest.mark.parametrize("order", CONFIGS)
def test_the_listed_runs_are_those_of_the_sampler(order):
  params, runs, value, probs, _ = _exact(order, 0)
  assert probs.sum() == pytest.approx(1.0, abs=1e-5)
  size = 4096
  got = jax.jit(
    sampler.sample, static_argnums=(0, 1), compiler_options=rl_toy.FAST
  )(
    CONFIGS[order],
    MODEL,
    params,
    jax.tree.map(lambda x: jnp.repeat(x, size, axis=0), CONDITION),
    rl_toy.masked_answers(size, layout=LAYOUT, vocab=VOCAB),
    key=jax.random.key(1),
  )
  rewards = _reward(got.tokens)
  error = rewards.std() / np.sqrt(size)
  assert rewards.mean() == pytest.approx(value, abs=4.0 * error)
  # By first committed place and token as well.
  share = {}
  for run, prob in zip(runs, probs, strict=True):
    share[run.canvases[1]] = share.get(run.canvases[1], 0.0) + prob
  first = np.asarray(
    trajectory_lib.canvas_at(got, 1, mask_id=VOCAB.mask_id)
  ).tolist()
  counts = {}
  for canvas in map(tuple, first):
    counts[canvas] = counts.get(canvas, 0) + 1
  assert set(counts) <= set(share)
  for canvas, prob in share.items():
    deviation = np.sqrt(size * prob * (1.0 - prob)) + 1.0
    assert abs(counts.get(canvas, 0) - size * prob) < 5.0 * deviation


@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("score_set", rows_lib.SCORE_SETS)
def test_random_order_has_the_exact_gradient(score_set, baseline):
  error, _ = _compare("random", score_set, baseline=baseline)
  assert error < 1e-4


@pytest.mark.parametrize("baseline", [False, True])
def test_candidates_have_the_exact_gradient_of_confident_order(baseline):
  for seed in range(3):
    error, _ = _compare(
      "confidence", "candidates", baseline=baseline, seed=seed
    )
    assert error < 1e-4


def test_committed_tokens_are_biased_in_confident_order_and_a_baseline_helps():
  errors, cosines = [], []
  for seed in range(3):
    error, _ = _compare("confidence", "committed", baseline=False, seed=seed)
    errors.append(error)
    _, cosine = _compare("confidence", "committed", baseline=True, seed=seed)
    cosines.append(cosine)
  assert min(errors) > 0.2
  assert min(cosines) > 0.8
