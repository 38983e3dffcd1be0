"""The supervised loss of MMaDA-Parallel-A: one mean over all hidden tokens.

  loss = mean of CE over the supervised tokens of the batch, text and picture

so a picture of a thousand codes outweighs its text, and no time weighs in.
`objective.sft_loss` is the loss to train with; this one reproduces the
published training step on sequences that are already corrupted.

Source: tyfeld/MMaDA-Parallel, `modeling_xllmx_dimoo.py`, forward with labels.
"""

from typing import Any

import jax
import jax.numpy as jnp

from paradiff import masked
from paradiff import vocab as vocab_lib
from paradiff.diffusion import model as model_lib

UNSUPERVISED = -100  # the label of a token without a loss


def pooled_loss(
  denoiser: model_lib.Denoiser,
  vocab: vocab_lib.Vocab,
  params: Any,
  tokens: jax.Array,
  labels: jax.Array,
  *,
  valid: jax.Array,
  is_code: jax.Array,
) -> dict[str, jax.Array]:
  """Score corrupted sequences.

  Args:
    denoiser: the network; the published one attends to padding.
    vocab: the ids.
    params: the network's parameters.
    tokens: int32[B, L], hidden tokens replaced by `mask_id`.
    labels: int32[B, L], the true ids of hidden tokens, else UNSUPERVISED.
    valid: bool[B, L], False for padding.
    is_code: bool[B, L], codes of the answer's picture, hidden or not.

  Returns:
    float32[] each, in nats: `total`; `text`, the mean over hidden text; and
    `image`, the mean over all codes of the answers, of which those in view
    count as 0 (so it reads too low, as published).
  """
  supervised = labels != UNSUPERVISED
  hidden = denoiser.trunk(params, tokens, valid, None)
  logits = denoiser.head(params, hidden, columns=(0, vocab.size))
  column = jnp.where(supervised, labels, 0)
  ce = jnp.where(supervised, -masked.token_logp(logits, column), 0.0)
  return {
    "total": masked.masked_mean(ce, supervised),
    "text": masked.masked_mean(ce, supervised & ~is_code),
    "image": masked.masked_mean(ce, is_code),
  }
