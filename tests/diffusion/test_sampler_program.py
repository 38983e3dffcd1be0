"""The sampler as a program: what its jaxpr computes, and how often."""

import dataclasses
import functools

import jax
import pytest
import toy
import toy_runs as runs

from paradiff.diffusion import guidance
from paradiff.diffusion import sampler
from paradiff.models import transformer

Guidance = guidance.Guidance

LARGE = dataclasses.replace(
  toy.VOCAB, size=4200, text_size=4096, code_offset=4100, codebook_size=64
)


def _large_model():
  """Return a model of 4,200 ids whose trunk is recognisable in a jaxpr."""
  config = dataclasses.replace(toy.CONFIG, vocab_size=LARGE.size)
  model = toy.model(config, toy.LAYOUT, LARGE)

  @jax.jit
  def marked_trunk(params, tokens, valid, places):
    return model.denoiser.trunk(params, tokens, valid, places)

  denoiser = dataclasses.replace(model.denoiser, trunk=marked_trunk)
  shapes = jax.eval_shape(lambda: transformer.init(config, jax.random.key(0)))
  return dataclasses.replace(model, denoiser=denoiser), shapes


@functools.cache
def _program(config, batch_size=8):
  """Return the sampler's jaxpr."""
  model, params = _large_model()
  return jax.make_jaxpr(functools.partial(sampler.sample, config, model))(
    params,
    toy.conditions(batch_size),
    toy.partial_answers(batch_size),
    key=runs.key(),
  ).jaxpr


@pytest.mark.parametrize(
  "config", [runs.BASE, runs.ALL_GUIDED], ids=["plain", "guided"]
)
def test_no_array_has_the_size_of_all_logits(config):
  jaxpr = _program(config)
  sequence = toy.LAYOUT.prefix_len + toy.LAYOUT.answer_len
  assert toy.largest_array(jaxpr) < 8 * sequence * LARGE.size
  # The walk does see the text logits, the largest array that is needed.
  assert toy.largest_array(jaxpr) >= 8 * toy.LAYOUT.text_len * LARGE.text_size


def test_the_program_never_calls_back_to_the_host():
  for config in (runs.BASE, runs.ALL_GUIDED):
    names = toy.primitives(_program(config))
    assert {"scan", "cond", "dot_general"} <= names
    assert not [n for n in names if "callback" in n or "infeed" in n]


def _trunk_calls(config):
  """Return (runs on every step, runs on picture steps) of the trunk."""
  calls = [
    (times, in_cond)
    for eqn, times, in_cond in toy.equations(_program(config))
    if eqn.params.get("name") == "marked_trunk"
  ]
  return tuple(
    sum(times for times, in_cond in calls if in_cond == where)
    for where in (False, True)
  )


@pytest.mark.parametrize(
  ("text", "image", "always", "late"),
  [
    (Guidance(), Guidance(), 1, 0),
    (Guidance(text=0.0), Guidance(image=0.0), 1, 0),
    (Guidance(), Guidance(image=4.0), 1, 1),
    (Guidance(), Guidance(text=1.0, image=4.0, both=1.0), 1, 3),
    (Guidance(text=2.0), Guidance(), 2, 0),
    (Guidance(text=2.0), Guidance(text=1.0, image=1.0), 2, 1),
    (Guidance(both=1.0), Guidance(both=3.0), 2, 0),
  ],
)
def test_the_trunk_runs_as_often_as_the_schedule_needs(
  text, image, always, late
):
  # 20 steps, of which 7 have work: text at 3, 7, 11, 15, 19 and the picture
  # at 13, 16 and 19. A branch of the picture runs on picture steps only.
  config = dataclasses.replace(
    runs.BASE,
    num_steps=20,
    num_image_steps=3,
    image_start_rate=0.65,
    text_guidance=text,
    image_guidance=image,
  )
  active = len(sampler.schedule_of(config, toy.LAYOUT).step)
  assert _trunk_calls(config) == (always * active, late * active)


def test_idle_steps_run_no_pass():
  config = dataclasses.replace(
    runs.BASE, num_steps=20, num_image_steps=3, image_start_rate=0.65
  )
  plan = sampler.schedule_of(config, toy.LAYOUT)
  assert plan.step.tolist() == [0, 4, 8, 12, 13, 16, 19]
  assert plan.image_step.sum() == 3


def test_a_branch_without_the_picture_runs_a_shorter_sequence():
  config = dataclasses.replace(runs.BASE, image_guidance=Guidance(image=1.0))
  lengths = {
    in_cond: eqn.invars[-2].aval.shape[1]
    for eqn, _, in_cond in toy.equations(_program(config))
    if eqn.params.get("name") == "marked_trunk"
  }
  codes = toy.LAYOUT.image_len
  assert lengths == {False: 28, True: 28 - codes - 2}
