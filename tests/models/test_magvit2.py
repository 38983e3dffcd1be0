"""MAGVITv2 against the published network, and the laws of LFQ."""

import pathlib
import re
from typing import Any

import drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paradiff.models import image_tokenizer
from paradiff.models import magvit2

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "magvitv2.npz"


def _golden_params(lines: np.ndarray, salt: str) -> dict[str, Any]:
  """Draw every tensor and hang it at its place in our tree."""
  params: dict[str, Any] = {}
  for name, shape in drawn_weights.listed(lines):
    if name.startswith("quantize."):
      continue  # buffers that follow from the number of bits
    path = re.sub(r"\.(\d+)", r"_\1", name).split(".")
    value = drawn_weights.tensor(name, shape, salt=salt)
    drawn_weights.hang(params, path, value)
  return params


@pytest.fixture(scope="module")
def golden():
  """The recorded run: MMaDA-Parallel-M's MAGVITv2 at 32 base channels."""
  with np.load(GOLDEN) as file:
    record = {name: file[name] for name in file.files}
  config = image_tokenizer.ImageTokenizerConfig(
    base_channels=int(record["ch"]), picture_size=64
  )
  params = _golden_params(record["names"], str(record["salt"]))
  return config, params, record


def test_parameter_tree_has_exactly_the_published_tensors(golden):
  config, params, _ = golden
  ours = jax.eval_shape(lambda: image_tokenizer.init(config, jax.random.key(0)))
  assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, params)


def test_published_size_has_the_published_number_of_weights():
  params = jax.eval_shape(
    lambda: image_tokenizer.init(image_tokenizer.MAGVITV2, jax.random.key(0))
  )
  leaves = jax.tree.leaves(params)
  assert len(leaves) == 382 - 2  # all but the two buffers
  count = sum(leaf.size for leaf in leaves)
  assert round(count / 1e6, 2) == 95.39


def test_network_reproduces_the_recorded_run(golden):
  config, params, record = golden
  pictures = record["x"].transpose(0, 2, 3, 1)
  encode_latents = jax.jit(image_tokenizer.encode_latents, static_argnums=0)
  latents = encode_latents(config, params, pictures)
  # float32 sums in another order: 1e-5 measured on values up to 2 and 4.
  np.testing.assert_allclose(
    latents, record["z"].transpose(0, 2, 3, 1), atol=1e-4
  )
  codes = magvit2.latents_to_codes(latents).reshape(2, -1)
  np.testing.assert_array_equal(codes, record["codes"])
  decode = jax.jit(
    image_tokenizer.decode, static_argnums=0, static_argnames="grid"
  )
  decoded = decode(config, params, codes, grid=latents.shape[1:3])
  np.testing.assert_allclose(
    decoded, record["decoded"].transpose(0, 2, 3, 1), atol=1e-4
  )


def test_channel_0_is_the_most_significant_bit_and_zero_is_a_0_bit():
  latents = jnp.array([[0.3, -0.2, 1.1], [-1.0, 0.0, 2.0], [5.0, 1e-9, 0.0]])
  codes = magvit2.latents_to_codes(latents)
  np.testing.assert_array_equal(codes, [5, 1, 6])
  bits = magvit2.codes_to_bits(codes, code_bits=3)
  np.testing.assert_array_equal(bits, [[1, -1, 1], [-1, -1, 1], [1, 1, -1]])
  np.testing.assert_array_equal(magvit2.quantise(latents), bits)


def test_every_code_survives_bits_and_back():
  codes = jnp.arange(2**7, dtype=jnp.int32).reshape(2, 64)
  bits = magvit2.codes_to_bits(codes, code_bits=7)
  np.testing.assert_array_equal(magvit2.latents_to_codes(bits), codes)


def test_quantiser_passes_the_gradient_straight_through():
  latents = jnp.array([[0.3, -0.2, 1.1]])
  weights = jnp.array([[2.0, -3.0, 0.5]])
  gradient = jax.grad(lambda z: jnp.sum(weights * magvit2.quantise(z)))(latents)
  np.testing.assert_array_equal(gradient, weights)


def test_entropies_of_a_hand_worked_batch():
  """Two latents of two bits; each bit is 1 with p = sigmoid(4 z)."""
  p = 0.8
  z = np.log(p / (1 - p)) / 4
  latents = jnp.array([[z, z], [-z, z]])
  sample, batch = magvit2.entropies(latents)
  bit = -(p * np.log(p) + (1 - p) * np.log(1 - p))
  np.testing.assert_allclose(sample, 2 * bit, rtol=1e-5)
  # The first bit averages to 1/2, the second stays at p; codes 0 1 2 3.
  mean = np.array([0.5 * (1 - p), 0.5 * p, 0.5 * (1 - p), 0.5 * p])
  np.testing.assert_allclose(batch, -np.sum(mean * np.log(mean)), rtol=1e-5)


def test_entropies_lie_between_sure_and_uniform():
  code_bits = 4
  unsure = jnp.zeros((3, code_bits))
  sample, batch = magvit2.entropies(unsure)
  np.testing.assert_allclose(sample, code_bits * np.log(2), rtol=1e-6)
  np.testing.assert_allclose(batch, code_bits * np.log(2), rtol=1e-6)
  every_code = magvit2.codes_to_bits(
    jnp.arange(2**code_bits), code_bits=code_bits
  )
  sample, batch = magvit2.entropies(every_code, temperature=0.05)
  np.testing.assert_allclose(sample, 0.0, atol=1e-6)
  np.testing.assert_allclose(batch, code_bits * np.log(2), rtol=1e-5)
