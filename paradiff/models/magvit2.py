"""Lookup-free quantisation (LFQ), the quantiser of MAGVITv2.

Yu et al. 2023 (arXiv 2310.05737), section 3.1. Every channel of the encoder's
output is one bit of the code, and the sign is the quantiser, so there is no
codebook to look anything up in. Worked example with three channels:
z = (0.3, -0.2, 1.1) has bits (1, 0, 1), the code 1*4 + 0*2 + 1*1 = 5, and the
decoder receives (+1, -1, +1). Channel 0 is the most significant bit; exactly
zero counts as a 0 bit.
"""

import jax
import jax.numpy as jnp


def quantise(latents: jax.Array) -> jax.Array:
  """Return the sign of `latents`, with the gradient of the identity.

  Args:
    latents: float32[..., C].

  Returns:
    float32[..., C] of -1 and 1; its gradient passes straight through.
  """
  signs = jnp.where(latents > 0, 1.0, -1.0).astype(latents.dtype)
  return latents + jax.lax.stop_gradient(signs - latents)


def latents_to_codes(latents: jax.Array) -> jax.Array:
  """Return int32[...] codes of latents float32[..., C], most significant first.

  Differs from upstream: none; `power_vals` of the checkpoint are these weights.
  """
  code_bits = latents.shape[-1]
  weights = 2 ** jnp.arange(code_bits - 1, -1, -1, dtype=jnp.int32)
  return jnp.einsum("...c,c->...", (latents > 0).astype(jnp.int32), weights)


def codes_to_bits(codes: jax.Array, *, code_bits: int) -> jax.Array:
  """Return float32[..., code_bits] of -1 and 1 for int32[...] codes."""
  shifts = jnp.arange(code_bits - 1, -1, -1, dtype=jnp.int32)
  shifts = shifts.reshape((1,) * codes.ndim + (code_bits,))
  bits = (codes[..., None] >> shifts) & 1
  return bits.astype(jnp.float32) * 2 - 1


def entropies(
  latents: jax.Array, *, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
  """Return the two entropies of the LFQ entropy loss, in nats.

  A code's probability is softmax(-|z - c|^2 / temperature), a product of
  sigmoid(4 z_i / temperature) over its bits, so the entropy of one latent is
  the sum over its bits, and the batch's is that of the exact mean over all
  2^C codes.

  Args:
    latents: float32[..., C].
    temperature: > 0; small values count only latents near zero as unsure.

  Returns:
    (sample, batch): float32[] mean entropy of a latent's code, which training
    lowers, and entropy of the mean distribution, which it raises.

  Source: arXiv 2310.05737, equation 5; H[q] with the codebook of equation 4.
  """
  code_bits = latents.shape[-1]
  scaled = 4.0 / temperature * latents.reshape(-1, code_bits)
  log_one = jax.nn.log_sigmoid(scaled)
  log_zero = jax.nn.log_sigmoid(-scaled)
  bit_entropy = -(jnp.exp(log_one) * log_one + jnp.exp(log_zero) * log_zero)
  sample = jnp.mean(jnp.sum(bit_entropy, axis=-1))

  is_one = codes_to_bits(
    jnp.arange(2**code_bits, dtype=jnp.int32), code_bits=code_bits
  )
  is_one = (is_one + 1) / 2
  logp = jnp.einsum("nc,vc->nv", log_one, is_one)
  logp = logp + jnp.einsum("nc,vc->nv", log_zero, 1 - is_one)
  mean_logp = jax.nn.logsumexp(logp, axis=0) - jnp.log(logp.shape[0])
  batch = -jnp.sum(jnp.exp(mean_logp) * mean_logp)
  return sample, batch
