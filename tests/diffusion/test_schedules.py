"""How the masked share falls: the four rates, their tables, runs with each."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
import toy
import toy_published as published
import toy_runs as runs

from paradiff import layout as layout_lib
from paradiff.diffusion import sampler
from paradiff.diffusion import schedule
from paradiff.diffusion import settings

LAYOUT = layout_lib.Layout(
  grid=(4, 5), prompt_len=1, text_len=11, prefix=("bos", "prompt")
)
POWERS = [0.5, 1.0, 2.0, 3.0]


def _published(name, t, power=2.0):
  """Return the share masked when a share t of the clock has passed.

  As MMaDA defines it, before it cuts off at 1e-6.
  """

  def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))

  match name:
    case "cosine":
      return math.cos(t * math.pi / 2)
    case "linear":
      return 1.0 - t
    case "pow":
      return 1.0 - t**power
    case "sigmoid":
      top = sigmoid(3.0)
      return (top - sigmoid(6.0 * t - 3.0)) / (top - sigmoid(-3.0))


def _left(name, masks, done, num_steps, power=2.0):
  """Return how many of `masks` stay after `done` of `num_steps` steps."""
  if done == num_steps:
    return 0
  # A whole number may be missed by a rounding.
  return math.floor(masks * _published(name, done / num_steps, power) + 1e-9)


@pytest.mark.parametrize("name", schedule.MASK_RATES)
@pytest.mark.parametrize("power", POWERS)
def test_mask_rates_are_the_published_ones_of_the_time_left(name, power):
  u = np.linspace(0.0, 1.0, 101)
  got = schedule.mask_rate(name, u, power=power)
  assert got.dtype == np.float64
  expected = [_published(name, 1.0 - x, power) for x in u]
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_mask_rates_hand_worked():
  def at(name, u, **more):
    return float(schedule.mask_rate(name, u, **more))

  assert at("cosine", 1 / 3) == pytest.approx(0.5)
  assert at("linear", 0.3) == 0.3
  assert at("pow", 0.5) == 0.75
  assert at("pow", 0.5, power=3.0) == 0.875
  assert at("pow", 0.25, power=0.5) == pytest.approx(1 - 0.75**0.5)
  # sigmoid(-1.5) = 0.18243 between sigmoid(-3) = 0.04743 and 0.95257.
  assert at("sigmoid", 0.25) == pytest.approx(0.14915, abs=1e-5)
  assert at("sigmoid", 0.5) == pytest.approx(0.5)


@pytest.mark.parametrize("name", schedule.MASK_RATES)
@pytest.mark.parametrize("power", POWERS)
def test_all_is_masked_at_the_start_and_nothing_in_the_end(name, power):
  u = np.linspace(0.0, 1.0, 1001)
  got = schedule.mask_rate(name, u, power=power)
  assert got[0] == 0.0
  assert got[-1] == pytest.approx(1.0, abs=1e-15)
  assert (np.diff(got) > 0.0).all()


def test_an_unknown_rate_is_refused():
  with pytest.raises(ValueError, match="mask rate must be .* got 'cubic'"):
    schedule.mask_rate("cubic", 0.5)


@pytest.mark.parametrize("name", schedule.MASK_RATES)
@pytest.mark.parametrize("power", [0.5, 2.0])
@pytest.mark.parametrize("num_steps", [1, 6, 17])
def test_tables_hold_the_floor_of_the_share_of_the_initial_masks(
  name, power, num_steps
):
  text = schedule.text_table(
    num_steps=num_steps,
    text_steps=num_steps,
    text_len=11,
    rate=name,
    power=power,
  )
  image = schedule.image_table(
    num_steps=num_steps, image_len=11, rate=name, power=power
  )
  for step in range(num_steps):
    expected = [_left(name, m, step + 1, num_steps, power) for m in range(12)]
    assert text[step].tolist() == expected
    assert image[step].tolist() == expected


@pytest.mark.parametrize("name", schedule.MASK_RATES)
@pytest.mark.parametrize("text_end_rate", [0.3, 1.0])
@pytest.mark.parametrize(("num_steps", "text_len"), [(6, 11), (40, 11), (3, 1)])
def test_every_schedule_commits_all_masks_whatever_their_number(
  name, text_end_rate, num_steps, text_len
):
  config = settings.SamplerConfig(
    num_steps=num_steps,
    num_image_steps=2,
    text_schedule=name,
    image_schedule=name,
    text_end_rate=text_end_rate,
  )
  layout = dataclasses.replace(LAYOUT, text_len=text_len)
  plan = sampler.schedule_of(config, layout)
  assert plan.text_commits.min() >= 0
  np.testing.assert_array_equal(
    plan.text_commits.sum(axis=0), np.arange(text_len + 1)
  )
  assert (np.diff(plan.image_left, axis=0) <= 0).all()
  assert (plan.image_left[-1] == 0).all()
  # The text is complete in time.
  by = math.ceil(text_end_rate * num_steps)
  assert (plan.text_commits[plan.step >= by] == 0).all()


RUNS = [("pow", 3.0), ("sigmoid", 2.0), ("linear", 2.0), ("cosine", 2.0)]


@pytest.mark.parametrize(("name", "power"), RUNS)
def test_a_run_commits_the_counts_of_its_schedule_and_leaves_no_mask(
  name, power
):
  config = settings.SamplerConfig(
    num_steps=7,
    num_image_steps=4,
    text_schedule=name,
    image_schedule=name,
    schedule_power=power,
  )
  size = 6
  answer = np.array(published.masked_answers(LAYOUT, toy.VOCAB, size))
  for row in range(size):  # given from the left
    answer[row, LAYOUT.image_index[: 4 * row]] = 24
    answer[row, LAYOUT.text_index[: 2 * row]] = 10
  run = runs.sample(
    config,
    toy.table_model(LAYOUT),
    jnp.asarray(published.table(LAYOUT)),
    published.condition(LAYOUT, toy.VOCAB, [[]] * size),
    jnp.asarray(answer),
    key=runs.key(),
  )
  assert (np.asarray(run.tokens) != toy.VOCAB.mask_id).all()
  steps = np.asarray(run.commit_step)
  due = schedule.image_steps(num_steps=7, num_image_steps=4, start_rate=0.25)
  falls = [
    _left(name, 11, step + 1, 7, power) < _left(name, 11, step, 7, power)
    for step in range(7)
  ]
  for row in range(size):
    words, codes = 11 - 2 * row, 20 - 4 * row
    for step in range(7):
      left = (steps[row, LAYOUT.text_index] > step).sum()
      if falls[step] or step in due:
        words = _left(name, 11 - 2 * row, step + 1, 7, power)
      assert left == words
      left = (steps[row, LAYOUT.image_index] > step).sum()
      if step in due:
        share = _left(name, 20 - 4 * row, step + 1, 7, power)
        codes = max(min(share, codes - 1), 0)
      assert left == codes


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"text_schedule": "cubic"}, "text_schedule must be of .*got 'cubic'"),
    ({"image_schedule": "log"}, "image_schedule must be of .*got 'log'"),
    ({"schedule_power": 0.0}, "schedule_power positive, got .*=0.0"),
    ({"text_block_len": -1}, "text_block_len must be at least 0.*=-1"),
    ({"text_confidence": "sure"}, "text_confidence must be of .*'margin'"),
    ({"image_confidence": "top"}, "image_confidence must be of .*'entropy'"),
    (
      {
        "text_schedule": "cosine",
        "quirks": settings.Quirks(text_counts="float"),
      },
      "text_counts other than exact need a linear text_schedule, got 'cosine'",
    ),
  ],
  ids=str,
)
def test_settings_errors_name_the_field_and_what_was_found(change, message):
  with pytest.raises(ValueError, match=message):
    settings.SamplerConfig(**change)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_unknown_counts_of_a_table_are_refused(kind):
  with pytest.raises(ValueError, match="counts must be one of .* got 'half'"):
    if kind == "text":
      schedule.text_table(num_steps=2, text_steps=2, text_len=2, counts="half")
    else:
      schedule.image_table(num_steps=2, image_len=2, counts="half")
