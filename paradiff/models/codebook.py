"""Nearest-neighbour quantisation: a table of vectors, the code is the row.

The quantiser of VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937, section
3.1), which aMUSEd (arXiv 2401.01808) uses with 8,192 rows of 64. Worked
example with the rows (0, 0), (1, 0), (0, 2): z = (0.4, 0.9) lies at squared
distances 0.97, 1.17 and 1.37, so its code is 0 and the decoder receives
(0, 0). Rows at the same distance: the lower index wins.
"""

import jax
import jax.numpy as jnp


def init(key: jax.Array, *, num_codes: int, latent_channels: int) -> jax.Array:
  """Return float32[num_codes, latent_channels], uniform in +-1 / num_codes.

  Small, as in the published code: the first steps of training spread it.
  """
  bound = 1.0 / num_codes
  return jax.random.uniform(
    key, (num_codes, latent_channels), jnp.float32, -bound, bound
  )


def nearest(latents: jax.Array, codebook: jax.Array) -> jax.Array:
  """Return the codes of latents: the nearest rows by Euclidean distance.

  Args:
    latents: float[..., D].
    codebook: float[C, D].

  Returns:
    int32[...] in [0, C).

  Source: arXiv 1711.00937, equation 1.
  """
  # |z - e|^2 less |z|^2, which is the same for every row. Two codes may lie
  # closer than bfloat16 resolves, so everything is float32, the product too.
  rows = codebook.astype(jnp.float32)
  products = jnp.einsum(
    "...d,cd->...c",
    latents.astype(jnp.float32),
    rows,
    precision=jax.lax.Precision.HIGHEST,
  )
  squares = jnp.sum(jnp.square(rows), axis=-1)
  squares = squares.reshape((1,) * (latents.ndim - 1) + squares.shape)
  return jnp.argmin(squares - 2.0 * products, axis=-1).astype(jnp.int32)


def lookup(codes: jax.Array, codebook: jax.Array) -> jax.Array:
  """Return float32[..., D], the rows of int32[...] codes in [0, C)."""
  return jnp.take(codebook, codes, axis=0)


def quantise(latents: jax.Array, codebook: jax.Array) -> jax.Array:
  """Return the nearest row of each latent, with the gradient of the identity.

  Args:
    latents: float32[..., D].
    codebook: float32[C, D]; it gets no gradient from here, so the loss that
      trains it must look the rows up itself.

  Returns:
    float32[..., D]; its gradient passes straight through to `latents`.
  """
  rows = lookup(nearest(latents, codebook), codebook)
  return latents + jax.lax.stop_gradient(rows - latents)
