"""Apply a function to rows in chunks, recomputed in the backward pass.

Bounds what stands in memory at once: logits of rows over 134,656 ids.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def mapped(function: Callable[[Any], Any], rows: Any, *, chunk_len: int) -> Any:
  """Return `function(rows)`, computed at most `chunk_len` rows at a time.

  Args:
    function: maps a tree of arrays [r, ...] to one of arrays [r, ...], each
      row for itself, whatever r is.
    rows: a tree of arrays [R, ...].
    chunk_len: rows a chunk, positive.
  """
  num_rows = jax.tree.leaves(rows)[0].shape[0]
  if num_rows <= chunk_len:
    return function(rows)
  num_chunks = -(-num_rows // chunk_len)
  extra = num_chunks * chunk_len - num_rows

  def cut(x: jax.Array) -> jax.Array:
    padded = jnp.pad(x, ((0, extra), *((0, 0),) * (x.ndim - 1)))
    return padded.reshape(num_chunks, chunk_len, *x.shape[1:])

  values = jax.lax.map(jax.checkpoint(function), jax.tree.map(cut, rows))
  return jax.tree.map(
    lambda x: x.reshape(num_chunks * chunk_len, *x.shape[2:])[:num_rows], values
  )
