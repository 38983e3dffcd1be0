"""Arithmetic of the backbone, counted from its sizes.

A multiply-add is two floating-point operations; norms, softmax and rotations
are not counted.
"""

from paradiff.models import transformer_config


def num_weights(config: transformer_config.TransformerConfig) -> int:
  """Return how many numbers the matrices of the blocks and the tables have."""
  d, f = config.width, config.mlp_width
  blocks = config.num_layers * (4 * d * d + 3 * d * f)
  return blocks + (2 * config.vocab_size + config.num_places) * d


def forward_flops(
  config: transformer_config.TransformerConfig,
  seq_len: int,
  head_products: float,
) -> float:
  """Return the operations of one sequence's forward pass.

  Args:
    config: the sizes.
    seq_len: L.
    head_products: positions times columns that the head computes.
  """
  d, f = config.width, config.mlp_width
  block = 2 * seq_len * (4 * d * d + 3 * d * f) + 4 * seq_len**2 * d
  return config.num_layers * block + 2 * d * head_products
