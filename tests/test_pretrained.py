"""Exported parameters: names, dtypes, order of elements, damage."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest

from paradiff import pretrained


def test_pretrained_round_trip_keeps_names_dtypes_and_config(tmp_path):
  params = {
    "blocks": {"q_proj": np.arange(6, dtype=np.float32).reshape(2, 3)},
    "head": np.ones((2, 2), ml_dtypes.bfloat16),
  }
  pretrained.save(tmp_path, "net", params, {"width": 3})
  loaded, config = pretrained.load(tmp_path, "net")
  assert config == {"width": 3}
  assert loaded["head"].dtype == ml_dtypes.bfloat16
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {"net.safetensors", "net.json"}


def test_transposed_leaves_are_saved_in_their_own_order(tmp_path):
  leaf = np.arange(6, dtype=np.float32).reshape(2, 3).T
  pretrained.save(tmp_path, "net", {"w": leaf}, {})
  loaded, _ = pretrained.load(tmp_path, "net")
  np.testing.assert_array_equal(loaded["w"], leaf)


def test_missing_and_damaged_exports_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"net\.json"):
    pretrained.load(tmp_path, "net")
  pretrained.save(tmp_path, "net", {"w": np.ones(100)}, {})
  weights = tmp_path / "net.safetensors"
  whole = weights.read_bytes()
  for damaged in (b"", whole[:20], whole[:-8], b"PK\x03\x04 a zip file"):
    weights.write_bytes(damaged)
    with pytest.raises(
      ValueError, match=rf"net\.safetensors.*{len(damaged)} b"
    ):
      pretrained.load(tmp_path, "net")
  weights.unlink()
  with pytest.raises(FileNotFoundError, match=r"net\.safetensors"):
    pretrained.load(tmp_path, "net")
  for text in ("{", json.dumps([1])):
    (tmp_path / "net.json").write_text(text)
    weights.write_bytes(whole)
    with pytest.raises(ValueError, match=r"net\.json"):
      pretrained.load(tmp_path, "net")
