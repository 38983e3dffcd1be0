"""From rewards along the way to advantages within a group.

Each unit of a rollout gets a value from the rewards, and values are compared
between the rollouts of one prompt, apart for each unit:

  A[i, t] = (v[i, t] - mean_j v[j, t]) / std_j v[j, t]

with the population's standard deviation, and 0 where that is below a
threshold: in float32 equal rewards do not give an exact zero.

Source: arXiv 2511.09611 eq. 4.
"""

import jax
import jax.numpy as jnp

CREDITS = ("level", "increment", "to_go", "final", "mix")
MIN_STD = 1e-4


def credit(kind: str, rewards: jax.Array) -> jax.Array:
  """Return the value of each unit, float32[B, R].

  For rewards [1, 3, 2 | 4], the last that of the finished answer:

    level      [1, 3, 2]       the reward after the unit (the paper)
    increment  [1, 2, -1]      what the unit added; the first has its level
    to_go      [2.5, 3, 3]     the mean of what follows, its own included
    final      [4, 4, 4]       the finished answer's reward
    mix        [2.5, 3.5, 3]   half level, half final

  Args:
    kind: one of CREDITS.
    rewards: float32[B, R + 1].

  Raises:
    ValueError: if the kind is unknown.
  """
  level, final = rewards[:, :-1], rewards[:, -1:]
  match kind:
    case "level":
      return level
    case "increment":
      return jnp.diff(level, axis=1, prepend=jnp.zeros_like(final))
    case "to_go":
      num = rewards.shape[1]
      sums = jnp.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]
      counts = num - jnp.arange(num, dtype=jnp.float32)
      return (sums / counts[None])[:, :-1]
    case "final":
      return jnp.broadcast_to(final, level.shape)
    case "mix":
      return 0.5 * level + 0.5 * final
    case _:
      raise ValueError(f"credit must be one of {CREDITS}, got {kind!r}")


def group_advantages(
  values: jax.Array, *, group_size: int, min_std: float = MIN_STD
) -> tuple[jax.Array, jax.Array]:
  """Compare the rollouts of each prompt.

  Args:
    values: float32[B, R]; the rollouts of a prompt lie together.
    group_size: G, at least 2; divides B.
    min_std: below it a group is dead and its advantages are exactly 0.

  Returns:
    Advantages float32[B, R], and which groups are dead, bool[B / G, R].

  Raises:
    ValueError: if the group has one member or does not divide the batch.
  """
  if group_size < 2 or values.shape[0] % group_size:
    raise ValueError(
      "group_size must be at least 2 and divide the rollouts, got "
      f"{group_size=} of {values.shape[0]}"
    )
  groups = values.reshape(-1, group_size, values.shape[1])
  centred = groups - groups.mean(axis=1, keepdims=True)
  std = jnp.sqrt(jnp.square(centred).mean(axis=1, keepdims=True))
  is_dead = std < min_std
  advantages = jnp.where(is_dead, 0.0, centred / jnp.where(is_dead, 1.0, std))
  return advantages.reshape(values.shape), is_dead[:, 0]
