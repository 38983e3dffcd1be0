"""CLIP folders in the Hugging Face format."""

import json
import pathlib

import clip_tensors
import drawn_weights
import jax
import numpy as np
import pytest
import toy

from paradiff.convert import clip
from paradiff.convert import plan

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "clip.npz"


def _tensors():
  file = np.load(GOLDEN)
  drawn = {
    name: drawn_weights.tensor(name, shape, salt="dev")
    for name, shape in drawn_weights.listed(file["names"])
  }
  return json.loads(str(file["config"])), drawn


def test_each_head_gets_its_rows_and_its_bias(tmp_path):
  hf_config, drawn = _tensors()
  clip_tensors.write(tmp_path, hf_config, drawn)
  config, params = clip.read(tmp_path)
  size = config.text.width // config.text.num_heads
  name = "text_model.encoder.layers.1.self_attn.k_proj"
  block = params["text"]["blocks"]
  np.testing.assert_array_equal(
    block["k_proj"][1, :, 2],
    drawn[f"{name}.weight"][2 * size : 3 * size].T,
  )
  np.testing.assert_array_equal(
    block["k_bias"][1, 2], drawn[f"{name}.bias"][2 * size : 3 * size]
  )


def test_a_mesh_changes_places_not_numbers(tmp_path):
  hf_config, drawn = _tensors()
  clip_tensors.write(tmp_path, hf_config, drawn)
  _, here = clip.read(tmp_path)
  _, there = clip.read(tmp_path, mesh=toy.mesh((2, 2, 2)))
  assert len(there["text"]["blocks"]["up"].sharding.device_set) == 8
  jax.tree.map(np.testing.assert_array_equal, here, there)


def test_what_is_not_clip_is_refused_by_name(tmp_path):
  hf_config, drawn = _tensors()
  clip_tensors.write(tmp_path, {**hf_config, "model_type": "llada"}, drawn)
  with pytest.raises(ValueError, match=r"config\.json must be that of a CLIP"):
    clip.read(tmp_path)
  missing = dict(drawn)
  del missing["visual_projection.weight"]
  clip_tensors.write(tmp_path, hf_config, missing)
  with pytest.raises(plan.Mismatch, match="vision/project"):
    clip.read(tmp_path)
