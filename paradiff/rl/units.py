"""Which parts of a trajectory are scored: the units of credit.

A unit [a, b) is scored from the canvas before step a, on the tokens committed
at steps a <= s < b, and is rewarded for the canvas predicted after step b - 1.
An isolated step is a unit of width 1, as in the paper; slices of the whole
clock score every token that was chosen for the price of as many forwards. The
steps are drawn before the rollout, once for all trajectories.

Source: arXiv 2511.09611 section 3.3 (isolated steps); 2509.21474 (slices);
2505.15809 (UniGRPO: the finished answer under a random mask).
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from paradiff import layout as layout_lib
from paradiff.diffusion import sampler
from paradiff.diffusion import schedule as schedule_lib
from paradiff.diffusion import settings

KINDS = ("all", "image", "stratified", "with_last", "slices", "masked")
ISOLATED = ("all", "image", "stratified", "with_last")


@dataclasses.dataclass(frozen=True)
class UnitsConfig:
  """What is scored.

  Attributes:
    kind: "all", steps drawn from all steps that commit something (the paper);
      "image", from those that update the picture; "stratified", one from each
      of equal strata of those; "with_last", the last of them and one from
      each of equal strata of the others; "slices", the whole clock cut into
      slices of as many steps; "masked", no states of the trajectory at all
      but the finished answer, each time under a new random mask, with the
      reward of the finished answer (UniGRPO).
    num: R, units a rollout.

  Raises:
    ValueError: if a value leaves its range.
  """

  kind: str = "slices"
  num: int = 3

  def __post_init__(self) -> None:
    if self.kind not in KINDS:
      raise ValueError(f"kind must be one of {KINDS}, got {self.kind!r}")
    if self.num < 1:
      raise ValueError(f"num must be at least 1, got {self.num}")


@flax.struct.dataclass
class Units:
  """The units of a rollout, ascending.

  Attributes:
    start: int32[R], the first step of each, in [0, S).
    stop: int32[R], one behind the last step of each, in [1, S].
  """

  start: jax.Array
  stop: jax.Array


def candidates(
  config: UnitsConfig, schedule: schedule_lib.Schedule
) -> np.ndarray:
  """Return the steps int32[n] that units are made of, ascending.

  Raises:
    ValueError: if there are fewer than R.
  """
  steps = schedule.step
  if config.kind in ("image", "stratified", "with_last"):
    steps = steps[schedule.image_step]
  if config.kind != "masked" and len(steps) < config.num:
    raise ValueError(
      f"num must be at most the {len(steps)} steps of kind {config.kind!r} "
      f"that there are, got {config.num}"
    )
  return steps


def _strata(
  steps: np.ndarray, num: int, key: jax.Array
) -> tuple[jax.Array, np.ndarray]:
  """Draw one of `steps` from each of `num` contiguous strata: int32[num]."""
  edges = np.linspace(0, len(steps), num + 1).round().astype(np.int32)
  draw = jax.random.uniform(key, (num,))
  width = jnp.asarray(np.diff(edges))
  offset = jnp.minimum((draw * width).astype(jnp.int32), width - 1)
  return jnp.asarray(steps)[jnp.asarray(edges[:-1]) + offset], edges


def draw(
  config: UnitsConfig, schedule: schedule_lib.Schedule, key: jax.Array
) -> Units:
  """Draw the units of one rollout.

  Args:
    config: what is scored.
    schedule: the sampler's tables.
    key: typed PRNG key.

  Raises:
    ValueError: if there are fewer steps than units.
  """
  steps, num = candidates(config, schedule), config.num
  if config.kind == "masked":
    # Every unit is the whole run, for the credit of its end.
    zeros = jnp.zeros((num,), jnp.int32)
    return Units(start=zeros, stop=zeros + schedule.num_steps)
  if config.kind == "slices":
    edges = np.linspace(0, len(steps), num + 1).round().astype(np.int64)
    bounds = np.append(steps[edges[:-1]], schedule.num_steps).astype(np.int32)
    bounds[0] = 0
    return Units(start=jnp.asarray(bounds[:-1]), stop=jnp.asarray(bounds[1:]))
  if config.kind == "stratified":
    picked, _ = _strata(steps, num, key)
  elif config.kind == "with_last":
    last = jnp.asarray(steps[-1:])
    if num == 1:
      picked = last
    else:
      picked = jnp.concatenate([_strata(steps[:-1], num - 1, key)[0], last])
  else:
    order = jax.random.permutation(key, len(steps))[:num]
    picked = jnp.sort(jnp.asarray(steps)[order])
  return Units(start=picked, stop=picked + 1)


def points(units: Units, *, num_steps: int) -> jax.Array:
  """Return where rewards are taken: int32[R + 1], each stop and the end."""
  return jnp.append(units.stop, num_steps)


def _commits(
  schedule: schedule_lib.Schedule,
) -> tuple[np.ndarray, np.ndarray]:
  """Return int64[S', T + 1] and [S', N + 1]: commits of each active step."""
  left = np.arange(schedule.image_left.shape[1])
  image = np.zeros(schedule.image_left.shape, np.int64)
  for row, (due, target) in enumerate(
    zip(schedule.image_step, schedule.image_left, strict=True)
  ):
    if due:
      # The sampler commits at least one token on a picture step.
      after = np.maximum(np.minimum(target, left - 1), 0)
      image[row], left = left - after, after
  return schedule.text_commits.astype(np.int64), image


def capacity(
  config: UnitsConfig,
  sampler_config: settings.SamplerConfig,
  layout: layout_lib.Layout,
  *,
  score_set: str,
) -> tuple[int, int]:
  """Return the most text and picture tokens that one unit can score.

  Rows of hidden states beyond these never reach the head.

  Args:
    config: what is scored.
    sampler_config: of the rollouts.
    layout: the sizes.
    score_set: "committed" or "candidates".
  """
  if config.kind == "masked" or score_set == "candidates":
    return layout.text_len, layout.image_len
  schedule = sampler.schedule_of(sampler_config, layout)
  steps = candidates(config, schedule)
  text, image = _commits(schedule)
  if config.kind == "slices":
    edges = np.linspace(0, len(steps), config.num + 1).round().astype(np.int64)
    sums = [
      (text[a:b].sum(axis=0).max(), image[a:b].sum(axis=0).max())
      for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]
    return tuple(max(int(s[i]) for s in sums) for i in (0, 1))  # type: ignore[return-value]
  used = np.isin(schedule.step, steps)
  return int(text[used].max()), int(image[used].max())
