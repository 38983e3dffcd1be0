"""What a ParaRL run is made of: its config, policy, rewards and programs."""

import dataclasses
import functools
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import ml_collections
from etils import epath

from experiments import common
from experiments import processes
from experiments import prompts as prompts_lib
from experiments import rewards as rewards_lib
from experiments import rl_config
from experiments import start
from paradiff import checkpoints
from paradiff import pipeline as pipeline_lib
from paradiff import sharding
from paradiff import step as step_lib
from paradiff import train_state
from paradiff import variants
from paradiff.data import caching
from paradiff.diffusion import model as model_lib
from paradiff.models import lora as lora_lib
from paradiff.rl import iteration as iteration_lib
from paradiff.rl import kl as kl_lib
from paradiff.rl import reward as reward_lib
from paradiff.rl import rows as rows_lib
from paradiff.rl import terms as terms_lib


def load_reference(
  experiment: rl_config.Experiment,
  policy: pipeline_lib.ParallelPipeline,
  mesh: jax.sharding.Mesh,
) -> Any:
  """Return the reference's parameters; None where the loss needs none.

  Raises:
    ValueError: if it is of another variant, or differs from the policy that
      adapters are trained on.
    FileNotFoundError: if there is no such model.
  """
  name = experiment.reference
  if experiment.objective.kl_anchor != "ref":
    return None
  if experiment.lora is not None:
    if name not in (None, experiment.model):
      raise ValueError(
        "with LoRA the reference must be the model beneath the adapters, "
        f"{experiment.model!r}, got {name!r}"
      )
    return None
  if name is None:
    return policy.params
  other = start.load(name, mesh)
  lines = checkpoints.differences(
    {**variants.to_dict(policy.variant), "sampler": None},
    {**variants.to_dict(experiment.applied(other.variant)), "sampler": None},
  )
  if lines:
    raise ValueError(
      f"the reference {name!r} must be of the policy's variant, got\n"
      + "\n".join(lines[:5])
    )
  return other.params


def make_tx(
  experiment: rl_config.Experiment, variant: variants.Variant
) -> tuple[Any, Any]:
  """Return the optimiser and the learning rate by update.

  Raises:
    ValueError: if the config is wrong.
  """
  return start.make_tx(
    experiment.optim,
    num_steps=experiment.num_iterations * experiment.num_updates,
    transformer=variant.transformer,
    lora=experiment.lora,
  )


def begin(
  experiment: rl_config.Experiment,
  config: iteration_lib.ParaRlConfig,
  policy: pipeline_lib.ParallelPipeline,
  tx: Any,
  mesh: jax.sharding.Mesh,
) -> tuple[train_state.TrainState, Any, Any]:
  """Return the first state, its shardings, and the frozen weights."""
  key = jax.random.key(experiment.seed)
  loop = {
    "kl_coef": jnp.float32(experiment.kl.coef),
    "stats": terms_lib.init_stats(len(config.terms), len(rows_lib.BUCKETS)),
  }
  return start.begin_from(
    policy.params,
    tx,
    key,
    transformer=policy.variant.transformer,
    lora=config.lora,
    # No run's own key: adapters must not share bits with the rollouts.
    adapters_key=jax.random.fold_in(key, experiment.num_iterations),
    mesh=mesh,
    loop=loop,
  )


class Programs:
  """The compiled parts of an iteration."""

  def __init__(
    self,
    experiment: rl_config.Experiment,
    config: iteration_lib.ParaRlConfig,
    model: model_lib.Model,
    tx: Any,
    places: Any,
    schedule: Any,
  ) -> None:
    """Prepare the programs; each compiles at its first call."""
    mesh = places.step.mesh
    rows, everywhere = (sharding.shardings(mesh, x) for x in (("batch",), ()))
    self.roll = jax.jit(
      functools.partial(iteration_lib.roll, config, model),
      out_shardings=iteration_lib.Rolled(
        condition=rows,
        rollout=rows,
        committed=rows,
        units=everywhere,
        points=everywhere,
      ),
    )
    self.prepare = jax.jit(
      functools.partial(iteration_lib.prepare, config, model),
      out_shardings=(rows, everywhere, everywhere),
    )
    self.add_old_logp = jax.jit(
      functools.partial(iteration_lib.add_old_logp, config, model)
    )
    self.update = jax.jit(
      step_lib.make_train_step(
        iteration_lib.make_loss(config, model),
        tx,
        schedule=schedule,
        num_microbatches=experiment.num_microbatches,
      ),
      out_shardings=(dataclasses.replace(places, loop={}), None),
      donate_argnums=0,
    )
    self.next_kl_coef = jax.jit(
      functools.partial(kl_lib.next_coef, experiment.kl)
    )


def make_config(
  experiment: rl_config.Experiment,
  variant: variants.Variant,
  terms: tuple[terms_lib.Term, ...],
) -> iteration_lib.ParaRlConfig:
  """Return the static settings of an iteration, checked.

  Raises:
    ValueError: if they contradict each other or the model.
  """
  sampler = dataclasses.replace(
    variant.sampler,
    text_temperature=experiment.temperature,
    image_temperature=experiment.temperature,
  )
  config = iteration_lib.ParaRlConfig(
    sampler=sampler,
    terms=terms,
    units=experiment.units,
    credit=experiment.credit,
    group_size=experiment.group_size,
    objective=experiment.objective,
    lora=experiment.lora,
    num_updates=experiment.num_updates,
    num_parts=experiment.num_parts,
  )
  config.check(variant.layout)
  rows = experiment.num_prompts * experiment.group_size * experiment.units.num
  rollouts = experiment.num_prompts * experiment.group_size
  if rollouts % experiment.num_parts:
    raise ValueError(
      f"num_parts must divide the rollouts, prompts x group = {rollouts}, got "
      f"{experiment.num_parts}"
    )
  if rows % experiment.num_microbatches:
    raise ValueError(
      "num_microbatches must divide the rows of an update, prompts x group x "
      f"units = {rows}, got {experiment.num_microbatches}"
    )
  return config


@dataclasses.dataclass(eq=False)
class Run:
  """A run that is ready to begin.

  Attributes:
    experiment: its config.
    settings: the static settings of an iteration.
    policy: the model that it begins with, with the run's settings.
    policy_digest: of its parameters.
    variant: the model with its own settings.
    model: the same as the sampler and the loss see it.
    prompts: what is asked for.
    rewards: by name.
    programs: the compiled parts of an iteration.
    state: the first state.
    frozen: the weights beneath adapters, or None.
    reference: the policy that the KL is taken to, or None.
    mesh: the devices.
  """

  experiment: rl_config.Experiment
  settings: iteration_lib.ParaRlConfig
  policy: pipeline_lib.ParallelPipeline
  policy_digest: str
  variant: variants.Variant
  model: model_lib.Model
  prompts: prompts_lib.Prompts
  rewards: dict[str, reward_lib.Reward]
  programs: Programs
  state: train_state.TrainState
  frozen: Any
  reference: Any
  mesh: jax.sharding.Mesh

  @property
  def reward_names(self) -> list[str]:
    """Names of the rewards, in the order of their terms."""
    return [term.name for term in self.settings.terms]

  def trained(
    self, state: train_state.TrainState
  ) -> pipeline_lib.ParallelPipeline:
    """Return the policy as it is in `state`, adapters merged.

    All processes must call it.
    """
    params = state.params
    if self.settings.lora is not None:
      params = lora_lib.merge(self.settings.lora, self.frozen, params)
    params = processes.gathered(params)
    return dataclasses.replace(self.policy, params=params)


def set_up(
  config: ml_collections.ConfigDict, *, folder: epath.Path, stream: TextIO
) -> Run:
  """Build everything that can be wrong before a rollout is spent.

  Args:
    config: as the files in `experiments/configs` give it.
    folder: keeps token rows, where the config names no other.
    stream: where progress is shown.

  Raises:
    ValueError: if the config is wrong.
    FileNotFoundError: if a model is missing.
  """
  experiment = common.build(rl_config.Experiment, config)
  mesh = sharding.make_mesh(**dataclasses.asdict(experiment.mesh))
  processes.check_mesh(mesh)
  terms, rewards = processes.together(
    lambda: rewards_lib.build(experiment.rewards)
  )
  policy = start.load(experiment.model, mesh)
  digest = caching.digest(
    *jax.tree.leaves(
      jax.device_get(processes.gathered((policy.params, policy.image_params)))
    )
  )
  processes.check_same("model", digest)
  own = policy.variant
  policy = dataclasses.replace(policy, variant=experiment.applied(own))
  settings = make_config(experiment, policy.variant, terms)
  if experiment.data.path is not None and experiment.evaluate.every:
    raise ValueError(
      "evaluate.every must be 0 with prompts of one's own (scores are those of "
      f"the scenes world), got {experiment.evaluate.every}"
    )
  reference = load_reference(experiment, policy, mesh)
  tx, schedule = make_tx(experiment, policy.variant)
  prompts = processes.together(
    lambda: prompts_lib.load(
      experiment.data,
      policy,
      folder=epath.Path(experiment.cache or folder),
      stream=stream,
    )
  )
  processes.check_same("prompts", prompts.rows.arrays)
  settings.check(prompts.layout)
  state, places, frozen = begin(experiment, settings, policy, tx, mesh)
  if reference is not None:
    reference = jax.device_put(reference, places.params)
  model = variants.model_of(policy.variant, prompts.layout)
  programs = Programs(
    experiment,
    settings,
    model,
    tx,
    places,
    schedule,
  )
  return Run(
    experiment=experiment,
    settings=settings,
    policy=policy,
    policy_digest=digest,
    variant=own,
    model=model,
    prompts=prompts,
    rewards=rewards,
    programs=programs,
    state=state,
    frozen=frozen,
    reference=reference,
    mesh=mesh,
  )
