"""aMUSEd's image tokenizer against diffusers' VQModel.

Latents and pictures may differ by 1e-4: the order of float32 sums differs over
some thirty convolutions. Codes must be the same.
"""

import functools

import jax
import numpy as np
import pytest

from paradiff import checkpoints
from paradiff.convert import plan
from paradiff.convert import rules
from paradiff.models import image_tokenizer

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.parity

CONFIG = image_tokenizer.ImageTokenizerConfig(
  picture_size=64,
  base_channels=8,
  encoder_multipliers=(1, 2, 2, 4, 6),
  decoder_multipliers=(1, 2, 2, 4, 6),
  encoder_blocks=(2,) * 5,
  decoder_blocks=(3,) * 5,
  norm_groups=4,
  mid_attention=False,
  quantiser="codebook",
  num_codes=128,
  latent_channels=12,
  pixel_range="unit",
)


@pytest.fixture
def published(randomise):
  """Return diffusers' network and our parameters of it."""
  levels = len(CONFIG.encoder_multipliers)
  network = diffusers.VQModel(
    in_channels=3,
    out_channels=3,
    down_block_types=["DownEncoderBlock2D"] * levels,
    up_block_types=["UpDecoderBlock2D"] * levels,
    block_out_channels=list(CONFIG.encoder_channels),
    layers_per_block=2,
    act_fn="silu",
    latent_channels=CONFIG.latent_channels,
    num_vq_embeddings=CONFIG.num_codes,
    norm_num_groups=CONFIG.norm_groups,
    lookup_from_codebook=True,
    mid_block_add_attention=False,
  )
  tensors = randomise(network)
  shapes = jax.eval_shape(
    lambda: image_tokenizer.init(CONFIG, jax.random.key(0))
  )
  leaves = plan.expected(rules.AMUSED, shapes).leaves
  assert {name for leaf in leaves for name in leaf.sources} == set(tensors)
  params = checkpoints.unflatten(
    {
      leaf.target: leaf.transform.to_ours(tensors[leaf.sources[0]], leaf.shape)
      for leaf in leaves
    }
  )
  return network, params


def test_latents_codes_and_pictures_equal_the_published(
  published, record_property
):
  network, params = published
  rng = np.random.default_rng(5)
  pictures = rng.random((2, 64, 96, 3)).astype(np.float32)
  with torch.no_grad():
    latents = network.encode(
      torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())
    ).latents
    _, _, (_, _, codes) = network.quantize(latents)
    codes = codes.reshape(2, -1)
    decoded = network.decode(
      codes, force_not_quantize=True, shape=(2, 4, 6, CONFIG.latent_channels)
    ).sample
  assert len(np.unique(codes)) > 20  # else equality would say little

  ours = jax.jit(functools.partial(image_tokenizer.encode_latents, CONFIG))(
    params, pictures
  )
  difference = np.abs(ours - latents.numpy().transpose(0, 2, 3, 1)).max()
  record_property("latents", f"{float(difference):.2g}")
  assert difference <= 1e-4
  np.testing.assert_array_equal(
    image_tokenizer.encode(CONFIG, params, pictures), codes
  )
  ours = image_tokenizer.decode(
    CONFIG, params, codes.numpy().astype(np.int32), grid=(4, 6)
  )
  difference = np.abs(ours - decoded.numpy().transpose(0, 2, 3, 1)).max()
  record_property("pictures", f"{float(difference):.2g}")
  assert difference <= 1e-4
