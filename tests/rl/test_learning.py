"""A small policy learns a reward, and learns nothing from shuffled rewards."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rl_toy

from paradiff import layout as layout_lib
from paradiff.diffusion import model as model_lib
from paradiff.diffusion import sampler
from paradiff.diffusion import settings
from paradiff.rl import advantage
from paradiff.rl import objective
from paradiff.rl import rollout as rollout_lib
from paradiff.rl import rows as rows_lib
from paradiff.rl import score
from paradiff.rl import units as units_lib

LAYOUT = layout_lib.Layout(grid=(2, 2), prompt_len=2, text_len=2)
VOCAB = rl_toy.make_vocab(num_words=5, num_codes=5)
SAMPLER = settings.SamplerConfig(
  num_steps=4,
  num_image_steps=4,
  image_start_rate=0.0,
  text_temperature=1.0,
  image_temperature=1.0,
)
UNITS = units_lib.UnitsConfig(kind="all", num=3)
OBJECTIVE = objective.ObjectiveConfig(kl_anchor="none", aggregation="step_mean")
PROMPTS, GROUP, ITERATIONS = 3, 16, 80
LEARNING_RATE = 1e-2
MODES = ("level", "final", "shuffled")
SEEDS = 3


def _trunk(params, tokens, valid, places):
  """Return logits float32[B, L, V] for hidden states."""
  here = jnp.arange(tokens.shape[1])[None]
  x = params["embed"][here, tokens].reshape(len(tokens), -1)
  return jnp.einsum("bh,hlv->blv", jnp.tanh(x @ params["mix"]), params["head"])


def _head(params, hidden, *, columns):
  return hidden[..., slice(*columns)]


MODEL = model_lib.Model(
  layout=LAYOUT,
  vocab=VOCAB,
  denoiser=model_lib.Denoiser(trunk=_trunk, head=_head),
)


def _draw_params(key):
  length, width, mid = LAYOUT.prefix_len + LAYOUT.answer_len, 8, 32
  # The prompt is one token of many: what differs is drawn larger.
  size = np.full((length, 1, 1), 0.1, np.float32)
  size[LAYOUT.prompt_span] = 1.0
  shapes = (length, VOCAB.size, width), (length * width, mid)
  keys = jax.random.split(key, 3)
  return {
    "embed": size * jax.random.normal(keys[0], shapes[0]),
    "mix": jax.random.normal(keys[1], shapes[1]) / 8.0,
    "head": 0.05 * jax.random.normal(keys[2], (mid, length, VOCAB.size)),
  }


def _wanted():
  """Return the best answer to each prompt, int32[P G, 1, words + codes]."""
  prompt = np.repeat(np.arange(PROMPTS), GROUP)[:, None]
  words = rl_toy.NUM_SPECIAL + (prompt + np.arange(2)) % 5
  codes = VOCAB.code_offset + (2 * prompt + np.arange(4)) % 5
  return np.concatenate([words, codes], axis=1)[:, None]


def _advantages(mode, rewards, key):
  """Return those of MODES[mode]; the reward is the share of right tokens."""
  level, final = (
    advantage.group_advantages(
      advantage.credit(kind, rewards), group_size=GROUP
    )[0]
    for kind in ("level", "final")
  )
  order = jax.vmap(lambda key: jax.random.permutation(key, GROUP))(
    jax.random.split(key, PROMPTS)
  )
  groups = level.reshape(PROMPTS, GROUP, -1)
  shuffled = jnp.take_along_axis(groups, order[..., None], axis=1)
  return jnp.stack([level, final, shuffled.reshape(level.shape)])[mode]


def _train(mode, key):
  """Return the mean reward of each iteration, float32[ITERATIONS]."""
  optimizer = optax.adam(LEARNING_RATE)
  condition = rl_toy.conditions(
    PROMPTS, layout=LAYOUT, vocab=VOCAB, repeat=GROUP
  )
  answer = rl_toy.masked_answers(PROMPTS * GROUP, layout=LAYOUT, vocab=VOCAB)
  capacity = units_lib.capacity(UNITS, SAMPLER, LAYOUT, score_set="committed")
  modalities = score.spans(SAMPLER, MODEL, capacity)
  schedule = sampler.schedule_of(SAMPLER, LAYOUT)

  def iterate(carry, key):
    params, opt_state = carry
    keys = jax.random.split(key, 4)
    units = units_lib.draw(UNITS, schedule, keys[0])
    run = rollout_lib.rollout(
      SAMPLER,
      MODEL,
      params,
      condition,
      answer,
      points=units_lib.points(units, num_steps=SAMPLER.num_steps),
      key=keys[1],
    )
    index = np.r_[LAYOUT.text_index, LAYOUT.image_index]
    hits = run.predicted[:, :, index] == _wanted()
    rewards = hits.mean(axis=-1, dtype=jnp.float32)
    rows = rows_lib.make_rows(
      SAMPLER,
      MODEL,
      condition,
      run,
      units_config=UNITS,
      units=units,
      score_set="committed",
      key=keys[2],
    )
    rows = rows_lib.add_weights(
      OBJECTIVE.aggregation,
      MODEL,
      rows,
      _advantages(mode, rewards, keys[3]),
      num_groups=PROMPTS,
    )
    gradient, _ = jax.grad(
      lambda params: objective.loss(
        OBJECTIVE,
        SAMPLER,
        MODEL,
        params,
        rows,
        modalities,
        anchor=None,
        kl_coef=0.0,
      ),
      has_aux=True,
    )(params)
    updates, opt_state = optimizer.update(gradient, opt_state)
    params = optax.apply_updates(params, updates)
    return (params, opt_state), rewards[:, -1].mean()

  keys = jax.random.split(key, ITERATIONS)
  params = _draw_params(jax.random.fold_in(key, 1))
  return jax.lax.scan(iterate, (params, optimizer.init(params)), keys)[1]


@functools.cache
def _rewards():
  """Return mean rewards float32[mode, seed, ITERATIONS] of all trainings."""
  runs = [(mode, seed) for mode in range(len(MODES)) for seed in range(SEEDS)]
  # Level 0 compiles in half the time and runs ten times as long.
  options = {"xla_backend_optimization_level": 1}
  values = jax.jit(jax.vmap(_train), compiler_options=options)(
    jnp.asarray([mode for mode, _ in runs]),
    jnp.stack([jax.random.key(seed) for _, seed in runs]),
  )
  return np.asarray(values).reshape(len(MODES), SEEDS, ITERATIONS)


def _ends(mode):
  rewards = _rewards()[MODES.index(mode)]
  return rewards[:, :5].mean(axis=1), rewards[:, -5:].mean(axis=1)


def test_credit_by_level_and_by_final_reward_learns_on_every_seed():
  for mode in ("level", "final"):
    first, last = _ends(mode)
    assert first.max() < 0.4, mode
    assert last.min() >= 0.99, mode


def test_rewards_shuffled_within_groups_teach_nothing():
  first, last = _ends("shuffled")
  assert last.max() < first.min() + 0.1
