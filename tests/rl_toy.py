"""A small network and jitted pieces of ParaRL that several tests share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles

from paradiff import layout as layout_lib
from paradiff import sequence as sequence_lib
from paradiff import vocab as vocab_lib
from paradiff.diffusion import model as model_lib
from paradiff.diffusion import sampler
from paradiff.diffusion import settings
from paradiff.rl import objective
from paradiff.rl import rollout as rollout_lib
from paradiff.rl import rows as rows_lib
from paradiff.rl import score
from paradiff.rl import units as units_lib

FAST = {"xla_backend_optimization_level": 0}
NUM_SPECIAL = 7  # ids below the words


def make_vocab(*, num_words, num_codes):
  return vocab_lib.Vocab(
    size=NUM_SPECIAL + num_words + num_codes,
    text_size=NUM_SPECIAL + num_words,
    code_offset=NUM_SPECIAL + num_words,
    codebook_size=num_codes,
    mask_id=3,
    bos_id=1,
    eos_id=2,
    soi_id=0,
    eoi_id=4,
    edit_id=5,
    generate_id=6,
  )


LAYOUT = layout_lib.Layout(grid=(2, 2), prompt_len=2, text_len=3)
VOCAB = make_vocab(num_words=4, num_codes=3)
# Both temperatures differ from 1; no step is idle.
SAMPLER = settings.SamplerConfig(
  num_steps=4,
  num_image_steps=3,
  image_start_rate=0.3,
  text_temperature=0.7,
  image_temperature=1.3,
)


@functools.cache
def model(layout=LAYOUT, vocab=VOCAB):
  """Return a network of one hidden layer that sees the whole sequence."""

  def trunk(params, tokens, valid, places):
    x = params["embed"][tokens]
    return jnp.tanh(jnp.einsum("bld,ldmk->bmk", x, params["mix"]))

  def head(params, hidden, *, columns):
    return hidden @ params["head"][:, slice(*columns)]

  denoiser = model_lib.Denoiser(trunk=trunk, head=head)
  return model_lib.Model(layout=layout, vocab=vocab, denoiser=denoiser)


def draw_params(*, seed=0, layout=LAYOUT, vocab=VOCAB, width=8):
  rng = np.random.default_rng(seed)
  length = layout.prefix_len + layout.answer_len
  shapes = {
    "embed": (vocab.size, width),
    "mix": (length, width, length, width),
    "head": (width, vocab.size),
  }
  scales = {"embed": 1.0, "mix": 1.5 / np.sqrt(length * width), "head": 0.8}
  return {
    name: jnp.asarray(scales[name] * rng.standard_normal(shape), jnp.float32)
    for name, shape in shapes.items()
  }


def numpy_logits(params, rows):
  """Return float64[n, A, V]: the network of `model`, by numpy."""
  get = {name: np.asarray(a, np.float64) for name, a in params.items()}
  tokens = np.concatenate([rows["prefix"], rows["canvas"]], axis=1)
  mixed = np.einsum("bld,ldmk->bmk", get["embed"][tokens], get["mix"])
  hidden = np.tanh(mixed)[:, rows["prefix"].shape[1] :]
  return hidden @ get["head"]


def numpy_logp(config, model, logits):
  """Return float64[n, A, V], natural logs as the sampler draws.

  Outside a modality's ids, and at places of neither, they are -inf.
  """
  layout, vocab = model.layout, model.vocab
  logp = np.full(logits.shape, -np.inf)
  words = [
    i
    for i in range(vocab.text_size)
    if i == vocab.eos_id or i not in vocab.special_ids.values()
  ]
  codes = range(vocab.code_offset, vocab.code_offset + vocab.codebook_size)
  for index, ids, temperature in (
    (layout.text_index, words, config.text_temperature),
    (layout.image_index, codes, config.image_temperature),
  ):
    where = np.ix_(range(len(logits)), index, ids)
    logp[where] = oracles.log_softmax(logits[where] / temperature)
  return logp


def conditions(num, *, layout=LAYOUT, vocab=VOCAB, repeat=1):
  """Return prompts 0 ... num - 1, each `repeat` times in a row."""
  prefix, valid = zip(
    *(
      sequence_lib.encode_prefix(
        layout, vocab, prompt_ids=[NUM_SPECIAL + i], source_codes=None
      )
      for i in range(num)
      for _ in range(repeat)
    ),
    strict=True,
  )
  return sequence_lib.Condition(
    prefix=jnp.asarray(np.stack(prefix)), valid=jnp.asarray(np.stack(valid))
  )


def masked_answers(num, *, layout=LAYOUT, vocab=VOCAB):
  """Return answers int32[num, A] of which nothing is given."""
  answer = sequence_lib.encode_answer(layout, vocab)
  return jnp.asarray(np.tile(answer, (num, 1)))


def partial_answers(*, layout=LAYOUT, vocab=VOCAB):
  """Return answers with every number of words and of codes masked."""
  answers = []
  for words in range(layout.text_len + 1):
    for codes in range(layout.image_len + 1):
      answer = np.array(masked_answers(1, layout=layout, vocab=vocab)[0])
      answer[layout.text_index[words:]] = NUM_SPECIAL
      answer[layout.image_index[: layout.image_len - codes]] = vocab.code_offset
      answers.append(answer)
  return jnp.asarray(np.stack(answers))


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=FAST)
def rollout(config, model, params, condition, answer, *, points, key):
  return rollout_lib.rollout(
    config, model, params, condition, answer, points=points, key=key
  )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), compiler_options=FAST)
def rolled(
  config,
  model,
  units_config,
  score_set,
  params,
  condition,
  answer,
  *,
  units,
  key,
):
  """Roll out and cut into rows."""
  run = rollout_lib.rollout(
    config,
    model,
    params,
    condition,
    answer,
    points=units_lib.points(units, num_steps=config.num_steps),
    key=key,
  )
  rows = rows_lib.make_rows(
    config,
    model,
    condition,
    run,
    units_config=units_config,
    units=units,
    score_set=score_set,
    key=jax.random.fold_in(key, 1),
  )
  return run, rows


def schedule(config=SAMPLER, layout=LAYOUT):
  """Return the tables of a run."""
  return sampler.schedule_of(config, layout)


def all_steps(config):
  """Return isolated units of all steps of a clock without idle steps."""
  steps = jnp.arange(config.num_steps, dtype=jnp.int32)
  return (
    units_lib.UnitsConfig(kind="all", num=config.num_steps),
    units_lib.Units(start=steps, stop=steps + 1),
  )


def spans(config, model):
  """Return the modalities with room for every token."""
  layout = model.layout
  return score.spans(config, model, (layout.text_len, layout.image_len))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), compiler_options=FAST)
def loss_and_gradient(
  config, sampler_config, model, modalities, params, rows, anchor, kl_coef
):
  """Return ((loss, metrics), gradient)."""

  def of(params):
    return objective.loss(
      config,
      sampler_config,
      model,
      params,
      rows,
      modalities,
      anchor=anchor,
      kl_coef=kl_coef,
    )

  return jax.value_and_grad(of, has_aux=True)(params)


def assert_close(got, expected, *, atol):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=atol, equal_nan=False)
