"""What a supervised run is made of: its model, state and step."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import optax

from experiments import common
from experiments import own_data
from experiments import processes
from experiments import sft_config
from experiments import start
from paradiff import layout as layout_lib
from paradiff import pipeline as pipeline_lib
from paradiff import sequence as sequence_lib
from paradiff import sharding
from paradiff import step as step_lib
from paradiff import train_state
from paradiff import variants
from paradiff.data import caching
from paradiff.data import coded
from paradiff.diffusion import objective
from paradiff.models import lora as lora_lib
from paradiff.models import transformer as transformer_lib


def identity(
  config: ml_collections.ConfigDict,
  pipeline: pipeline_lib.ParallelPipeline,
  sources: Sequence[coded.CodedSource] = (),
) -> dict[str, Any]:
  """Return what a checkpoint must share with the run that resumes from it."""
  parts = variants.to_dict(pipeline.variant)
  del parts["sampler"]  # sampling does not change what is learned
  config = config.copy_and_resolve_references()
  if sources:
    config.data.folders = tuple(source.digest for source in sources)
  with config.unlocked():
    if "num_workers" in config.data:  # who reads does not change what is read
      del config.data.num_workers
  if config.get("text_tokenizer") is not None:
    parts["words"] = sorted(pipeline.text_tokenizer.fast.get_vocab().items())
  return common.identity(
    config,
    variant=parts.pop("name"),
    model=parts,
    image_tokenizer_digest=caching.digest(
      jax.device_get(pipeline.image_params)
    ),
  )


def make_loss(
  config: objective.SftConfig,
  variant: variants.Variant,
  layout: layout_lib.Layout | None = None,
  lora: lora_lib.LoraConfig | None = None,
) -> step_lib.LossFn:
  """Return the loss of a batch of token rows, `loss(params, batch, key)`.

  Args:
    config: the settings of the loss.
    variant: the model.
    layout: of the rows; None for the variant's own.
    lora: the adapters that `params` are; the loss then takes the weights
      beneath them besides, `loss(params, batch, key, frozen)`.
  """
  model = variants.model_of(variant, layout)

  def loss_fn(
    params: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    frozen: Any = None,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    if lora is not None:
      params = lora_lib.attach(lora, frozen, params)
    condition = sequence_lib.Condition(
      prefix=batch["prefix"], valid=batch["prefix_valid"]
    )
    return objective.sft_loss(
      config, model, params, condition, batch["answer"], key=key
    )

  return loss_fn


def make_tx(
  experiment: sft_config.Experiment, variant: variants.Variant
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Return the optimiser and the learning rate by step.

  Raises:
    ValueError: if the config is wrong.
  """
  return start.make_tx(
    experiment.optim,
    num_steps=experiment.num_steps,
    transformer=variant.transformer,
    lora=experiment.lora,
  )


def make_step(
  experiment: sft_config.Experiment,
  variant: variants.Variant,
  layout: layout_lib.Layout,
) -> step_lib.TrainStep:
  """Return the step, `step(state, batch, frozen)`, not yet jitted."""
  tx, schedule = make_tx(experiment, variant)
  return step_lib.make_train_step(
    make_loss(experiment.loss, variant, layout, experiment.lora),
    tx,
    schedule=schedule,
    num_microbatches=experiment.num_microbatches,
  )


def load_model(
  experiment: sft_config.Experiment, mesh: jax.sharding.Mesh
) -> tuple[pipeline_lib.ParallelPipeline, start.Init | None]:
  """Return the model, and what draws its parameters if it has none yet.

  Raises:
    FileNotFoundError: if a folder is not there.
    ValueError: if a part is damaged or does not suit the others.
  """
  if experiment.fine_tune is not None:
    loaded = start.load(experiment.fine_tune, mesh)
    changed = common.override(loaded.variant, experiment.model)
    return dataclasses.replace(loaded, variant=changed), None
  assert experiment.variant is not None  # as the config has checked
  assert experiment.image_tokenizer is not None
  tokenizers = start.load_tokenizers(
    experiment.image_tokenizer, experiment.text_tokenizer
  )
  variant = start.load_variant(
    experiment.variant, experiment.model, tokenizers=tokenizers
  )
  return (
    start.make_pipeline(variant, tokenizers),
    start.make_init(experiment.init_from, variant, tokenizers.words),
  )


def begin(
  experiment: sft_config.Experiment,
  pipeline: pipeline_lib.ParallelPipeline,
  init: start.Init | None,
  tx: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
) -> tuple[train_state.TrainState, Any, Any]:
  """Return the first state, its shardings, and the weights beneath adapters.

  Args:
    experiment: the run.
    pipeline: the model.
    init: draws the parameters that it lacks.
    tx: the optimiser.
    mesh: where the state lives.
  """
  transformer = pipeline.variant.transformer
  key = jax.random.key(experiment.seed)
  if init is not None:
    state, places = train_state.init_state(
      init,
      tx,
      key,
      mesh=mesh,
      logical_axes=transformer_lib.logical_axes(transformer),
    )
    return state, places, None
  return start.begin_from(
    pipeline.params,
    tx,
    key,
    transformer=transformer,
    lora=experiment.lora,
    # No step's own key: adapters must not share bits with the noise.
    adapters_key=jax.random.fold_in(key, experiment.num_steps),
    mesh=mesh,
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """A run that is ready to begin.

  Attributes:
    experiment: its config.
    pipeline: the model without a transformer.
    layout: the largest of its rows.
    sources: its folders of own examples.
    identity: what a checkpoint must share with it.
    state: the first state.
    places: the same tree of shardings.
    frozen: the weights beneath adapters, or None.
    mesh: the devices.
  """

  experiment: sft_config.Experiment
  pipeline: pipeline_lib.ParallelPipeline
  layout: layout_lib.Layout
  sources: Sequence[coded.CodedSource]
  identity: dict[str, Any]
  state: train_state.TrainState
  places: Any
  frozen: Any
  mesh: jax.sharding.Mesh

  def make_step(
    self, layout: layout_lib.Layout, batch_sharding: Any
  ) -> step_lib.TrainStep:
    """Return the step for rows of a layout, jitted.

    It takes the state's buffers over.
    """
    places = jax.tree.map(lambda x: x.sharding, self.frozen)
    return jax.jit(
      make_step(self.experiment, self.pipeline.variant, layout),
      in_shardings=(self.places, batch_sharding, places),
      out_shardings=(self.places, None),
      donate_argnums=0,
    )

  def merged(self, params: Any) -> Any:
    """Return the parameters of the network: as trained, or with adapters."""
    if self.experiment.lora is None:
      return params
    return lora_lib.merge(self.experiment.lora, self.frozen, params)


def set_up(config: ml_collections.ConfigDict) -> Run:
  """Build everything that can be wrong before anything is written.

  Raises:
    ValueError: if the config is wrong.
    FileNotFoundError: if a folder is not there.
  """
  experiment = common.build(sft_config.Experiment, config)
  mesh = sharding.make_mesh(**dataclasses.asdict(experiment.mesh))
  processes.check_mesh(mesh)
  pipeline, init = load_model(experiment, mesh)
  tx, _ = make_tx(experiment, pipeline.variant)
  sources = own_data.open_folders(experiment.data, pipeline)
  state, places, frozen = begin(experiment, pipeline, init, tx, mesh)
  return Run(
    experiment=experiment,
    pipeline=dataclasses.replace(pipeline, params=None, mesh=None),
    layout=own_data.layout_of(experiment.data, pipeline),
    sources=sources,
    identity=identity(config, pipeline, sources),
    state=state,
    places=places,
    frozen=frozen,
    mesh=mesh,
  )
