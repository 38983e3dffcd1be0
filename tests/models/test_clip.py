"""CLIP's towers against a recorded run of the published code, and their laws.

`golden/clip.npz` holds the inputs and outputs of transformers' CLIPModel at
tiny sizes (float32, CPU) with weights drawn by tensor name. Numbers may differ
by 1e-5: only the order of float32 sums differs, embeddings have length 1.
"""

import dataclasses
import functools
import json
import math
import pathlib

import clip_tensors
import drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paradiff import sharding
from paradiff.models import clip
from paradiff.models import clip_config

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "clip.npz"


@pytest.fixture(scope="module")
def record():
  """Return the recording with its config and the tensors it was made with."""
  file = np.load(GOLDEN)
  tensors = {
    name: drawn_weights.tensor(name, shape, salt=str(file["salt"]))
    for name, shape in drawn_weights.listed(file["names"])
  }
  tensors["logit_scale"] = np.asarray(2.6592, np.float32)
  hf_config = json.loads(str(file["config"]))
  config = clip_config.config_from_dict(hf_config)
  pixels = jnp.asarray(file["pixel_values"].transpose(0, 2, 3, 1))
  return {
    **file,
    "config": config,
    "tensors": tensors,
    "params": clip_tensors.params_from(hf_config, tensors),
    "pixels": pixels,
  }


@functools.partial(jax.jit, static_argnames="config")
def _text_embeds(config, params, ids, mask):
  return clip.text_embeds(config, params, ids, attention_mask=mask)


@functools.partial(jax.jit, static_argnames="config")
def _image_embeds(config, params, pixels):
  return clip.image_embeds(config, params, pixels)


def _text(record, ids=None, mask=None, **changes):
  config = dataclasses.replace(record["config"], **changes)
  ids = record["input_ids"] if ids is None else np.asarray(ids, np.int32)
  mask = np.ones(ids.shape, bool) if mask is None else np.asarray(mask)
  return _text_embeds(config, record["params"], ids, mask)


def _with_towers(config, **changes):
  return dataclasses.replace(
    config,
    text=dataclasses.replace(config.text, **changes),
    vision=dataclasses.replace(config.vision, **changes),
  )


def _close(ours, theirs, atol=1e-5):
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


def test_both_towers_give_the_recorded_embeddings_and_logits(record):
  text = _text(record, mask=record["attention_mask"])
  image = _image_embeds(record["config"], record["params"], record["pixels"])
  logits = clip.similarity(record["config"], record["params"], text, image)
  _close(text, record["text_embeds"])
  _close(image, record["image_embeds"])
  _close(logits, record["logits_per_image"])
  assert text.dtype == image.dtype == logits.dtype == jnp.float32


def _erf_gelu(x):
  return x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def _quick_gelu(x):
  return x / (1 + np.exp(-1.702 * x))


def _oracle_image_embeds(tensors, pixels, act, *, config):
  """Compute the picture tower in float64 by loops over pictures and patches."""
  w = {name: np.asarray(t, np.float64) for name, t in tensors.items()}
  tower, side = config.vision, config.patch_size

  def norm(x, name):
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(
      x.var(-1, keepdims=True) + tower.norm_eps
    )
    return y * w[f"{name}.weight"] + w[f"{name}.bias"]

  def dense(x, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

  rows = []
  for picture in np.asarray(pixels, np.float64):
    kernel = w["vision_model.embeddings.patch_embedding.weight"]
    tokens = [w["vision_model.embeddings.class_embedding"]]
    for top in range(0, picture.shape[0], side):
      for left in range(0, picture.shape[1], side):
        patch = picture[top : top + side, left : left + side]
        tokens.append(np.einsum("hwc,dchw->d", patch, kernel))
    x = np.stack(tokens)
    x = x + w["vision_model.embeddings.position_embedding.weight"]
    x = norm(x, "vision_model.pre_layrnorm")
    for i in range(tower.num_layers):
      layer = f"vision_model.encoder.layers.{i}"
      h = norm(x, f"{layer}.layer_norm1")
      q, k, v = (
        np.split(
          dense(h, f"{layer}.self_attn.{n}_proj"), tower.num_heads, axis=-1
        )
        for n in "qkv"
      )
      heads = []
      for a, b, c in zip(q, k, v, strict=True):
        scores = np.exp(a @ b.T / np.sqrt(a.shape[-1]))
        heads.append(scores / scores.sum(-1, keepdims=True) @ c)
      x = x + dense(np.concatenate(heads, -1), f"{layer}.self_attn.out_proj")
      h = act(dense(norm(x, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1"))
      x = x + dense(h, f"{layer}.mlp.fc2")
    y = norm(x[0], "vision_model.post_layernorm")
    y = w["visual_projection.weight"] @ y
    rows.append(y / np.sqrt(y @ y))
  return np.stack(rows)


@pytest.mark.parametrize(
  ("activation", "function"),
  [("gelu", _erf_gelu), ("quick_gelu", _quick_gelu)],
)
def test_picture_tower_equals_plain_numpy(record, activation, function):
  # An epsilon of another size than the recorded: it shows where it is used.
  config = _with_towers(record["config"], activation=activation, norm_eps=1e-2)
  expected = _oracle_image_embeds(
    record["tensors"],
    record["pixels"],
    function,
    config=config,
  )
  _close(_image_embeds(config, record["params"], record["pixels"]), expected)


def test_activations_differ_in_both_towers(record):
  other = _with_towers(record["config"], activation="gelu")
  quick_text, gelu_text = (
    _text(record, text=config.text) for config in (record["config"], other)
  )
  quick_image, gelu_image = (
    _image_embeds(config, record["params"], record["pixels"])
    for config in (record["config"], other)
  )
  assert np.abs(quick_text - gelu_text).max() > 1e-3
  assert np.abs(quick_image - gelu_image).max() > 1e-3


@pytest.mark.parametrize("eos_id", [299, clip_config.LEGACY_EOS_ID])
def test_padding_leaves_a_text_as_it_is(record, eos_id):
  """The id 299 ends the texts and is the highest; padding bears it too."""
  whole = _text(record, mask=record["attention_mask"], eos_id=eos_id)
  ends = np.argmax(record["input_ids"] == 299, axis=1)
  assert list(ends) == [7, 12, 18]
  inside = np.arange(20)[None] <= ends[:, None]
  for filler in (0, 298):
    padded = np.where(inside, record["input_ids"], filler)
    _close(_text(record, padded, inside, eos_id=eos_id), whole, atol=2e-6)
  short = _text(record, record["input_ids"][:1, :8], eos_id=eos_id)
  _close(short[0], whole[0], atol=2e-6)


def test_text_after_the_end_is_not_seen(record):
  """The first recorded text ends at place 7."""
  ids = np.where(np.arange(20) > 7, 5, record["input_ids"][:1])
  _close(_text(record, ids)[0], _text(record)[0], atol=2e-6)


def test_a_masked_token_is_not_attended_to(record):
  ids = record["input_ids"][2:]
  others = np.where(np.arange(20) == 4, 7, ids)
  mask = np.where(np.arange(20) == 4, 0, np.ones((1, 20), np.int32))
  masked = _text(record, ids, mask)
  np.testing.assert_array_equal(_text(record, others, mask), masked)
  assert np.abs(_text(record, ids) - masked).max() > 1e-3
  np.testing.assert_array_equal(_text(record, ids, mask.astype(bool)), masked)


def test_a_text_is_read_at_the_first_end_or_at_the_highest_id(record):
  ids = np.array([[298, 40, 150, 60, 299, 150, 3, 299]])
  first = _text(record, ids, eos_id=150)
  legacy = _text(record, ids, eos_id=clip_config.LEGACY_EOS_ID)
  _close(_text(record, ids[:, :3], eos_id=150), first, atol=2e-6)
  _close(_text(record, ids[:, :5], eos_id=299), legacy, atol=2e-6)
  assert np.abs(first - legacy).max() > 1e-3


def test_embeddings_have_length_1(record):
  text = _text(record)
  image = _image_embeds(
    record["config"], record["params"], record["pixels"] * 3
  )
  for embeds in (text, image):
    _close(np.linalg.norm(embeds, axis=-1), 1.0, atol=1e-6)


def test_similarity_scales_cosines_a_row_a_picture():
  tower = clip_config.TowerConfig(
    width=4, num_layers=1, num_heads=1, mlp_width=4
  )
  config = clip_config.ClipConfig(text=tower, vision=tower, embed_width=2)
  params = {"logit_scale": jnp.log(10.0)}
  text = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
  image = jnp.array([[0.6, 0.8]])
  logits = clip.similarity(config, params, text, image)
  _close(logits, [[6.0, 8.0, -6.0]])


def test_position_of_a_patch_matters(record):
  flipped = record["pixels"][:, :, ::-1]
  whole, other = (
    _image_embeds(record["config"], record["params"], pixels)
    for pixels in (record["pixels"], flipped)
  )
  assert np.abs(whole - other).max() > 1e-3


def test_jit_equals_no_jit(record):
  config, params = record["config"], record["params"]
  ids, mask = jnp.asarray(record["input_ids"]), record["attention_mask"]

  def run(params, ids, mask, pixels):
    text = clip.text_embeds(config, params, ids, attention_mask=mask)
    image = clip.image_embeds(config, params, pixels)
    return clip.similarity(config, params, text, image)

  args = (params, ids, jnp.asarray(mask), record["pixels"])
  _close(jax.jit(run)(*args), run(*args))


def test_mesh_equals_no_mesh(record):
  config, params = record["config"], record["params"]
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  placed = jax.device_put(
    params, sharding.shardings(mesh, clip.logical_axes(config))
  )
  ids = jnp.asarray(np.tile(record["input_ids"], (4, 1)))
  mask = jnp.asarray(np.tile(record["attention_mask"], (4, 1)))
  pixels = jnp.tile(record["pixels"], (4, 1, 1, 1))

  @jax.jit
  def run(params):
    text = clip.text_embeds(config, params, ids, attention_mask=mask)
    return text, clip.image_embeds(config, params, pixels)

  with jax.set_mesh(mesh):
    text, image = run(placed)
  _close(text[3:6], record["text_embeds"])
  _close(image[9:], record["image_embeds"])


def test_bfloat16_stays_close_and_returns_float32(record):
  config = dataclasses.replace(record["config"], compute_dtype="bfloat16")
  image = _image_embeds(config, record["params"], record["pixels"])
  text = _text(record, mask=record["attention_mask"], compute_dtype="bfloat16")
  assert image.dtype == text.dtype == jnp.float32
  cosines = [
    np.sum(image * record["image_embeds"], -1),
    np.sum(text * record["text_embeds"], -1),
  ]
  assert np.min(cosines) > 0.999
  assert np.abs(image - record["image_embeds"]).max() > 1e-6


@pytest.mark.parametrize(
  ("hf_config", "count"),
  [
    ({}, 151_277_313),  # ViT-B/32
    (
      {
        "projection_dim": 768,
        "text_config": {
          "hidden_size": 768,
          "intermediate_size": 3072,
          "num_attention_heads": 12,
          "eos_token_id": 2,
        },
        "vision_config": {
          "hidden_size": 1024,
          "intermediate_size": 4096,
          "num_attention_heads": 16,
          "num_hidden_layers": 24,
          "image_size": 336,
          "patch_size": 14,
        },
      },
      427_944_193,  # ViT-L/14-336
    ),
  ],
)
def test_published_sizes_have_the_published_number_of_parameters(
  hf_config, count
):
  config = clip_config.config_from_dict(hf_config)
  shapes = jax.eval_shape(lambda: clip.init(config, jax.random.key(0)))
  assert sum(math.prod(s.shape) for s in jax.tree.leaves(shapes)) == count


def test_logical_axes_name_every_dimension(record):
  config, params = record["config"], record["params"]
  axes = clip.logical_axes(config)
  ranks = jax.tree.map(
    lambda names: len(names), axes, is_leaf=lambda n: isinstance(n, tuple)
  )
  assert ranks == jax.tree.map(lambda leaf: leaf.ndim, params)
  assert axes["text"]["embed"] == ("vocab", "embed")
  assert axes["vision"]["blocks"]["q_proj"] == (None, "embed", "heads", None)


def test_init_draws_at_the_published_scales(record):
  tower = dataclasses.replace(record["config"].text, activation="gelu")
  config = dataclasses.replace(record["config"], text=tower, vision=tower)
  params = clip.init(config, jax.random.key(0))
  blocks = params["text"]["blocks"]
  n, d = config.text.num_layers, config.text.width
  for array, std in (
    (params["text"]["embed"], 0.02),
    (blocks["q_proj"], d**-0.5 * (2 * n) ** -0.5),
    (blocks["attn_out"], d**-0.5),
    (blocks["up"], (2 * d) ** -0.5),
    (blocks["down"], d**-0.5 * (2 * n) ** -0.5),
    (params["vision"]["project"], d**-0.5),
  ):
    assert float(array.std()) == pytest.approx(std, rel=0.05)
  assert np.all(blocks["attn_norm"] == 1) and np.all(blocks["up_bias"] == 0)
  assert not np.array_equal(blocks["q_proj"], blocks["k_proj"])
  assert params["logit_scale"] == np.float32(2.6592)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))


@pytest.mark.parametrize(
  ("ids", "mask", "message"),
  [
    ((1, 21), (1, 21), r"T in \[1, 20\], got \(1, 21\)"),
    ((1, 0), (1, 0), r"T in \[1, 20\]"),
    ((5,), (5,), r"input_ids must be \[B, T\]"),
    ((1, 5), (1, 6), r"shape of input_ids \(1, 5\), got \(1, 6\)"),
  ],
)
def test_texts_of_another_shape_are_refused(record, ids, mask, message):
  with pytest.raises(ValueError, match=message):
    clip.text_embeds(
      record["config"],
      record["params"],
      jnp.zeros(ids, jnp.int32),
      attention_mask=jnp.ones(mask, bool),
    )


@pytest.mark.parametrize(
  ("pixels", "message"),
  [
    (jnp.zeros((1, 3, 32, 32)), r"\[B, 32, 32, 3\], got \(1, 3, 32, 32\)"),
    (jnp.zeros((1, 40, 32, 3)), r"\[B, 32, 32, 3\]"),
    (jnp.zeros((1, 32, 32, 3), jnp.uint8), "normalised floats, got uint8"),
  ],
)
def test_pixels_of_another_kind_are_refused(record, pixels, message):
  with pytest.raises(ValueError, match=message):
    clip.image_embeds(record["config"], record["params"], pixels)


def test_embeddings_of_another_width_are_refused(record):
  with pytest.raises(ValueError, match=r"must be \[\.\., 40\]"):
    clip.similarity(
      record["config"],
      record["params"],
      jnp.ones((1, 40)),
      jnp.ones((1, 41)),
    )
