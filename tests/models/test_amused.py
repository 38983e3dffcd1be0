"""aMUSEd against the published network, and the laws of its codebook."""

import pathlib
import re
from typing import Any

import drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paradiff.models import codebook
from paradiff.models import image_tokenizer

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "amused_vq.npz"
# The published names as ours; the decoder's stages count from the coarsest.
RENAMED = (
  (r"^(post_quant_conv)", r"decoder.\1"),
  (r"^(quant_conv)", r"encoder.\1"),
  (r"down_blocks\.(\d)\.resnets\.(\d)", r"down_\1.block_\2"),
  (r"down_blocks\.(\d)\.downsamplers\.0", r"down_\1.downsample"),
  (r"up_blocks\.(\d)", lambda found: f"up_{4 - int(found[1])}"),
  (r"(up_\d)\.resnets\.(\d)", r"\1.block_\2"),
  (r"(up_\d)\.upsamplers\.0", r"\1.upsample"),
  (
    r"mid_block\.resnets\.(\d)",
    lambda found: f"mid.block_{1 + int(found[1])}",
  ),
  (r"conv_norm_out", "norm_out"),
  (r"conv_shortcut", "nin_shortcut"),
)


def _golden_params(lines: np.ndarray, salt: str) -> dict[str, Any]:
  params: dict[str, Any] = {}
  for name, shape in drawn_weights.listed(lines):
    value = drawn_weights.tensor(name, shape, salt=salt)
    if name == "quantize.embedding.weight":
      params["codebook"] = value
      continue
    for pattern, ours in RENAMED:
      name = re.sub(pattern, ours, name)
    drawn_weights.hang(params, name.split("."), value)
  return params


@pytest.fixture(scope="module")
def golden():
  """The recorded run: aMUSEd's VQModel at a quarter of its channels."""
  with np.load(GOLDEN) as file:
    record = {name: file[name] for name in file.files}
  channels = record["block_out_channels"].tolist()
  multipliers = tuple(c // channels[0] for c in channels)
  config = image_tokenizer.ImageTokenizerConfig(
    picture_size=64,
    base_channels=channels[0],
    encoder_multipliers=multipliers,
    encoder_blocks=image_tokenizer.AMUSED.encoder_blocks,
    decoder_multipliers=multipliers,
    decoder_blocks=image_tokenizer.AMUSED.decoder_blocks,
    mid_attention=image_tokenizer.AMUSED.mid_attention,
    quantiser="codebook",
    num_codes=int(record["codebook"]),
    latent_channels=int(record["latent_channels"]),
    pixel_range="unit",
  )
  params = _golden_params(record["names"], str(record["salt"]))
  return config, params, record


def test_parameter_tree_has_exactly_the_published_tensors(golden):
  config, params, _ = golden
  ours = jax.eval_shape(lambda: image_tokenizer.init(config, jax.random.key(0)))
  assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, params)


def test_published_size_has_the_published_number_of_weights():
  """The sum over the 277 tensors of the published checkpoint."""
  params = jax.eval_shape(
    lambda: image_tokenizer.init(image_tokenizer.AMUSED, jax.random.key(0))
  )
  leaves = jax.tree.leaves(params)
  assert len(leaves) == 277
  assert sum(leaf.size for leaf in leaves) == 146_244_675
  assert params["codebook"].shape == (8192, 64)
  assert image_tokenizer.AMUSED.codebook_size == 8192
  assert image_tokenizer.AMUSED.num_tokens == 32 * 32


def test_network_reproduces_the_recorded_run(golden):
  config, params, record = golden
  pictures = record["x"].transpose(0, 2, 3, 1)
  assert pictures.shape[1] != pictures.shape[2]
  encode_latents = jax.jit(image_tokenizer.encode_latents, static_argnums=0)
  latents = encode_latents(config, params, pictures)
  # float32 sums in another order: 1e-5 measured on values up to 3 and 4.
  np.testing.assert_allclose(
    latents, record["latents"].transpose(0, 2, 3, 1), rtol=0, atol=1e-4
  )
  codes = jax.jit(image_tokenizer.encode, static_argnums=0)(
    config, params, pictures
  )
  np.testing.assert_array_equal(codes, record["codes"].reshape(2, -1))
  decode = jax.jit(
    image_tokenizer.decode, static_argnums=0, static_argnames="grid"
  )
  decoded = decode(config, params, codes, grid=latents.shape[1:3])
  np.testing.assert_allclose(
    decoded, record["decoded"].transpose(0, 2, 3, 1), rtol=0, atol=1e-4
  )


def test_codes_of_hand_worked_latents():
  rows = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
  latents = jnp.array([[[0.4, 0.9], [0.6, -3.0]], [[-9.0, 1.1], [5.0, 0.0]]])
  codes = codebook.nearest(latents, rows)
  np.testing.assert_array_equal(codes, [[0, 1], [2, 1]])
  assert codes.dtype == jnp.int32
  found = codebook.lookup(codes, rows)
  np.testing.assert_array_equal(found, np.asarray(rows)[np.asarray(codes)])


def test_rows_at_the_same_distance_give_the_lower_index():
  rows = jnp.array([[3.0, 3.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
  latents = jnp.array([[0.0, 0.5], [1.0, 0.0], [2.0, 0.0], [-1.0, 1.0]])
  np.testing.assert_array_equal(codebook.nearest(latents, rows), [1, 1, 1, 2])


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_nearest_row_is_that_of_all_differences(offset):
  """Against every difference in float64, far from the origin too."""
  rng = np.random.default_rng(1)
  rows = (rng.standard_normal((300, 8)) + offset).astype(np.float32)
  latents = (rng.standard_normal((2, 50, 8)) + offset).astype(np.float32)
  difference = latents[..., None, :].astype(np.float64) - rows
  distances = np.square(difference).sum(-1)
  codes = np.asarray(jax.jit(codebook.nearest)(latents, rows))
  chosen = np.take_along_axis(distances, codes[..., None], -1)[..., 0]
  np.testing.assert_array_equal(codes, distances.argmin(-1))
  np.testing.assert_array_equal(chosen, distances.min(-1))


def test_every_row_is_its_own_code():
  rows = jax.random.normal(jax.random.key(0), (64, 16))
  np.testing.assert_array_equal(codebook.nearest(rows, rows), np.arange(64))


def test_search_holds_no_difference_of_every_pair_and_multiplies_in_float32():
  num_latents, num_codes, channels = 7, 11, 5
  with jax.default_matmul_precision("bfloat16"):
    jaxpr = jax.make_jaxpr(codebook.nearest)(
      jnp.zeros((num_latents, channels), jnp.bfloat16),
      jnp.zeros((num_codes, channels), jnp.bfloat16),
    )
  sizes = [v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars]
  assert max(sizes) == num_latents * num_codes
  (product,) = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
  assert product.outvars[0].aval.dtype == jnp.float32
  highest = jax.lax.Precision.HIGHEST
  assert product.params["precision"] == (highest, highest)


def test_quantiser_passes_the_gradient_straight_through():
  rows = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
  latents = jnp.array([[0.4, 0.9], [0.1, 1.5]])
  weights = jnp.array([[2.0, -3.0], [0.5, 7.0]])
  np.testing.assert_allclose(
    codebook.quantise(latents, rows), [[0.0, 0.0], [0.0, 2.0]], atol=1e-6
  )
  to_latents, to_rows = jax.grad(
    lambda z, e: jnp.sum(weights * codebook.quantise(z, e)), argnums=(0, 1)
  )(latents, rows)
  np.testing.assert_array_equal(to_latents, weights)
  np.testing.assert_array_equal(to_rows, jnp.zeros_like(rows))


def test_rows_looked_up_get_the_gradient_of_those_who_use_them():
  rows = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
  codes = jnp.array([2, 0, 2])
  gradient = jax.grad(lambda e: jnp.sum(codebook.lookup(codes, e)))(rows)
  np.testing.assert_array_equal(gradient, [[1, 1], [0, 0], [2, 2]])


def test_init_draws_rows_within_the_published_bound():
  rows = codebook.init(jax.random.key(0), num_codes=512, latent_channels=16)
  assert rows.shape == (512, 16) and rows.dtype == jnp.float32
  assert -1 / 512 <= rows.min() < -0.99 / 512
  assert 0.99 / 512 < rows.max() <= 1 / 512
