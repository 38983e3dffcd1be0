"""CLIP against transformers' CLIPModel, its configs and its image processor.

Embeddings and logits may differ by 1e-5, from the order of float32 sums;
pictures not by a level.
"""

import math

import clip_tensors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paradiff.models import clip
from paradiff.models import clip_config
from paradiff.models import clip_pictures

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

B_32 = {"projection_dim": 512}
L_14_336 = {
  "projection_dim": 768,
  "text_config": {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
  },
  "vision_config": {
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
  },
}


def _tiny(**changes):
  both = {"num_hidden_layers": 2, "num_attention_heads": 4, **changes}
  return {
    "projection_dim": 24,
    "text_config": {
      "vocab_size": 99,
      "hidden_size": 32,
      "intermediate_size": 48,
      "max_position_embeddings": 16,
      "eos_token_id": 98,
      "bos_token_id": 97,
      "pad_token_id": 98,
      **both,
    },
    "vision_config": {
      "hidden_size": 40,
      "intermediate_size": 56,
      "image_size": 24,
      "patch_size": 8,
      **both,
    },
  }


def _texts():
  """Return ids and mask of three texts that end at 5, 9 and 15 with id 98."""
  ids = np.random.default_rng(2).integers(0, 97, (3, 16))
  ends = np.array([5, 9, 15])[:, None]
  ids = np.where(np.arange(16)[None] >= ends, 98, ids)
  return ids, (np.arange(16)[None] <= ends).astype(np.int64)


@pytest.mark.parametrize("activation", clip_config.ACTIVATIONS)
@pytest.mark.parametrize("eos_id", [98, clip_config.LEGACY_EOS_ID])
@pytest.mark.parametrize("norm_eps", [1e-5, 1e-3])
def test_embeddings_and_logits_equal_the_published(
  randomise, activation, eos_id, norm_eps, record_property
):
  hf_config = _tiny(hidden_act=activation, layer_norm_eps=norm_eps)
  hf_config["text_config"]["eos_token_id"] = eos_id
  network = transformers.CLIPModel(transformers.CLIPConfig(**hf_config))
  tensors = randomise(network)
  config = clip_config.config_from_dict(network.config.to_dict())
  params = clip_tensors.params_from(network.config.to_dict(), tensors)
  ids, mask = _texts()
  pixels = np.random.default_rng(3).standard_normal((2, 24, 24, 3))
  pixels = pixels.astype(np.float32)
  with torch.no_grad():
    theirs = network(
      input_ids=torch.from_numpy(ids),
      attention_mask=torch.from_numpy(mask),
      pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()),
    )

  @jax.jit
  def run(params, ids, mask, pixels):
    text = clip.text_embeds(config, params, ids, attention_mask=mask)
    image = clip.image_embeds(config, params, pixels)
    return text, image, clip.similarity(config, params, text, image)

  ours = run(params, ids.astype(np.int32), mask, pixels)
  names = ("text_embeds", "image_embeds", "logits_per_image")
  for name, array in zip(names, ours, strict=True):
    difference = np.abs(np.asarray(array) - theirs[name].numpy()).max()
    record_property(name, f"{difference:.2g}")
    assert difference <= 1e-5, name


@pytest.mark.parametrize(
  "hf_config",
  [
    {},
    B_32,
    L_14_336,
    _tiny(hidden_act="gelu"),
    {"text_config_dict": {"hidden_size": 768, "num_attention_heads": 12}},
    {
      "text_config": {"hidden_size": 64, "eos_token_id": 2},
      "text_config_dict": {"hidden_size": 768, "num_attention_heads": 12},
      "vision_config": {"patch_size": 14, "layer_norm_eps": 1e-6},
      "vision_config_dict": {"patch_size": 16},
    },
    {
      "text_config": {"eos_token_id": 2, "max_position_embeddings": 30},
      "logit_scale_init_value": 1.0,
    },
  ],
)
def test_a_partial_config_means_what_it_means_to_transformers(hf_config):
  whole = transformers.CLIPConfig(**hf_config).to_dict()
  ours = clip_config.config_from_dict(hf_config)
  assert ours == clip_config.config_from_dict(whole)


@pytest.mark.parametrize("hf_config", [B_32, L_14_336])
def test_published_sizes_have_as_many_parameters(hf_config):
  with torch.device("meta"):
    network = transformers.CLIPModel(transformers.CLIPConfig(**hf_config))
  theirs = sum(tensor.numel() for tensor in network.parameters())
  config = clip_config.config_from_dict(hf_config)
  shapes = jax.eval_shape(lambda: clip.init(config, jax.random.key(0)))
  ours = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
  assert ours == theirs


def _processor(**options):
  """Return the image processor that resizes with Pillow, as published.

  Newer releases of transformers have two, the other is torchvision's.
  """
  if hasattr(transformers, "CLIPImageProcessorPil"):
    return transformers.CLIPImageProcessorPil(**options)
  return transformers.CLIPImageProcessor(**options)


@pytest.mark.parametrize(
  ("height", "width", "size"),
  [
    (97, 131, 32),
    (131, 97, 32),
    (20, 33, 56),
    (336, 336, 336),
    (512, 512, 336),
  ],
)
def test_pictures_equal_those_of_the_image_processor(
  height, width, size, record_property
):
  processor = _processor(
    size={"shortest_edge": size}, crop_size={"height": size, "width": size}
  )
  rng = np.random.default_rng(4)
  pictures = rng.integers(0, 256, (2, height, width, 3)).astype(np.uint8)
  theirs = processor(list(pictures), return_tensors="np")["pixel_values"]
  ours = clip_pictures.preprocess(jnp.asarray(pictures), size=size)
  difference = np.abs(ours - theirs.transpose(0, 2, 3, 1)).max()
  record_property("largest_difference", f"{float(difference):.2g}")
  assert difference <= 1e-5


def test_defaults_of_the_image_processor_are_ours():
  processor = _processor()
  assert tuple(processor.image_mean) == clip_pictures.MEAN
  assert tuple(processor.image_std) == clip_pictures.STD
  assert processor.size["shortest_edge"] == 224
