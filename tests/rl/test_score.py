"""Scored log-probabilities are those that the sampler drew with."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rl_toy
import toy
import toy_runs as runs

from paradiff import layout as layout_lib
from paradiff.diffusion import guidance
from paradiff.rl import rollout as rollout_lib
from paradiff.rl import rows as rows_lib
from paradiff.rl import score
from paradiff.rl import units as units_lib

CONFIG, MODEL = rl_toy.SAMPLER, rl_toy.model()


def _score(config, model, modalities, params, rows, chunk_len, anchor):
  """Return gathered positions and scores by modality."""
  found = score.gather(config, model, params, rows, modalities)
  there = found
  if anchor is not None:
    there = score.gather(config, model, anchor, rows, modalities)
  return {
    span.name: (
      found[span.name],
      score.score(
        config,
        model,
        params,
        span,
        found[span.name],
        anchor=None if anchor is None else (anchor, there[span.name].hidden),
        chunk_len=chunk_len,
      ),
    )
    for span in modalities
  }


_jit_score = jax.jit(
  _score, static_argnums=(0, 1, 2, 5), compiler_options=runs.FAST
)


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=runs.FAST)
def _total_and_gradient(modalities, chunk_len, params, rows, anchor):
  """Return ((sum of all scores, scores), gradients of the sum)."""

  def total(params, anchor):
    found = _score(CONFIG, MODEL, modalities, params, rows, chunk_len, anchor)
    scores = [found[name][1] for name in sorted(found)]
    return sum(x.sum() for x in jax.tree.leaves(scores)), scores

  return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(params, anchor)


def _placed(modalities, found, name, *, layout=rl_toy.LAYOUT):
  """Put scores back where they belong: float[n, A], NaN elsewhere."""
  size = len(jax.tree.leaves(found)[0])
  out = np.full((size, layout.answer_len), np.nan)
  for span in modalities:
    gathered, scores = found[span.name]
    row, column = np.nonzero(np.asarray(gathered.is_real))
    place = np.asarray(gathered.place)[row, column]
    out[row, np.asarray(span.index)[place]] = np.asarray(getattr(scores, name))[
      row, column
    ]
  return out


def _guided():
  return (
    runs.ALL_GUIDED,
    toy.model(),
    toy.params(),
    toy.conditions(runs.SIZE),
    toy.partial_answers(runs.SIZE),
  )


def _unguided():
  answer = rl_toy.partial_answers()
  condition = rl_toy.conditions(1, repeat=len(answer))
  return CONFIG, MODEL, rl_toy.draw_params(), condition, answer


@pytest.mark.parametrize("case", [_unguided, _guided])
def test_recomputed_log_probability_is_that_of_the_sampler(case):
  config, model, params, condition, answer = case()
  units_config, units = rl_toy.all_steps(config)
  run, rows = rl_toy.rolled(
    config,
    model,
    units_config,
    "committed",
    params,
    condition,
    answer,
    units=units,
    key=runs.key(),
  )
  modalities = rl_toy.spans(config, model)
  found = _jit_score(config, model, modalities, params, rows, 4096, None)
  got = _placed(modalities, found, "logp", layout=model.layout)
  got = got.reshape(len(answer), config.num_steps, -1)
  chosen = np.asarray(rollout_lib.chosen(model, run.trajectory))
  when = np.asarray(run.trajectory.commit_step)
  # Each token at the step that committed it, and nowhere else.
  at_step = np.arange(config.num_steps)[None, :, None] == when[:, None]
  expected = np.where(
    at_step & chosen[:, None],
    np.asarray(run.trajectory.commit_logp)[:, None],
    np.nan,
  )
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
  assert np.isfinite(got).sum() == chosen.sum() > 20


@functools.cache
def _run():
  answer = rl_toy.partial_answers()
  condition = rl_toy.conditions(1, repeat=len(answer))
  run = rl_toy.rollout(
    CONFIG,
    MODEL,
    rl_toy.draw_params(),
    condition,
    answer,
    points=jnp.arange(1, CONFIG.num_steps + 1),
    key=jax.random.key(5),
  )
  return condition, run


_make_rows = jax.jit(
  rows_lib.make_rows,
  static_argnums=(0, 1),
  static_argnames=("units_config", "score_set"),
  compiler_options=runs.FAST,
)


@functools.cache
def _rolled(kind, score_set="committed"):
  """Return the rows of runs that begin anyhow, and their capacity."""
  units_config = units_lib.UnitsConfig(kind=kind, num=2)
  condition, run = _run()
  units = units_lib.draw(units_config, rl_toy.schedule(), jax.random.key(4))
  points = units_lib.points(units, num_steps=CONFIG.num_steps)
  rows = _make_rows(
    CONFIG,
    MODEL,
    condition,
    dataclasses.replace(run, predicted=run.predicted[:, points - 1]),
    units_config=units_config,
    units=units,
    score_set=score_set,
    key=jax.random.key(6),
  )
  return rows, units_lib.capacity(
    units_config, CONFIG, rl_toy.LAYOUT, score_set=score_set
  )


@pytest.mark.parametrize("kind", units_lib.KINDS)
def test_gathering_loses_no_scored_token(kind):
  _assert_all_gathered(*_rolled(kind))


def test_gathering_loses_no_candidate():
  _assert_all_gathered(*_rolled("all", score_set="candidates"))


def _assert_all_gathered(rows, capacity):
  modalities = score.spans(CONFIG, MODEL, capacity)
  assert len(modalities) == 2
  found = jax.jit(
    score.gather, static_argnums=(0, 1, 4), compiler_options=runs.FAST
  )(CONFIG, MODEL, rl_toy.draw_params(), rows, modalities)
  for span in modalities:
    got = found[span.name]
    assert got.place.shape[1] == span.capacity
    index = np.asarray(span.index)
    for row in range(len(rows["scored"])):
      is_real = np.asarray(got.is_real[row])
      place = np.asarray(got.place[row])[is_real]
      scored = np.flatnonzero(np.asarray(rows["scored"])[row, index])
      np.testing.assert_array_equal(place, scored)
      np.testing.assert_array_equal(
        np.asarray(got.column[row])[is_real] + span.columns[0],
        np.asarray(rows["target"])[row, index[scored]],
      )
  assert rows["scored"].any()


def test_scores_equal_numpy():
  rows, capacity = _rolled("slices")
  params, anchor = rl_toy.draw_params(), rl_toy.draw_params(seed=1)
  modalities = score.spans(CONFIG, MODEL, capacity)
  found = _jit_score(CONFIG, MODEL, modalities, params, rows, 4096, anchor)
  logp, other = (
    rl_toy.numpy_logp(CONFIG, MODEL, rl_toy.numpy_logits(tree, rows))
    for tree in (params, anchor)
  )
  scored = np.asarray(rows["scored"])
  target = np.asarray(rows["target"])[..., None]
  picked = [np.take_along_axis(x, target, -1)[..., 0] for x in (logp, other)]
  allowed = np.isfinite(logp)
  probs = np.exp(logp)
  with np.errstate(invalid="ignore"):
    entropy = -np.where(allowed, probs * logp, 0.0).sum(-1)
    kl = np.where(allowed, probs * (logp - other), 0.0).sum(-1)
  for name, expected in (
    ("logp", picked[0]),
    ("anchor_logp", picked[1]),
    ("entropy", entropy),
    ("kl", kl),
  ):
    got = _placed(modalities, found, name)
    np.testing.assert_allclose(
      got[scored], expected[scored], rtol=0, atol=2e-5, err_msg=name
    )
    assert np.isnan(got[~scored]).all()
  assert kl[scored].min() > 1e-3


def test_places_without_a_token_have_scores_of_0_and_no_gradient():
  rows, capacity = _rolled("slices")
  rows = rows | {"scored": jnp.zeros_like(rows["scored"])}
  modalities = score.spans(CONFIG, MODEL, capacity)
  (value, _), gradient = _total_and_gradient(
    modalities, 4096, rl_toy.draw_params(), rows, rl_toy.draw_params(seed=1)
  )
  assert value == 0.0
  for leaf in jax.tree.leaves(gradient):
    np.testing.assert_array_equal(leaf, 0.0)


def test_chunks_change_neither_scores_nor_gradients():
  rows, capacity = _rolled("slices")
  modalities = score.spans(CONFIG, MODEL, capacity)
  got, expected = (
    _total_and_gradient(
      modalities,
      chunk_len,
      rl_toy.draw_params(),
      rows,
      rl_toy.draw_params(seed=1),
    )
    for chunk_len in (7, 4096)
  )
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(expected))
  rl_toy.assert_close(got, expected, atol=2e-4)
  of_policy, of_anchor = expected[1]
  assert all((x != 0.0).any() for x in jax.tree.leaves(of_policy))
  assert all((x == 0.0).all() for x in jax.tree.leaves(of_anchor))


def test_spans_are_the_modalities_that_are_scored():
  config = dataclasses.replace(
    CONFIG, image_guidance=guidance.Guidance(image=2.0)
  )
  text, image = score.spans(config, MODEL, (2, 3))
  layout, vocab = rl_toy.LAYOUT, rl_toy.VOCAB
  assert (text.name, text.index, text.columns, text.capacity) == (
    "text",
    tuple(layout.text_index.tolist()),
    (0, vocab.text_size),
    2,
  )
  assert (image.name, image.index, image.columns, image.capacity) == (
    "image",
    tuple(layout.image_index.tolist()),
    (vocab.code_offset, vocab.code_offset + vocab.codebook_size),
    3,
  )
  assert (text.temperature, image.temperature) == (0.7, 1.3)
  assert not text.scales.branches and image.scales.branches == ("image",)
  assert score.spans(config, MODEL, (0, 3)) == (image,)
  picture = layout_lib.Layout(
    grid=(2, 2), prompt_len=2, text_len=0, answer=("image",)
  )
  only = score.spans(config, rl_toy.model(picture), (0, 3))
  assert [span.name for span in only] == ["image"]
