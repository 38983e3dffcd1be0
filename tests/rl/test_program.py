"""One program rolls out and learns, whatever is drawn, on any mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rl_toy
import toy
import toy_runs as runs

from paradiff import sharding
from paradiff.models import transformer
from paradiff.rl import objective
from paradiff.rl import rollout as rollout_lib
from paradiff.rl import rows as rows_lib
from paradiff.rl import score
from paradiff.rl import units as units_lib

UNITS = units_lib.UnitsConfig(kind="stratified", num=2)
OBJECTIVE = objective.ObjectiveConfig(kl_anchor="none")


@functools.partial(jax.jit, compiler_options=rl_toy.FAST)
def _iterate(params, anchor, condition, answer, units, key):
  """Roll out, cut, weigh and differentiate in one program."""
  model, sampler_config = toy.model(), runs.SAMPLED
  run = rollout_lib.rollout(
    sampler_config,
    model,
    params,
    condition,
    answer,
    points=units_lib.points(units, num_steps=sampler_config.num_steps),
    key=key,
  )
  rows = rows_lib.make_rows(
    sampler_config,
    model,
    condition,
    run,
    units_config=UNITS,
    units=units,
    score_set="committed",
    key=key,
  )
  advantages = jnp.where(run.predicted[:, :2, 3] % 2 == 0, 1.0, -1.0)
  rows = rows_lib.add_weights(
    OBJECTIVE.aggregation, model, rows, advantages, num_groups=2
  )
  capacity = units_lib.capacity(
    UNITS, sampler_config, toy.LAYOUT, score_set="committed"
  )
  value_and_grad = jax.value_and_grad(
    lambda params: objective.loss(
      OBJECTIVE,
      sampler_config,
      model,
      params,
      rows,
      score.spans(sampler_config, model, capacity),
      anchor=anchor,
      kl_coef=0.1,
    ),
    has_aux=True,
  )
  return run.trajectory.tokens, rows, value_and_grad(params)


def _units(seed):
  schedule = rl_toy.schedule(runs.SAMPLED, toy.LAYOUT)
  return units_lib.draw(UNITS, schedule, jax.random.key(seed))


def _inputs(put=lambda tree: tree):
  return (
    put(toy.params()),
    put(toy.params(seed=1)),
    toy.conditions(runs.SIZE),
    toy.partial_answers(runs.SIZE),
  )


@functools.cache
def _expected():
  return _iterate(*_inputs(), _units(0), runs.key())


def test_new_units_and_keys_need_no_new_program():
  _expected()
  before = _iterate._cache_size()
  starts = {tuple(_units(0).start.tolist())}
  for seed in (1, 2, 3):
    units = _units(seed)
    starts.add(tuple(units.start.tolist()))
    tokens, _, _ = _iterate(*_inputs(), units, runs.key(seed))
    assert (tokens != _expected()[0]).any()
  assert len(starts) > 1
  assert _iterate._cache_size() == before


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_rollout_rows_and_gradient_do_not_depend_on_the_mesh(shape):
  mesh = toy.mesh(shape)
  places = sharding.shardings(mesh, transformer.logical_axes(toy.CONFIG))
  with jax.set_mesh(mesh):
    tokens, rows, found = _iterate(
      *_inputs(lambda tree: jax.device_put(tree, places)),
      _units(0),
      runs.key(),
    )
  expected_tokens, expected_rows, expected = _expected()
  np.testing.assert_array_equal(tokens, expected_tokens)
  rl_toy.assert_close(rows, expected_rows, atol=1e-6)
  rl_toy.assert_close(found, expected, atol=5e-5)
  largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected[1]))
  assert largest > 1e-2
