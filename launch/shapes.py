"""Shapes of what a run's programs take, on a mesh that need not exist."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from experiments import own_data
from paradiff import layout as layout_lib
from paradiff import sequence as sequence_lib
from paradiff import sharding
from paradiff import train_state
from paradiff import variants
from paradiff.models import lora as lora_lib
from paradiff.models import transformer as transformer_lib

# Tokens of the words that stand in for a dropped prompt: a published model's
# tokenizer, which is not read here, knows the number.
_NULL_PROMPT = (0,) * 32


def layout_of(
  variant: variants.Variant, *, prompt_len: int | None
) -> layout_lib.Layout:
  """Return the layout of an edit with room for a prompt of as many tokens."""
  base = variant.layout
  if prompt_len:
    base = dataclasses.replace(base, prompt_len=prompt_len)
  if not variant.tasks:
    return base
  task = variant.task("edit")
  null = _NULL_PROMPT[: base.prompt_len - 1] if task.null_prompt else ()
  return own_data.task_layout(task, base, null_prompt=null)


def condition(layout: layout_lib.Layout, num_rows: int) -> Any:
  """Return the shapes of as many prompts, placed nowhere."""
  shape = (num_rows, layout.prefix_len)
  ids: Any = jax.ShapeDtypeStruct(shape, jnp.int32)
  valid: Any = jax.ShapeDtypeStruct(shape, jnp.bool_)
  return sequence_lib.Condition(prefix=ids, valid=valid)


@dataclasses.dataclass(frozen=True, eq=False)
class Shapes:
  """Shapes of what programs take, placed on a mesh.

  Attributes:
    variant: the model.
    layout: of its rows.
    mesh: where everything lies.
  """

  variant: variants.Variant
  layout: layout_lib.Layout
  mesh: jax.sharding.Mesh

  def place(self, tree: Any, places: Any) -> Any:
    """Return the shapes with shardings.

    Raises:
      ValueError: if the mesh does not divide an array.
    """
    sharding.check_even(tree, places)
    return jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      tree,
      places,
    )

  def everywhere(self, tree: Any) -> Any:
    """Return the shapes, replicated."""
    spec = jax.sharding.PartitionSpec()
    place = jax.sharding.NamedSharding(self.mesh, spec)
    return self.place(tree, jax.tree.map(lambda _: place, tree))

  def rows(self, tree: Any) -> Any:
    """Return the shapes, the first axis shared out like a batch."""
    place = jax.sharding.NamedSharding(self.mesh, sharding.spec(("batch",)))
    return self.place(tree, jax.tree.map(lambda _: place, tree))

  def key(self) -> Any:
    """Return the shape of a key."""
    return self.everywhere(jax.eval_shape(lambda: jax.random.key(0)))

  def params(self, dtype: Any) -> Any:
    """Return the shapes of the network's parameters in a dtype."""
    config = self.variant.transformer
    shapes = jax.eval_shape(
      lambda: jax.tree.map(
        lambda x: x.astype(dtype),
        transformer_lib.init(config, jax.random.key(0)),
      )
    )
    axes = transformer_lib.logical_axes(config)
    return self.place(shapes, sharding.shardings(self.mesh, axes))

  def state(self, tx: Any, lora: lora_lib.LoraConfig | None) -> tuple[Any, Any]:
    """Return the state's shapes and its shardings."""
    config = self.variant.transformer
    init, axes = transformer_lib.init, transformer_lib.logical_axes(config)
    if lora is not None:
      init = functools.partial(lora_lib.init, lora)
      axes = lora_lib.logical_axes(lora, config)

    def make(key: jax.Array) -> train_state.TrainState:
      return train_state.create(init(config, key), tx, key)

    shapes = jax.eval_shape(make, jax.random.key(0))
    places = train_state.state_shardings(
      shapes, mesh=self.mesh, logical_axes=axes
    )
    return self.place(shapes, places), places

  def condition(self, num_rows: int) -> Any:
    """Return the shapes of as many prompts."""
    return self.rows(condition(self.layout, num_rows))

  def answer(self, num_rows: int) -> Any:
    """Return the shape of as many answers."""
    shape = (num_rows, self.layout.answer_len)
    return self.rows(jax.ShapeDtypeStruct(shape, jnp.int32))

  @property
  def seq_len(self) -> int:
    """Tokens of a row."""
    return self.layout.prefix_len + self.layout.answer_len
