"""Settings and jitted runs of the toy sampler that several tests share."""

import dataclasses

import jax
import numpy as np
import toy

from paradiff.diffusion import guidance
from paradiff.diffusion import sampler
from paradiff.diffusion import settings

Guidance = guidance.Guidance
BASE = settings.SamplerConfig(
  num_steps=6, num_image_steps=4, image_start_rate=0.2
)
SAMPLED = dataclasses.replace(
  BASE,
  text_temperature=0.7,
  image_temperature=1.3,
  text_noise=0.5,
  image_noise=0.8,
)
ALL_GUIDED = dataclasses.replace(
  SAMPLED,
  text_guidance=Guidance(text=0.6, both=-0.3),
  image_guidance=Guidance(text=1.5, image=2.0, both=0.5),
)
SIZE = 8

# Compiled without optimisation: each program here runs once or twice.
FAST = {"xla_backend_optimization_level": 0}
sample = jax.jit(sampler.sample, static_argnums=(0, 1), compiler_options=FAST)


def key(seed=0):
  return jax.random.key(seed)


def run(config, *, seed=0, answer=None):
  answer = toy.partial_answers(SIZE) if answer is None else answer
  return sample(
    config,
    toy.model(),
    toy.params(),
    toy.conditions(SIZE),
    answer,
    key=key(seed),
  )


def assert_equal(got, expected, *, atol=1e-4):
  np.testing.assert_array_equal(got.tokens, expected.tokens)
  np.testing.assert_array_equal(got.commit_step, expected.commit_step)
  np.testing.assert_allclose(
    got.commit_logp, expected.commit_logp, rtol=0, atol=atol
  )
