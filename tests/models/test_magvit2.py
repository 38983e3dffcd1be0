"""MAGVITv2 against the published network, and the laws of LFQ."""

import pathlib
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paradiff.models import image_tokenizer
from paradiff.models import magvit2

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "magvitv2.npz"


def _small_config(**changes) -> image_tokenizer.ImageTokenizerConfig:
  fields: dict[str, Any] = dict(
    picture_size=16,
    code_bits=5,
    base_channels=4,
    encoder_multipliers=(1, 2),
    encoder_blocks=(1, 1),
    decoder_multipliers=(1, 2),
    decoder_blocks=(1, 1),
    norm_groups=2,
    mid_attention=True,
  )
  return image_tokenizer.ImageTokenizerConfig(**(fields | changes))


def _drawn_params(config: image_tokenizer.ImageTokenizerConfig) -> dict:
  """Draw parameters with numpy; compiling `init` would take far longer."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(
    lambda: image_tokenizer.init(config, jax.random.key(0))
  )

  def draw(leaf):
    x = rng.standard_normal(leaf.shape).astype(np.float32)
    if len(leaf.shape) == 1:
      return jnp.asarray(1 + 0.1 * x)
    return jnp.asarray(x / np.sqrt(np.prod(leaf.shape[:-1])))

  return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def small():
  """A config of two levels with attention, and its parameters."""
  config = _small_config()
  return config, _drawn_params(config)


def _drawn_tensor(name: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
  """Draw a torch tensor by name, the way the recording did."""
  seed = zlib.crc32(f"{salt}/{name}".encode())
  x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
  if len(shape) == 1:
    return 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
  return x / np.sqrt(np.prod(shape[1:]))


def _golden_params(names: np.ndarray, salt: str) -> dict:
  """Draw every tensor and hang it at its place in our tree."""
  params: dict = {}
  for line in map(str, names):
    name, sizes = line.split(" ", 1)
    shape = tuple(int(s) for s in sizes.strip("()").split(",") if s.strip())
    if name.startswith("quantize."):
      continue  # buffers that follow from the number of bits
    path: list[str] = []
    for part in name.split("."):
      if part.isdigit():
        path[-1] += f"_{part}"
      else:
        path.append(part)
    value = _drawn_tensor(name, shape, salt).astype(np.float32)
    if value.ndim == 4:
      value = value.transpose(2, 3, 1, 0)
    if path[-1] == "weight":
      path[-1] = "kernel" if value.ndim == 4 else "scale"
    node = params
    for part in path[:-1]:
      node = node.setdefault(part, {})
    node[path[-1]] = value
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
  config = image_tokenizer.ImageTokenizerConfig()
  params = jax.eval_shape(
    lambda: image_tokenizer.init(config, jax.random.key(0))
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


def test_init_draws_kernels_at_the_scale_of_their_fan_in():
  config = _small_config(
    base_channels=8,
    encoder_multipliers=(1,),
    encoder_blocks=(1,),
    decoder_multipliers=(1,),
    decoder_blocks=(1,),
    mid_attention=False,
  )
  params = image_tokenizer.init(config, jax.random.key(0))
  kernel = params["encoder"]["mid"]["block_1"]["conv1"]["kernel"]
  assert kernel.shape == (3, 3, 8, 8) and kernel.dtype == jnp.float32
  np.testing.assert_allclose(jnp.std(kernel) * np.sqrt(72), 1.0, atol=0.15)
  other = params["encoder"]["mid"]["block_2"]["conv1"]["kernel"]
  assert not np.array_equal(kernel, other)


def test_quantiser_passes_the_gradient_straight_through():
  latents = jnp.array([[0.3, -0.2, 1.1]])
  weights = jnp.array([[2.0, -3.0, 0.5]])
  gradient = jax.grad(lambda z: jnp.sum(weights * magvit2.quantise(z)))(latents)
  np.testing.assert_array_equal(gradient, weights)


def test_reconstruction_error_reaches_every_encoder_weight(small):
  config, params = small
  pictures = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3)) * 2 - 1

  def loss(params):
    output = image_tokenizer.reconstruct(config, params, pictures)
    return jnp.mean((output.pictures - pictures) ** 2)

  gradient = jax.jit(jax.grad(loss))(params)
  kernels = {
    jax.tree_util.keystr(path): float(jnp.max(jnp.abs(leaf)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient["encoder"])
    if leaf.ndim == 4
  }
  assert min(kernels.values()) > 0, kernels


def test_raster_order_and_position_of_codes(small):
  """A grid of another shape than square is read row by row."""
  config, params = small
  pictures = jax.random.uniform(jax.random.key(1), (1, 4, 6, 3)) * 2 - 1
  latents = image_tokenizer.encode_latents(config, params, pictures)
  codes = image_tokenizer.encode(config, params, pictures)
  assert latents.shape == (1, 2, 3, 5)
  for row in range(2):
    for column in range(3):
      expected = magvit2.latents_to_codes(latents[0, row, column])
      assert codes[0, row * 3 + column] == expected
  again = image_tokenizer.decode(config, params, codes, grid=(2, 3))
  trained = image_tokenizer.reconstruct(config, params, pictures)
  np.testing.assert_allclose(again, trained.pictures, atol=1e-5)


@pytest.mark.parametrize("num_levels", [1, 4])
def test_number_of_levels_sets_the_down_sampling(num_levels):
  ones = (1,) * num_levels
  config = _small_config(
    encoder_multipliers=ones,
    encoder_blocks=ones,
    decoder_multipliers=ones,
    decoder_blocks=ones,
    mid_attention=False,
  )
  factor = 2 ** (num_levels - 1)
  assert config.factor == factor
  assert config.num_tokens == (16 // factor) ** 2
  params = _drawn_params(config)
  pictures = jnp.zeros((2, 16, 16, 3))
  codes = image_tokenizer.encode(config, params, pictures)
  assert codes.shape == (2, config.num_tokens) and codes.dtype == jnp.int32
  assert 0 <= codes.min() and codes.max() < config.codebook_size
  decoded = image_tokenizer.decode(config, params, codes)
  assert decoded.shape == pictures.shape and decoded.dtype == jnp.float32


def test_jit_equals_no_jit(small):
  config, params = small
  pictures = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3)) * 2 - 1
  codes = image_tokenizer.encode(config, params, pictures)
  jitted = jax.jit(image_tokenizer.encode, static_argnums=0)
  np.testing.assert_array_equal(jitted(config, params, pictures), codes)
  decoded = image_tokenizer.decode(config, params, codes)
  jitted = jax.jit(image_tokenizer.decode, static_argnums=0)
  np.testing.assert_allclose(jitted(config, params, codes), decoded, atol=1e-5)


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


def test_bytes_survive_floats():
  pictures = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  floats = image_tokenizer.to_float(pictures)
  assert floats.min() == -1.0 and floats.max() == 1.0
  np.testing.assert_array_equal(image_tokenizer.to_uint8(floats), pictures)
  beyond = image_tokenizer.to_uint8(jnp.array([-7.0, 7.0]))
  np.testing.assert_array_equal(beyond, [0, 255])


def test_logical_axes_mirror_the_parameters(small):
  config, params = small
  axes = image_tokenizer.logical_axes(config)
  ranks = jax.tree.map(len, axes, is_leaf=lambda node: isinstance(node, tuple))
  assert ranks == jax.tree.map(lambda x: x.ndim, params)


def test_config_is_hashable_and_takes_lists_from_json():
  config = _small_config(encoder_blocks=[1, 1])
  assert config == _small_config() and hash(config) == hash(_small_config())


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"encoder_blocks": (1, 1, 1)}, "each level needs an entry"),
    ({"encoder_blocks": (1, 0)}, "encoder_blocks must be integers >= 1"),
    ({"code_bits": 0}, "code_bits must lie in"),
    ({"code_bits": 17}, "code_bits must lie in"),
    ({"norm_groups": 3}, "norm_groups must divide"),
    ({"picture_size": 17}, "picture_size must be a multiple"),
  ],
)
def test_config_refuses(changes, message):
  with pytest.raises(ValueError, match=message):
    _small_config(**changes)


@pytest.mark.parametrize(
  "pictures, message",
  [
    (np.zeros((16, 16, 3), np.float32), "pictures must be"),
    (np.zeros((1, 16, 17, 3), np.float32), "pictures must be"),
    (np.zeros((1, 16, 16, 4), np.float32), "pictures must be"),
    (np.zeros((1, 16, 16, 3), np.uint8), "pictures must be floats"),
  ],
)
def test_encode_refuses(small, pictures, message):
  config, params = small
  with pytest.raises(ValueError, match=message):
    image_tokenizer.encode(config, params, pictures)


def test_decode_refuses_a_wrong_number_of_codes(small):
  config, params = small
  with pytest.raises(ValueError, match="codes must be"):
    image_tokenizer.decode(config, params, jnp.zeros((1, 15), jnp.int32))
