"""The programs of a config, lowered from shapes alone.

Nothing is computed and no weights are read: parameters, state and batches are
shapes with shardings on a mesh of devices that need not be there.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from experiments import common
from experiments import rl_config
from experiments import rl_setup
from experiments import sft_config
from experiments import sft_setup
from launch import jaxprs
from launch import shapes as shapes_lib
from paradiff import published
from paradiff import sharding
from paradiff import step as step_lib
from paradiff import variants
from paradiff.diffusion import corrupt
from paradiff.diffusion import sampler
from paradiff.models import counts
from paradiff.models import lora as lora_lib
from paradiff.rl import iteration
from paradiff.rl import terms as terms_lib

KINDS = ("sft", "rl")
PROGRAMS = ("train", "sample", "learn")
VARIANTS = {**published.VARIANTS, **variants.VARIANTS}


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """One program.

  Attributes:
    name: what it does.
    lower: lowers it for its mesh.
    model_flops: operations that its results need, of the whole batch.
    count_flops: counts those that it makes, with what it makes again for want
      of memory.
    num_passes: of the network over a batch, each of which reads the weights.
    rows: of a batch.
  """

  name: str
  lower: Callable[[], Any]
  model_flops: float
  count_flops: Callable[[], float]
  num_passes: float
  rows: int


def _plain(variant: variants.Variant) -> variants.Variant:
  """Return the variant without kernels, whose operations can be counted."""
  backbone = dataclasses.replace(variant.transformer, attention="plain")
  return dataclasses.replace(variant, transformer=backbone)


def _forward(shapes: shapes_lib.Shapes, head_products: float) -> float:
  return counts.forward_flops(
    shapes.variant.transformer, shapes.seq_len, head_products
  )


def _passes(lora: lora_lib.LoraConfig | None) -> int:
  """Return the passes' worth of a step: with adapters W has no gradient."""
  return 3 if lora is None else 2


def train(
  shapes: shapes_lib.Shapes, experiment: sft_config.Experiment
) -> Program:
  """Return the supervised step."""
  tx, _ = sft_setup.make_tx(experiment, shapes.variant)
  state, places = shapes.state(tx, experiment.lora)
  frozen = None
  if experiment.lora is not None:
    frozen = shapes.params(jnp.bfloat16)
  batch_size, vocab = experiment.batch_size, shapes.variant.vocab
  condition = shapes.condition(batch_size)
  batch = {
    "prefix": condition.prefix,
    "prefix_valid": condition.valid,
    "answer": shapes.answer(batch_size),
  }
  step, plain = (
    sft_setup.make_step(experiment, variant, shapes.layout)
    for variant in (shapes.variant, _plain(shapes.variant))
  )
  text, image = corrupt.capacity(shapes.layout, batch_size=batch_size)
  products = text * vocab.text_size + image * vocab.codebook_size
  forward = _forward(shapes, products / batch_size)
  return Program(
    name="train",
    lower=lambda: jax.jit(
      step, out_shardings=(places, None), donate_argnums=0
    ).lower(state, batch, frozen),
    model_flops=_passes(experiment.lora) * batch_size * forward,
    count_flops=lambda: jaxprs.flops(
      jax.make_jaxpr(plain)(state, batch, frozen)
    ),
    num_passes=3.0 * experiment.num_microbatches,
    rows=batch_size,
  )


def sample(shapes: shapes_lib.Shapes, *, num_rows: int) -> Program:
  """Return the sampler with the variant's own settings."""
  config, layout = shapes.variant.sampler, shapes.layout
  model = variants.model_of(shapes.variant, layout)
  schedule = sampler.schedule_of(config, layout)
  vocab = shapes.variant.vocab
  text = layout.text_len * vocab.text_size
  image = layout.image_len * vocab.codebook_size
  flops, passes = 0.0, 0
  for is_due in schedule.image_step:
    # Each branch of the guidance is a pass of its own.
    branches = len(config.text_guidance.branches)
    if is_due:
      used = {*config.text_guidance.branches, *config.image_guidance.branches}
      branches = len(used)
    flops += _forward(shapes, text + image * bool(is_due))
    flops += branches * _forward(shapes, image * bool(is_due))
    passes += 1 + branches
  run = functools.partial(sampler.sample, config, model)
  return Program(
    name=f"sample, {config.num_steps} steps",
    lower=lambda: jax.jit(run).lower(
      shapes.params(jnp.bfloat16),
      shapes.condition(num_rows),
      shapes.answer(num_rows),
      key=shapes.key(),
    ),
    model_flops=num_rows * flops,
    count_flops=lambda: num_rows * flops,  # nothing is made twice
    num_passes=passes,
    rows=num_rows,
  )


def learn(
  shapes: shapes_lib.Shapes, experiment: rl_config.Experiment
) -> Program:
  """Return ParaRL's scoring and update of one batch of rollouts."""
  terms = tuple(terms_lib.Term(name) for name in sorted(experiment.rewards))
  settings = rl_setup.make_config(experiment, shapes.variant, terms)
  model = variants.model_of(shapes.variant, shapes.layout)
  tx, _ = rl_setup.make_tx(experiment, shapes.variant)
  state, places = shapes.state(tx, settings.lora)
  frozen = anchor = None
  has_reference = settings.objective.kl_anchor == "ref"
  if settings.lora is not None:
    frozen = shapes.params(jnp.bfloat16)
  elif has_reference:
    anchor = shapes.params(jnp.float32)
  rollouts = experiment.num_prompts * settings.group_size
  rows = _rows(shapes, settings, model, rollouts)
  step, plain = (
    step_lib.make_train_step(
      iteration.make_loss(settings, variants.model_of(variant, shapes.layout)),
      tx,
      num_microbatches=experiment.num_microbatches,
    )
    for variant in (shapes.variant, _plain(shapes.variant))
  )
  kl_coef = shapes.everywhere(jax.ShapeDtypeStruct((), jnp.float32))
  num_rows = rollouts * settings.units.num
  spans = iteration.modalities(settings, model)
  products = sum(s.capacity * (s.columns[1] - s.columns[0]) for s in spans)
  passes = _passes(settings.lora) + has_reference
  return Program(
    name="learn",
    lower=lambda: jax.jit(
      step, out_shardings=(places, None), donate_argnums=0
    ).lower(state, rows, frozen, anchor, kl_coef),
    model_flops=num_rows * passes * _forward(shapes, products),
    count_flops=lambda: jaxprs.flops(
      jax.make_jaxpr(plain)(state, rows, frozen, anchor, kl_coef)
    ),
    num_passes=(3.0 + has_reference) * experiment.num_microbatches,
    rows=num_rows,
  )


def _rows(
  shapes: shapes_lib.Shapes,
  settings: iteration.ParaRlConfig,
  model: Any,
  rollouts: int,
) -> Any:
  """Return the shapes of the rows that are learned from."""
  params = frozen = shapes.params(jnp.bfloat16)
  if settings.lora is not None:
    params = jax.eval_shape(
      functools.partial(
        lora_lib.init, settings.lora, shapes.variant.transformer
      ),
      jax.random.key(0),
    )
  prompts = shapes_lib.condition(shapes.layout, rollouts // settings.group_size)
  rolled = jax.eval_shape(
    functools.partial(iteration.roll, settings, model),
    *(params, frozen, prompts),
    key=jax.random.key(0),
  )
  num_terms, num_points = len(settings.terms), settings.num_points
  raw = jax.ShapeDtypeStruct((rollouts, num_points, num_terms), jnp.float32)
  rows, _, _ = jax.eval_shape(
    functools.partial(iteration.prepare, settings, model),
    *(rolled, raw, terms_lib.init_stats(num_terms, 3)),
    key=jax.random.key(0),
  )
  return shapes.rows(rows)


def of_config(
  kind: str,
  config: ml_collections.ConfigDict,
  *,
  variant: str,
  mesh: jax.sharding.Mesh,
  only: Sequence[str] = (),
  prompt_len: int | None = None,
) -> Iterator[Program]:
  """Yield the programs of a config.

  Args:
    kind: of KINDS.
    config: as the files in `experiments/configs` give it.
    variant: the model, of VARIANTS; what folders the config names is not read.
    mesh: where they are to run.
    only: of PROGRAMS, those that are wanted; default: all.
    prompt_len: tokens that prompts have room for; default: the model's.

  Raises:
    ValueError: if one of them is wrong.
  """
  if kind not in KINDS:
    raise ValueError(f"experiment must be one of {KINDS}, got {kind!r}")
  unknown = [name for name in only if name not in PROGRAMS]
  if unknown:
    raise ValueError(f"programs must be of {PROGRAMS}, got {unknown}")
  if variant not in VARIANTS:
    raise ValueError(
      f"variant must be one of {sorted(VARIANTS)}, got {variant!r}"
    )
  if kind == "sft":
    sft = common.build(sft_config.Experiment, config)
    model = common.override(VARIANTS[variant], sft.model)
    layout = shapes_lib.layout_of(model, prompt_len=prompt_len)
    shapes = shapes_lib.Shapes(model, layout, mesh)
    if not only or "train" in only:
      yield train(shapes, sft)
    if not only or "sample" in only:
      yield sample(shapes, num_rows=sharding.row_shards(mesh))
  elif not only or "learn" in only:
    rl = common.build(rl_config.Experiment, config)
    model = rl.applied(VARIANTS[variant])
    layout = shapes_lib.layout_of(model, prompt_len=prompt_len)
    yield learn(shapes_lib.Shapes(model, layout, mesh), rl)
