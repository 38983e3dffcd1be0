"""What both kinds of image tokenizer promise, and what their config refuses."""

import dataclasses
import json
from typing import Any

import drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paradiff import sharding
from paradiff import shipped
from paradiff.models import codebook
from paradiff.models import image_tokenizer
from paradiff.models import magvit2

CODEBOOK: dict[str, Any] = dict(
  quantiser="codebook", num_codes=50, latent_channels=6
)


def _small_config(**changes: Any) -> image_tokenizer.ImageTokenizerConfig:
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
  return drawn_weights.like(
    jax.eval_shape(lambda: image_tokenizer.init(config, jax.random.key(0)))
  )


@pytest.fixture(scope="module", params=["lookup_free", "codebook"])
def small(request):
  """A config of two levels with attention, and its parameters."""
  changes = CODEBOOK if request.param == "codebook" else {}
  config = _small_config(**changes)
  return config, _drawn_params(config)


def _pictures(batch_size: int, height: int, width: int) -> jax.Array:
  shape = (batch_size, height, width, 3)
  return jax.random.uniform(jax.random.key(1), shape) * 2 - 1


def test_defaults_are_magvitv2_and_sizes_follow_from_the_quantiser():
  assert image_tokenizer.MAGVITV2 == image_tokenizer.ImageTokenizerConfig()
  assert image_tokenizer.MAGVITV2.codebook_size == 8192
  assert image_tokenizer.MAGVITV2.latent_size == 13
  assert image_tokenizer.AMUSED.codebook_size == 8192
  assert image_tokenizer.AMUSED.latent_size == 64
  assert image_tokenizer.AMUSED.factor == 16
  assert _small_config(**CODEBOOK).codebook_size == 50
  assert _small_config(**CODEBOOK).latent_size == 6


def test_init_draws_kernels_at_the_scale_of_their_fan_in():
  config = _small_config(
    base_channels=8,
    encoder_multipliers=(1,),
    encoder_blocks=(1,),
    decoder_multipliers=(1,),
    decoder_blocks=(1,),
    mid_attention=False,
    **CODEBOOK,
  )
  params = image_tokenizer.init(config, jax.random.key(0))
  kernel = params["encoder"]["mid"]["block_1"]["conv1"]["kernel"]
  assert kernel.shape == (3, 3, 8, 8) and kernel.dtype == jnp.float32
  np.testing.assert_allclose(jnp.std(kernel) * np.sqrt(72), 1.0, atol=0.15)
  other = params["encoder"]["mid"]["block_2"]["conv1"]["kernel"]
  assert not np.array_equal(kernel, other)
  assert set(params) == {"encoder", "decoder", "codebook"}
  assert params["codebook"].shape == (50, 6)
  assert len(np.unique(params["codebook"])) == 50 * 6


def test_reconstruction_error_reaches_every_encoder_weight(small):
  config, params = small
  pictures = _pictures(2, 16, 16)

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
  cells = jax.random.normal(jax.random.key(2), (1, 2, 3, 3)) * 8
  pictures = cells.repeat(2, axis=1).repeat(2, axis=2)
  latents = image_tokenizer.encode_latents(config, params, pictures)
  codes = image_tokenizer.encode(config, params, pictures)
  assert latents.shape == (1, 2, 3, config.latent_size)
  assert codes.shape == (1, 6) and codes.dtype == jnp.int32
  for row in range(2):
    for column in range(3):
      latent = latents[0, row, column]
      if config.quantiser == "codebook":
        expected = codebook.nearest(latent, params["codebook"])
      else:
        expected = magvit2.latents_to_codes(latent)
      assert codes[0, row * 3 + column] == expected
  assert len(np.unique(codes)) >= 4  # or the order could not be seen
  again = image_tokenizer.decode(config, params, codes, grid=(2, 3))
  trained = image_tokenizer.reconstruct(config, params, pictures)
  np.testing.assert_allclose(again, trained.pictures, atol=1e-5)


@pytest.mark.parametrize("height, width", [(16, 2), (6, 20)])
def test_pictures_of_any_multiple_of_the_factor_come_back(small, height, width):
  config, params = small
  codes = image_tokenizer.encode(config, params, _pictures(2, height, width))
  assert codes.shape == (2, height * width // 4)
  assert 0 <= codes.min() and codes.max() < config.codebook_size
  grid = (height // 2, width // 2)
  decoded = image_tokenizer.decode(config, params, codes, grid=grid)
  assert decoded.shape == (2, height, width, 3)


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
  pictures = _pictures(2, 16, 16)
  codes = image_tokenizer.encode(config, params, pictures)
  jitted = jax.jit(image_tokenizer.encode, static_argnums=0)
  np.testing.assert_array_equal(jitted(config, params, pictures), codes)
  decoded = image_tokenizer.decode(config, params, codes)
  jitted = jax.jit(image_tokenizer.decode, static_argnums=0)
  np.testing.assert_allclose(jitted(config, params, codes), decoded, atol=1e-5)


@pytest.mark.parametrize(
  "pixel_range, low, high", [("signed", -1.0, 1.0), ("unit", 0.0, 1.0)]
)
def test_bytes_survive_floats(pixel_range, low, high):
  config = _small_config(pixel_range=pixel_range)
  pictures = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  floats = image_tokenizer.to_float(config, pictures)
  assert floats.dtype == jnp.float32
  # Half a unit of the last place of numbers up to 2, and rounding after.
  expected = low + (high - low) * pictures.astype(np.float64) / 255
  np.testing.assert_allclose(floats, expected, rtol=0, atol=2e-7)
  assert floats.min() == low and floats.max() == high
  again = image_tokenizer.to_uint8(config, floats)
  assert again.dtype == jnp.uint8
  np.testing.assert_array_equal(again, pictures)
  beyond = image_tokenizer.to_uint8(config, jnp.array([-7.0, 7.0]))
  np.testing.assert_array_equal(beyond, [0, 255])


def test_truncation_rounds_down_where_rounding_takes_the_nearest():
  """Levels 253.2, 253.8 and 254.9 of 255, in either range."""
  levels = np.array([253.2, 253.8, 254.9], np.float32)
  for pixel_range, floats in (
    ("signed", levels / 127.5 - 1),
    ("unit", levels / 255),
  ):
    rounds = _small_config(pixel_range=pixel_range)
    truncates = _small_config(pixel_range=pixel_range, truncates=True)
    np.testing.assert_array_equal(
      image_tokenizer.to_uint8(rounds, floats), [253, 254, 255]
    )
    np.testing.assert_array_equal(
      image_tokenizer.to_uint8(truncates, floats), [253, 253, 254]
    )


def test_truncation_is_the_published_arithmetic():
  """((x + 1) / 2) clamped to [0, 1], times 255, cut off, all in float32."""
  config = _small_config(truncates=True)
  x = np.random.default_rng(0).uniform(-1.2, 1.2, 10_000).astype(np.float32)
  half = np.clip((x + np.float32(1)) / np.float32(2), 0, 1).astype(np.float32)
  expected = (half * np.float32(255)).astype(np.uint8)
  to_uint8 = jax.jit(image_tokenizer.to_uint8, static_argnums=0)
  np.testing.assert_array_equal(to_uint8(config, x), expected)


def test_truncated_bytes_come_back_at_most_one_lower():
  config = _small_config(truncates=True)
  levels = np.arange(256)
  floats = image_tokenizer.to_float(config, levels.astype(np.uint8))
  lost = levels - np.asarray(image_tokenizer.to_uint8(config, floats), int)
  assert set(lost.tolist()) == {0, 1}


def test_logical_axes_replicate_every_parameter(small):
  config, params = small
  axes = image_tokenizer.logical_axes(config)
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  ranks = jax.tree.map(len, axes, is_leaf=lambda node: isinstance(node, tuple))
  assert ranks == jax.tree.map(lambda x: x.ndim, params)
  places = jax.tree.leaves(sharding.shardings(mesh, axes))
  assert all(place.is_fully_replicated for place in places)


def test_codes_do_not_depend_on_the_mesh(small):
  config, params = small
  pictures = _pictures(8, 16, 16)
  encode = jax.jit(image_tokenizer.encode, static_argnums=0)
  expected = encode(config, params, pictures)
  mesh = sharding.make_mesh(data=8)
  places = sharding.shardings(mesh, image_tokenizer.logical_axes(config))
  split = jax.NamedSharding(mesh, sharding.spec(("batch", None, None, None)))
  codes = encode(
    config, jax.device_put(params, places), jax.device_put(pictures, split)
  )
  np.testing.assert_array_equal(codes, expected)


def test_config_is_hashable_and_takes_lists_from_json():
  config = _small_config(encoder_blocks=[1, 1])
  assert config == _small_config() and hash(config) == hash(_small_config())
  data = json.loads(json.dumps(dataclasses.asdict(image_tokenizer.AMUSED)))
  again = image_tokenizer.ImageTokenizerConfig(**data)
  assert again == image_tokenizer.AMUSED


@pytest.mark.parametrize("name", shipped.SHIPPED)
def test_files_written_before_there_was_a_codebook_are_lookup_free(name):
  folder = shipped.find(name)
  data = json.loads((folder / "image_tokenizer.json").read_text())
  for name in ("quantiser", "num_codes", "latent_channels", "pixel_range"):
    data.pop(name, None)
  config = image_tokenizer.ImageTokenizerConfig(**data)
  assert config.quantiser == "lookup_free"
  assert config.pixel_range == "signed" and not config.truncates


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"encoder_blocks": (1, 1, 1)}, "each level needs an entry"),
    ({"encoder_blocks": (1, 0)}, "encoder_blocks must be integers >= 1"),
    ({"code_bits": 0}, "code_bits must lie in"),
    ({"code_bits": 17}, "code_bits must lie in"),
    ({"base_channels": 0}, "base_channels must lie in"),
    ({"norm_groups": 3}, "norm_groups must divide"),
    ({"picture_size": 17}, "picture_size must be a multiple"),
    ({"quantiser": "nearest"}, "quantiser must be one of .*'nearest'"),
    ({"pixel_range": "bytes"}, "pixel_range must be one of .*'bytes'"),
    ({"num_codes": 8}, "must be 0 without a codebook, got .*num_codes=8"),
    ({"latent_channels": 4}, "must be 0 without a codebook"),
    (CODEBOOK | {"num_codes": 0}, "must be positive with a codebook"),
    (CODEBOOK | {"latent_channels": -1}, "must be positive with a codebook"),
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
    (np.zeros((1, 16, 16, 3), np.uint8), r"must be floats in \[-1, 1\]"),
  ],
)
def test_encode_refuses(small, pictures, message):
  config, params = small
  with pytest.raises(ValueError, match=message):
    image_tokenizer.encode(config, params, pictures)


def test_the_range_that_is_refused_is_the_configs():
  config = _small_config(pixel_range="unit")
  with pytest.raises(ValueError, match=r"must be floats in \[0, 1\]"):
    image_tokenizer.encode(config, {}, np.zeros((1, 16, 16, 3), np.uint8))


@pytest.mark.parametrize("grid, wanted", [(None, "8x8"), ((3, 5), "3x5")])
def test_decode_refuses_a_wrong_number_of_codes(small, grid, wanted):
  config, params = small
  codes = jnp.zeros((1, 16), jnp.int32)
  with pytest.raises(ValueError, match=f"codes must be .* {wanted}, got"):
    image_tokenizer.decode(config, params, codes, grid=grid)
