"""Weights drawn instead of stored or trained.

Recorded runs of published networks carry no weights: both sides draw them by
the tensor's name.
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def like(shapes: Any) -> Any:
  """Draw a tree of flax kernels, gains, biases and tables of these shapes.

  Compiling the network's own `init` would take far longer.
  """
  rng = np.random.default_rng(0)

  def draw(path: Any, leaf: Any) -> jax.Array:
    x = rng.standard_normal(leaf.shape).astype(np.float32)
    name = path[-1].key
    if name == "kernel":
      x = x / np.sqrt(np.prod(leaf.shape[:-1]))
    elif name == "scale":
      x = 1 + 0.1 * x
    elif name == "bias":
      x = 0.1 * x
    return jnp.asarray(x)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def tensor(name: str, shape: tuple[int, ...], *, salt: str) -> np.ndarray:
  """Draw a torch tensor float32[*shape] the way the recordings did."""
  seed = zlib.crc32(f"{salt}/{name}".encode())
  x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
  if name == "quantize.embedding.weight":
    x = 0.3 * x
  elif len(shape) == 1:
    x = 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
  else:
    x = x / np.sqrt(np.prod(shape[1:]))
  return x.astype(np.float32)


def listed(lines: Sequence[Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
  """Read the recordings' lines, "name (1, 2)", as names and shapes."""
  for line in map(str, lines):
    name, sizes = line.split(" ", 1)
    yield name, tuple(int(s) for s in sizes.strip("()").split(",") if s.strip())


def hang(tree: dict[str, Any], path: Sequence[str], value: np.ndarray) -> None:
  """Put a torch tensor at its place in a tree of flax parameters.

  Kernels [out, in, height, width] are turned to [height, width, in, out], and
  a last name "weight" becomes "kernel" or "scale".
  """
  *folders, leaf = path
  if value.ndim == 4:
    value = value.transpose(2, 3, 1, 0)
  if leaf == "weight":
    leaf = "kernel" if value.ndim == 4 else "scale"
  for folder in folders:
    tree = tree.setdefault(folder, {})
  tree[leaf] = value
