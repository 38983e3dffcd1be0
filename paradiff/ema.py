"""A running mean of the parameters, kept in the optimiser's state.

  mean <- rate * mean + (1 - rate) * parameters after the update

begins at the first parameters. As part of the optimiser's state it lies where
the parameters lie and is saved with them.

Source: Polyak and Juditsky 1992; arXiv 2006.11239 appendix B, for diffusion.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class EmaState(NamedTuple):
  """State of `track`.

  Attributes:
    mean: the parameters' tree, float32.
  """

  mean: Any


def track(rate: float) -> optax.GradientTransformation:
  """Return a transformation that leaves updates as they are.

  It must be the last of a chain, where the updates are those that are made.

  Args:
    rate: what the mean keeps of itself at each update, in (0, 1).

  Raises:
    ValueError: if the rate is out of its range.
  """
  if not 0 < rate < 1:
    raise ValueError(f"rate must lie in (0, 1), got {rate}")

  def init(params: Any) -> EmaState:
    # A copy: the step donates the parameters and the state alike.
    return EmaState(
      jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params)
    )

  def update(
    updates: Any, state: EmaState, params: Any = None
  ) -> tuple[Any, EmaState]:
    mean = jax.tree.map(
      lambda mean, p: rate * mean + (1 - rate) * p.astype(jnp.float32),
      state.mean,
      optax.apply_updates(params, updates),
    )
    return updates, EmaState(mean)

  return optax.GradientTransformation(init, update)


def mean_of(opt_state: Any, params: Any) -> Any:
  """Return the mean in an optimiser's state, in the parameters' dtypes.

  Args:
    opt_state: of a chain that ends in `track`, or of any other.
    params: what is returned where no mean is kept.
  """
  is_mean = lambda node: isinstance(node, EmaState)  # noqa: E731
  found = [
    node
    for node in jax.tree.leaves(opt_state, is_leaf=is_mean)
    if is_mean(node)
  ]
  if not found:
    return params
  return jax.tree.map(
    lambda mean, p: mean.astype(p.dtype), found[0].mean, params
  )
