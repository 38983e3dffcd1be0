"""Configs in Hugging Face's format, whole, partial, old and wrong."""

import dataclasses

import pytest

from paradiff.models import clip_config


def test_missing_keys_take_the_defaults_of_vit_b_32():
  config = clip_config.config_from_dict({"text_config": None})
  assert config == clip_config.ClipConfig(
    text=clip_config.TowerConfig(
      width=512, num_layers=12, num_heads=8, mlp_width=2048
    ),
    vision=clip_config.TowerConfig(
      width=768, num_layers=12, num_heads=12, mlp_width=3072
    ),
  )
  assert (config.grid_size, config.vision.head_size) == (7, 64)


def test_every_key_that_matters_is_read():
  config = clip_config.config_from_dict(
    {
      "model_type": "clip",
      "projection_dim": 10,
      "logit_scale_init_value": 1.5,
      "initializer_factor": 1.0,
      "text_config": {
        "vocab_size": 30,
        "hidden_size": 6,
        "intermediate_size": 7,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 9,
        "eos_token_id": 29,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "dropout": 0.0,
      },
      "vision_config": {
        "hidden_size": 8,
        "intermediate_size": 11,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 15,
        "patch_size": 5,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-4,
      },
    },
    compute_dtype="bfloat16",
  )
  assert config == clip_config.ClipConfig(
    text=clip_config.TowerConfig(
      width=6,
      num_layers=2,
      num_heads=3,
      mlp_width=7,
      activation="gelu",
      norm_eps=1e-6,
    ),
    vision=clip_config.TowerConfig(
      width=8,
      num_layers=4,
      num_heads=2,
      mlp_width=11,
      activation="gelu",
      norm_eps=1e-4,
    ),
    vocab_size=30,
    max_text_len=9,
    eos_id=29,
    image_size=15,
    patch_size=5,
    embed_width=10,
    initial_logit_scale=1.5,
    compute_dtype="bfloat16",
  )


def test_a_repeated_section_of_old_files_wins_with_its_defaults():
  """As in transformers, which the parity tests ask."""
  config = clip_config.config_from_dict(
    {
      "text_config": {"hidden_size": 64, "eos_token_id": 2},
      "text_config_dict": {"hidden_size": 768, "num_attention_heads": 12},
      "vision_config": {"patch_size": 14},
      "vision_config_dict": None,
    }
  )
  assert (config.text.width, config.text.num_heads) == (768, 12)
  assert (config.eos_id, config.patch_size) == (49407, 14)


@pytest.mark.parametrize(
  ("hf_config", "message"),
  [
    (
      {"text_config": {"hidden_act": "gelu_new"}},
      r"text_config: activation must be one of \('quick_gelu', 'gelu'\), got "
      "'gelu_new'",
    ),
    (
      {"vision_config": {"hidden_act": "relu"}},
      "vision_config: activation must be one of .* got 'relu'",
    ),
    ({"model_type": "siglip"}, "model_type must be \"clip\", got 'siglip'"),
    ({"vision_config": {"num_channels": 4}}, "num_channels must be 3, got 4"),
    ({"vision_config": {"patch_size": 15}}, "patch_size must divide"),
    ({"vision_config": {"image_size": [224, 224]}}, "image_size must be"),
    ({"text_config": {"num_attention_heads": 7}}, "must divide width"),
    (
      {"text_config": {"num_hidden_layers": 0}},
      "num_layers must be a positive",
    ),
    ({"text_config": {"eos_token_id": [1, 2]}}, r"eos_id must be one id"),
    (
      {"text_config": {"vocab_size": 100}},
      r"eos_id must be one id of \[0, 100",
    ),
    ({"text_config": {"layer_norm_eps": 0.0}}, "norm_eps must be positive"),
    ({"projection_dim": None}, "embed_width must be a positive integer"),
  ],
)
def test_a_config_of_something_else_is_refused(hf_config, message):
  with pytest.raises(ValueError, match=message):
    clip_config.config_from_dict(hf_config)


def test_unknown_compute_dtype_is_refused():
  config = clip_config.config_from_dict({})
  with pytest.raises(ValueError, match=r"compute_dtype must be .*'float16'"):
    dataclasses.replace(config, compute_dtype="float16")
