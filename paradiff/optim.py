"""The optimiser: AdamW behind a gradient clip, warm-up and cosine decay.

Loshchilov and Hutter, arXiv 1711.05101 (decoupled decay). With `warmup_steps`
w, `num_steps` n and peak p, the rate rises linearly from 0 over the first w
updates, then falls along half a cosine from p to `end_rate * p` at update n.

The matrices inside the blocks can be updated by Muon instead, which learns
more from each batch (Jordan et al. 2024: the momentum's nearest orthogonal
matrix); the other parameters keep AdamW.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
import optax.contrib

from paradiff import ema

# Leaves whose last name ends so are vectors, stacked over layers or not.
_VECTOR_NAMES = ("norm", "bias", "scale")
MOMENT_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """Options of the optimiser.

  Attributes:
    learning_rate: peak of the schedule, positive.
    num_steps: updates of the whole run, more than `warmup_steps`.
    warmup_steps: updates of the linear warm-up.
    end_rate: final learning rate as a share of the peak, in [0, 1].
    weight_decay: decoupled decay of matrices, not of vectors.
    b1: decay of the first moment, in [0, 1).
    b2: decay of the second moment, in [0, 1).
    eps: added to the root of the second moment.
    clip_norm: largest global norm of a gradient, positive.
    muon_ratio: Muon's learning rate as a multiple of `learning_rate`; 0 for
      AdamW alone.
    moment_dtype: of the first moment, "float32" or "bfloat16", which halves
      its memory; AdamW's second moment stays in float32.
    ema_rate: what a running mean of the parameters keeps of itself at each
      update, in (0, 1), see `ema`; 0 for none.

  Raises:
    ValueError: if a value leaves its range.
  """

  learning_rate: float
  num_steps: int
  warmup_steps: int = 100
  end_rate: float = 0.0
  weight_decay: float = 0.01
  b1: float = 0.9
  b2: float = 0.99
  eps: float = 1e-8
  clip_norm: float = 1.0
  muon_ratio: float = 0.0
  moment_dtype: str = "float32"
  ema_rate: float = 0.0

  def __post_init__(self) -> None:
    if not 0 <= self.warmup_steps < self.num_steps:
      raise ValueError(
        "warmup_steps must lie in [0, num_steps), got "
        f"{self.warmup_steps=} {self.num_steps=}"
      )
    for name in ("learning_rate", "eps", "clip_norm"):
      if not getattr(self, name) > 0:
        raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
    if not 0 <= self.end_rate <= 1:
      raise ValueError(f"end_rate must lie in [0, 1], got {self.end_rate}")
    for name in ("weight_decay", "muon_ratio"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
    if self.moment_dtype not in MOMENT_DTYPES:
      raise ValueError(
        f"moment_dtype must be one of {MOMENT_DTYPES}, got "
        f"{self.moment_dtype!r}"
      )
    for name in ("b1", "b2", "ema_rate"):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(
          f"{name} must lie in [0, 1), got {getattr(self, name)}"
        )


def make_schedule(config: OptimConfig) -> optax.Schedule:
  """Return the learning rate as a function of the number of updates done."""
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0 if config.warmup_steps else config.learning_rate,
    peak_value=config.learning_rate,
    warmup_steps=config.warmup_steps,
    decay_steps=config.num_steps,
    end_value=config.end_rate * config.learning_rate,
  )


def is_decayed(params: Any) -> Any:
  """Return the tree of `params` with True where weight decay applies.

  Gains and biases are exempt, also where they are stacked over the layers and
  so have two axes: the name decides, not the number of axes alone.
  """

  def decide(path: tuple[Any, ...], leaf: jax.Array) -> bool:
    name = str(getattr(path[-1], "key", "")) if path else ""
    return leaf.ndim >= 2 and not name.endswith(_VECTOR_NAMES)

  return jax.tree_util.tree_map_with_path(decide, params)


def make_tx(
  config: OptimConfig, *, matrix_axes: Any = None
) -> optax.GradientTransformation:
  """Return clip by global norm, then AdamW or Muon on the schedule.

  A running mean of the parameters comes last, if there is one.

  Args:
    config: the options.
    matrix_axes: the parameters' tree with (input axes, output axes) for the
      leaves that Muon updates and None for the others.

  Raises:
    ValueError: if `muon_ratio` is not 0 and there is no `matrix_axes`.
  """
  schedule = make_schedule(config)
  adamw = optax.adamw(
    schedule,
    b1=config.b1,
    b2=config.b2,
    eps=config.eps,
    weight_decay=config.weight_decay,
    mask=is_decayed,
    mu_dtype=config.moment_dtype,
  )
  clip = optax.clip_by_global_norm(config.clip_norm)
  mean = [ema.track(config.ema_rate)] if config.ema_rate else []
  if config.muon_ratio == 0:
    return optax.chain(clip, adamw, *mean)
  if matrix_axes is None:
    raise ValueError(
      f"matrix_axes must be given where {config.muon_ratio=} is not 0"
    )

  def each(function: Callable[[Any], Any]) -> Any:
    is_entry = lambda node: node is None or isinstance(node, tuple)  # noqa: E731
    return jax.tree.map(function, matrix_axes, is_leaf=is_entry)

  muon = optax.contrib.muon(
    schedule,
    weight_decay=config.weight_decay,
    mu_dtype=config.moment_dtype,
    muon_weight_dimension_numbers=each(
      lambda axes: axes and optax.contrib.MuonDimensionNumbers(*axes)
    ),
  )
  return optax.chain(
    clip,
    optax.partition(
      {
        "muon": optax.chain(muon, optax.scale(config.muon_ratio)),
        "adamw": adamw,
      },
      each(lambda axes: "muon" if axes else "adamw"),
    ),
    *mean,
  )
