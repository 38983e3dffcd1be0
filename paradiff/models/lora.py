"""Low-rank adapters of the backbone's matrices.

Hu et al., arXiv 2106.09685: beside a frozen matrix W a block computes

  x W + (alpha / rank) (x A) B

with A of shape [in, rank] and B of shape [rank, out]. B begins at 0, so that
training begins at the base. Only the adapters have gradients and optimiser
state, and no sum W + A B is formed: the base's own tree, which `attach` does
not change, is the reference policy.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from paradiff.models import transformer

Params = transformer.Params
TARGETS = ("q_proj", "k_proj", "v_proj", "attn_out", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Which matrices have adapters, and of what size.

  Attributes:
    rank: rank r of each product A B.
    alpha: the product is scaled by alpha / rank.
    targets: names of the blocks' matrices that have an adapter, of `TARGETS`.

  Raises:
    ValueError: if a value leaves its range.
  """

  rank: int = 16
  alpha: float = 32.0
  targets: tuple[str, ...] = TARGETS

  def __post_init__(self) -> None:
    object.__setattr__(self, "targets", tuple(self.targets))  # lists from json
    if self.rank < 1:
      raise ValueError(f"rank must be positive, got {self.rank}")
    if not 0 < self.alpha < math.inf:
      raise ValueError(f"alpha must be positive and finite, got {self.alpha}")
    unknown = sorted(set(self.targets) - set(TARGETS))
    if unknown:
      raise ValueError(f"targets must be of {TARGETS}, got {unknown}")
    if not self.targets or len(set(self.targets)) < len(self.targets):
      raise ValueError(
        f"targets must name one matrix or more, each once, got {self.targets}"
      )

  @property
  def scale(self) -> float:
    """Factor alpha / rank of every product A B."""
    return self.alpha / self.rank


def init(
  config: LoraConfig,
  transformer_config: transformer.TransformerConfig,
  key: jax.Array,
) -> Params:
  """Draw adapters: A normal with variance 1 / fan in, B zero.

  Args:
    config: ranks and targets.
    transformer_config: the sizes of the backbone.
    key: a typed PRNG key.

  Returns:
    {"blocks": {target: {"a": float32[n, in..., r], "b": float32[n, r,
    out...]}}} with the n layers in front and the matrix's own input and output
    axes.

  Source: arXiv 2106.09685 section 4.1.
  """
  shapes = jax.eval_shape(lambda: transformer.init(transformer_config, key))
  axes = transformer.matrix_axes(transformer_config)
  blocks: Params = {}
  keys = jax.random.split(key, len(TARGETS))
  for name, own_key in zip(TARGETS, keys, strict=True):
    if name not in config.targets:
      continue
    num_layers, *sizes = shapes["blocks"][name].shape
    num_inputs = len(axes["blocks"][name][0])
    inputs, outputs = sizes[:num_inputs], sizes[num_inputs:]
    a = jax.random.normal(
      own_key, (num_layers, *inputs, config.rank), jnp.float32
    )
    blocks[name] = {
      "a": a * math.prod(inputs) ** -0.5,
      "b": jnp.zeros((num_layers, config.rank, *outputs), jnp.float32),
    }
  return {"blocks": blocks}


def logical_axes(
  config: LoraConfig, transformer_config: transformer.TransformerConfig
) -> Params:
  """Return the tree of adapters with logical axis names for leaves.

  Input and output axes lie where the matrix's own do; the rank is replicated.
  """
  names = transformer.logical_axes(transformer_config)["blocks"]
  axes = transformer.matrix_axes(transformer_config)["blocks"]
  blocks: Params = {}
  for name in config.targets:
    inputs, outputs = axes[name]
    blocks[name] = {
      "a": (None, *(names[name][axis] for axis in inputs), None),
      "b": (None, None, *(names[name][axis] for axis in outputs)),
    }
  return {"blocks": blocks}


def attach(config: LoraConfig, params: Params, adapters: Params) -> Params:
  """Return the base's tree with the adapters beside their matrices.

  The leaves of the base are in it as they are, and the blocks compute
  x W + (alpha / rank) (x A) B in the compute dtype. The backward pass keeps no
  copy of the base's matrices if they already have the compute dtype, or if
  `remat` is "full"; else it keeps them as they were cast.

  Args:
    config: what the adapters were drawn with.
    params: from `transformer.init`, in any float dtype.
    adapters: from `init`.

  Returns:
    A tree for `transformer.trunk` and `transformer.head`.

  Raises:
    ValueError: if the adapters are not of the configured matrices and rank.

  Source: arXiv 2106.09685 equation 3.
  """
  _check(config, adapters)
  scaled = {
    name: {"a": pair["a"], "b": pair["b"] * config.scale}
    for name, pair in adapters["blocks"].items()
  }
  return params | {"blocks": params["blocks"] | {"lora": scaled}}


def merge(config: LoraConfig, params: Params, adapters: Params) -> Params:
  """Return plain parameters with W + (alpha / rank) A B for every target.

  They are a model like any other, to be shipped. Sums are made in float32 and
  have the dtype of the base's matrices.

  Args:
    config: what the adapters were drawn with.
    params: from `transformer.init`, in any float dtype.
    adapters: from `init`.

  Raises:
    ValueError: if the adapters are not of the configured matrices and rank.

  Source: arXiv 2106.09685 section 4.1.
  """
  _check(config, adapters)
  merged = {}
  for name, pair in adapters["blocks"].items():
    base = params["blocks"][name]
    change = jax.vmap(lambda a, b: jnp.tensordot(a, b, 1))(pair["a"], pair["b"])
    total = base.astype(jnp.float32) + config.scale * change
    merged[name] = total.astype(base.dtype)
  return params | {"blocks": params["blocks"] | merged}


def _check(config: LoraConfig, adapters: Params) -> None:
  """Refuse adapters that `init` would not draw for `config`."""
  names = sorted(adapters["blocks"])
  if names != sorted(config.targets):
    raise ValueError(
      f"adapters must be of the targets {sorted(config.targets)}, got {names}"
    )
  ranks = {pair["a"].shape[-1] for pair in adapters["blocks"].values()}
  if ranks != {config.rank}:
    raise ValueError(
      f"adapters must have the rank {config.rank}, got {sorted(ranks)}"
    )
