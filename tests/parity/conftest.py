"""Weights for the networks that are compared live."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def randomise() -> Callable[[Any], dict[str, np.ndarray]]:
  """Return what gives a torch network random weights and returns them.

  Matrices keep the scale of what they map, gains lie about one: at a fresh
  network's own scale, faults of norms and biases would not show.
  """
  torch = pytest.importorskip("torch")

  def give(network: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    network.eval()
    for name, tensor in network.state_dict().items():
      x = rng.standard_normal(tensor.shape)
      if tensor.ndim == 1:
        x = 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
      elif tensor.ndim > 1:
        x = x / np.sqrt(np.prod(tensor.shape[1:]))
      tensor.copy_(torch.from_numpy(np.asarray(x, np.float32)))
    return {
      name: tensor.numpy() for name, tensor in network.state_dict().items()
    }

  return give
