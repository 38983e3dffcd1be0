"""What training changes: step, parameters, optimiser state and key.

The state is one pytree, so that one `jax.jit` donates it, one checkpoint
holds it and one tree of shardings places it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from paradiff import sharding

Params = Any  # a tree of float arrays


@flax.struct.dataclass
class TrainState:
  """Everything that a train step reads and writes.

  Attributes:
    step: int32[], updates done so far.
    params: tree of float arrays.
    opt_state: the optimiser's state for `params`.
    key: key[], constant over a run; step n draws from `fold_in(key, n)`.
    loop: arrays that a loop keeps from step to step besides, by name.
  """

  step: jax.Array
  params: Params
  opt_state: optax.OptState
  key: jax.Array
  loop: dict[str, Any] = flax.struct.field(default_factory=dict)


def create(
  params: Params, tx: optax.GradientTransformation, key: jax.Array
) -> TrainState:
  """Return the state before the first step.

  Args:
    params: tree of float arrays.
    tx: the optimiser.
    key: a typed PRNG key; all the run's randomness follows from it.
  """
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=tx.init(params),
    key=key,
  )


def init_state(
  init_fn: Callable[[jax.Array], Params],
  tx: optax.GradientTransformation,
  key: jax.Array,
  *,
  mesh: jax.sharding.Mesh,
  logical_axes: Any,
) -> tuple[TrainState, TrainState]:
  """Draw a state directly into its shardings; no device holds all of it.

  Args:
    init_fn: draws parameters from a key.
    tx: the optimiser.
    key: a typed PRNG key, split between parameters and training.
    mesh: where the state lives.
    logical_axes: the parameters' tree with tuples of axis names for leaves.

  Returns:
    The state, and the same tree of `jax.sharding.NamedSharding` leaves.
  """

  def init(key: jax.Array) -> TrainState:
    params_key, train_key = jax.random.split(key)
    return create(init_fn(params_key), tx, train_key)

  places = state_shardings(
    jax.eval_shape(init, key), mesh=mesh, logical_axes=logical_axes
  )
  return jax.jit(init, out_shardings=places)(key), places


def place_state(
  params: Params,
  tx: optax.GradientTransformation,
  key: jax.Array,
  *,
  mesh: jax.sharding.Mesh,
  logical_axes: Any,
  loop: dict[str, Any] | None = None,
) -> tuple[TrainState, TrainState]:
  """Return the state that begins with given parameters, in its shardings.

  Args:
    params: tree of float arrays; copied.
    tx: the optimiser.
    key: a typed PRNG key.
    mesh: where the state lives.
    logical_axes: the parameters' tree with tuples of axis names for leaves.
    loop: arrays that the loop keeps besides.

  Returns:
    The state, and the same tree of `jax.sharding.NamedSharding` leaves.
  """

  def make(params: Params, key: jax.Array, loop: dict[str, Any]) -> TrainState:
    return dataclasses.replace(create(params, tx, key), loop=loop)

  loop = loop or {}
  places = state_shardings(
    jax.eval_shape(make, params, key, loop),
    mesh=mesh,
    logical_axes=logical_axes,
  )
  return jax.jit(make, out_shardings=places)(params, key, loop), places


def state_shardings(
  state: TrainState, *, mesh: jax.sharding.Mesh, logical_axes: Any
) -> TrainState:
  """Return a sharding for every leaf of `state`.

  An optimiser keeps its moments in trees like that of the parameters, so a
  leaf whose path ends in a parameter's path, and that has its shape, lies
  where the parameter lies; the rest is replicated.

  Args:
    state: arrays or shapes.
    mesh: where the state lives.
    logical_axes: the parameters' tree with tuples of axis names for leaves.

  Raises:
    ValueError: if the mesh does not divide a parameter, naming it.
  """
  spec = jax.sharding.PartitionSpec()
  everywhere: Any = jax.sharding.NamedSharding(mesh, spec)
  params = sharding.shardings(mesh, logical_axes)
  sharding.check_even(state.params, params)
  shapes = dict(jax.tree.leaves_with_path(state.params))
  places = dict(jax.tree.leaves_with_path(params))

  def place(path: tuple[Any, ...], leaf: Any) -> Any:
    for first in range(len(path)):
      end = path[first:]
      if end in places and shapes[end].shape == leaf.shape:
        return places[end]
    return everywhere

  opt_state = jax.tree.map_with_path(place, state.opt_state)
  return dataclasses.replace(
    state,
    step=everywhere,
    params=params,
    opt_state=opt_state,
    key=everywhere,
    loop=jax.tree.map(lambda _: everywhere, state.loop),
  )
