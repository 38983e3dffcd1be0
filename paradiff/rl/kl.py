"""The weight of the KL: fixed, or steered towards a distance.

Source: arXiv 1909.08593 section 2.2.
"""

import dataclasses

import jax
import jax.numpy as jnp

_MAX_ERROR = 0.2  # of the proportional controller


@dataclasses.dataclass(frozen=True)
class KlConfig:
  """The weight of the KL.

  Attributes:
    coef: the weight, or the first one.
    target: nats a token that an adaptive weight aims at; None keeps `coef`.
    rate: how fast an adaptive weight moves, in (0, 1].

  Raises:
    ValueError: if a value leaves its range.
  """

  coef: float = 1e-4
  target: float | None = None
  rate: float = 0.1

  def __post_init__(self) -> None:
    if not self.coef >= 0.0 or not 0.0 < self.rate <= 1.0:
      raise ValueError(
        f"coef must be at least 0 and rate lie in (0, 1], got {self}"
      )
    if self.target is not None and not (self.target > 0.0 and self.coef > 0.0):
      raise ValueError(
        f"a target must be positive and have a positive first coef, got {self}"
      )


def next_coef(config: KlConfig, coef: jax.Array, kl: jax.Array) -> jax.Array:
  """Return the weight after an iteration: up where the KL is above target.

  It changes by at most a fifth of `rate`: with rate 0.1 and a KL of twice the
  target a weight of 1 becomes 1.02.

  Args:
    config: the settings.
    coef: float32[], the weight so far.
    kl: float32[], the KL of this iteration, nats a token.
  """
  if config.target is None:
    return coef
  error = jnp.clip(kl / config.target - 1.0, -_MAX_ERROR, _MAX_ERROR)
  return coef * (1.0 + config.rate * error)
