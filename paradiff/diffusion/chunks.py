"""Apply a function to rows in chunks, recomputed in the backward pass.

Bounds what stands in memory at once: logits of rows over 134,656 ids. On a mesh
the devices that share a batch share each chunk: rows that were picked from all
of a batch would else be worked through by every device.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from paradiff import sharding


def mapped(function: Callable[[Any], Any], rows: Any, *, chunk_len: int) -> Any:
  """Return `function(rows)`, computed at most `chunk_len` rows at a time.

  Args:
    function: maps a tree of arrays [r, ...] to one of arrays [r, ...], each
      row for itself, whatever r is.
    rows: a tree of arrays [R, ...].
    chunk_len: rows a chunk, positive; more by less than the devices that share
      a batch where it is no multiple of them.
  """
  num_rows = jax.tree.leaves(rows)[0].shape[0]
  num_chunks = -(-num_rows // chunk_len)
  shards = sharding.row_shards()
  length = -(-min(chunk_len, num_rows) // shards) * shards
  extra = num_chunks * length - num_rows

  def shared(part: Any) -> Any:
    part = jax.tree.map(
      lambda x: sharding.constrain(x, ("batch", *(None,) * (x.ndim - 1))), part
    )
    return function(part)

  if extra:
    pads = lambda x: ((0, extra), *((0, 0),) * (x.ndim - 1))  # noqa: E731
    rows = jax.tree.map(lambda x: jnp.pad(x, pads(x)), rows)
  if num_chunks == 1:
    values = shared(rows)
  else:
    chunks = jax.tree.map(
      lambda x: x.reshape(num_chunks, length, *x.shape[1:]), rows
    )
    values = jax.lax.map(jax.checkpoint(shared), chunks)
    values = jax.tree.map(
      lambda x: x.reshape(num_chunks * length, *x.shape[2:]), values
    )
  return jax.tree.map(lambda x: x[:num_rows], values) if extra else values
