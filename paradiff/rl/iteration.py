"""One ParaRL iteration in pure functions, with the host's rewards between.

  roll      prompts -> a group of trajectories each, and the canvases to reward
  (host)    rewards float32[B, R', K] of the decoded texts and pictures
  prepare   rewards -> advantages -> rows to score, with their weights
  loss      rows -> the policy gradient, one or several times

The same parameters on the same mesh roll out and learn. With LoRA only the
adapters are trained: the frozen weights alone are the reference policy, and
there is no second copy of them.

Source: arXiv 2511.09611 section 3.3.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from paradiff import layout as layout_lib
from paradiff import sequence as sequence_lib
from paradiff.diffusion import model as model_lib
from paradiff.diffusion import sampler
from paradiff.diffusion import settings
from paradiff.models import lora as lora_lib
from paradiff.rl import advantage as advantage_lib
from paradiff.rl import objective as objective_lib
from paradiff.rl import rollout as rollout_lib
from paradiff.rl import rows as rows_lib
from paradiff.rl import score as score_lib
from paradiff.rl import terms as terms_lib
from paradiff.rl import units as units_lib


@dataclasses.dataclass(frozen=True)
class ParaRlConfig:
  """Everything static about an iteration; hashable, one program for each.

  Attributes:
    sampler: of the rollouts.
    terms: what the rewards weigh, in their order.
    units: what is scored.
    credit: what a unit is rewarded for, one of `advantage.CREDITS`.
    group_size: G, rollouts of a prompt, at least 2.
    objective: the loss.
    lora: the adapters, or None to train all parameters.
    num_updates: updates made of one batch of rollouts.
    num_parts: parts of the batch that are rolled out one after another, which
      bounds memory, and is faster where a part fits into a cache.

  Raises:
    ValueError: if the parts contradict each other.
  """

  sampler: settings.SamplerConfig
  terms: tuple[terms_lib.Term, ...]
  units: units_lib.UnitsConfig = units_lib.UnitsConfig()
  credit: str = "mix"
  group_size: int = 8
  objective: objective_lib.ObjectiveConfig = objective_lib.ObjectiveConfig()
  lora: lora_lib.LoraConfig | None = None
  num_updates: int = 1
  num_parts: int = 1

  def __post_init__(self) -> None:
    if self.credit not in advantage_lib.CREDITS:
      raise ValueError(
        f"credit must be one of {advantage_lib.CREDITS}, got {self.credit!r}"
      )
    if self.group_size < 2:
      raise ValueError(
        "group_size must be at least 2 (a rollout is compared with the others "
        f"of its prompt), got {self.group_size}"
      )
    if not self.terms:
      raise ValueError("there must be at least one reward, got none")
    if self.units.kind == "masked" and self.credit != "final":
      raise ValueError(
        'units of kind "masked" must have the credit "final", got '
        f"{self.credit!r}"
      )
    for name in ("num_updates", "num_parts"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
    rows_lib.check(self.objective.score_set, self.units)

  def check(self, layout: layout_lib.Layout) -> None:
    """Check that a model of this layout can be trained so.

    Raises:
      ValueError: if the rollouts cannot be scored, or there are more units
        than steps.
    """
    rollout_lib.check_sampler(self.sampler, layout)
    schedule = sampler.schedule_of(self.sampler, layout)
    units_lib.candidates(self.units, schedule)

  @property
  def num_points(self) -> int:
    """R', canvases of a rollout that are rewarded; the last is its end."""
    if self.credit == "final":
      return 1
    # The last slice ends where the run does.
    return self.units.num + (self.units.kind != "slices")


@flax.struct.dataclass
class Rolled:
  """A batch of rollouts, B = P G of them, those of a prompt together.

  Attributes:
    condition: prefix int32[B, P].
    rollout: the trajectories and predicted canvases.
    committed: int32[B, R', A], the canvases as committed at the points.
    units: what is scored.
    points: int32[R'], steps done where rewards are taken.
  """

  condition: sequence_lib.Condition
  rollout: rollout_lib.Rollout
  committed: jax.Array
  units: units_lib.Units
  points: jax.Array


def policy(config: ParaRlConfig, params: Any, frozen: Any) -> Any:
  """Return the parameters of the network: trained ones, or with adapters."""
  if config.lora is None:
    return params
  return lora_lib.attach(config.lora, frozen, params)


def roll(
  config: ParaRlConfig,
  model: model_lib.Model,
  params: Any,
  frozen: Any,
  prompts: sequence_lib.Condition,
  *,
  key: jax.Array,
) -> Rolled:
  """Draw the units, then sample G answers to each prompt.

  Args:
    config: the settings.
    model: the network, its layout and ids.
    params: what is trained.
    frozen: the weights beneath adapters; None without LoRA.
    prompts: prefix int32[P, ...].
    key: typed PRNG key.
  """
  key_units, key_run = jax.random.split(key)
  schedule = sampler.schedule_of(config.sampler, model.layout)
  units = units_lib.draw(config.units, schedule, key_units)
  points = units_lib.points(units, num_steps=config.sampler.num_steps)
  first = 0 if config.credit != "final" else config.units.num
  points = points[first : first + config.num_points]
  condition = jax.tree.map(
    lambda x: jnp.repeat(x, config.group_size, axis=0), prompts
  )
  rollout = rollout_lib.in_parts(
    config.sampler,
    model,
    policy(config, params, frozen),
    condition,
    points=points,
    num_parts=config.num_parts,
    key=key_run,
  )
  return Rolled(
    condition=condition,
    rollout=rollout,
    committed=rollout_lib.committed_at(
      rollout.trajectory, points, mask_id=model.vocab.mask_id
    ),
    units=units,
    points=points,
  )


def prepare(
  config: ParaRlConfig,
  model: model_lib.Model,
  rolled: Rolled,
  raw: jax.Array,
  stats: terms_lib.Stats,
  *,
  key: jax.Array,
) -> tuple[dict[str, jax.Array], terms_lib.Stats, dict[str, jax.Array]]:
  """Turn rewards into rows to learn from.

  Args:
    config: the settings.
    model: the network, its layout and ids.
    rolled: the rollouts.
    raw: float32[B, R', K], rewards of `config.terms`.
    stats: running statistics of the rewards.
    key: typed PRNG key.

  Returns:
    Rows for the loss, the new statistics, and metrics float32[].
  """
  num_steps, num_buckets = config.sampler.num_steps, len(rows_lib.BUCKETS)
  bucket = num_buckets * (rolled.points - 1) // num_steps
  total, stats, metrics = terms_lib.combine(
    config.terms, raw, stats, bucket=bucket, group_size=config.group_size
  )
  if config.credit == "final":  # only the end is seen, for every unit
    total = jnp.repeat(total, config.units.num + 1, axis=1)
  elif config.units.kind == "slices":
    total = jnp.concatenate([total, total[:, -1:]], axis=1)
  values = advantage_lib.credit(config.credit, total)
  advantages, is_dead = advantage_lib.group_advantages(
    values, group_size=config.group_size
  )
  rows = rows_lib.make_rows(
    config.sampler,
    model,
    rolled.condition,
    rolled.rollout,
    units_config=config.units,
    units=rolled.units,
    score_set=config.objective.score_set,
    key=key,
  )
  rows = rows_lib.add_weights(
    config.objective.aggregation,
    model,
    rows,
    advantages,
    num_groups=raw.shape[0] // config.group_size,
  )
  metrics = {**metrics, "rl/dead_groups": is_dead.mean(dtype=jnp.float32)}
  start = num_buckets * rolled.units.start // num_steps
  for number, name in enumerate(rows_lib.BUCKETS):
    here = (start == number).astype(jnp.float32)
    count = jnp.maximum(here.sum(), 1.0)
    dead = is_dead.mean(axis=0, dtype=jnp.float32)
    metrics[f"rl/dead_groups_{name}"] = (dead * here).sum() / count
    metrics[f"rl/value_{name}"] = (values.mean(axis=0) * here).sum() / count
  return rows, stats, metrics


def modalities(
  config: ParaRlConfig, model: model_lib.Model
) -> tuple[score_lib.Span, ...]:
  """Return what is scored of an answer."""
  capacity = units_lib.capacity(
    config.units,
    config.sampler,
    model.layout,
    score_set=config.objective.score_set,
  )
  return score_lib.spans(config.sampler, model, capacity)


def add_old_logp(
  config: ParaRlConfig,
  model: model_lib.Model,
  params: Any,
  frozen: Any,
  rows: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
  """Add the old policy's log-probabilities; needed for several updates."""
  old = objective_lib.old_logp(
    config.sampler,
    model,
    policy(config, params, frozen),
    rows,
    modalities(config, model),
    chunk_len=config.objective.chunk_len,
  )
  return {**rows, **old}


def make_loss(
  config: ParaRlConfig, model: model_lib.Model
) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
  """Return `loss(params, rows, key, frozen, anchor, kl_coef)`.

  `frozen` are the weights beneath adapters or None. `anchor` is, for the
  anchor "ref", the reference policy (None with LoRA: the frozen weights are
  it), and for "old" what was trained when the rollouts began, or None for
  the policy itself. `kl_coef` is float32[].
  """
  spans = modalities(config, model)

  def loss_fn(
    params: Any,
    rows: Mapping[str, jax.Array],
    key: jax.Array,
    frozen: Any,
    anchor: Any,
    kl_coef: jax.Array,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    del key  # nothing here is random
    if config.objective.kl_anchor == "ref" and config.lora is not None:
      anchor = frozen
    elif config.objective.kl_anchor == "old" and anchor is not None:
      anchor = policy(config, anchor, frozen)
    return objective_lib.loss(
      config.objective,
      config.sampler,
      model,
      policy(config, params, frozen),
      rows,
      spans,
      anchor=anchor,
      kl_coef=kl_coef,
    )

  return loss_fn
