"""Laws of the rules: published names, shapes, and what is listed if not."""

import dataclasses
import pathlib

import drawn_weights
import jax
import numpy as np
import pytest
import safetensors.numpy

from paradiff.convert import plan as plan_lib
from paradiff.convert import rules
from paradiff.convert import tensors
from paradiff.models import image_tokenizer
from paradiff.models import transformer

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
PARALLEL_M = transformer.TransformerConfig(
  vocab_size=134656, width=4096, num_layers=32, num_heads=32, mlp_width=12288
)
SMALL = transformer.TransformerConfig(
  vocab_size=11, width=8, num_layers=3, num_heads=2, mlp_width=6
)


def _shapes(module, config):
  return jax.eval_shape(lambda: module.init(config, jax.random.key(0)))


def _published(rule_set, module, config):
  plan = plan_lib.expected(rule_set, _shapes(module, config))
  return {
    name: leaf.published_shape for leaf in plan.leaves for name in leaf.sources
  }


def test_backbone_has_exactly_the_published_tensors():
  found = _published(rules.BACKBONE, transformer, PARALLEL_M)
  d, f, v = 4096, 12288, 134656
  prefix = "model.transformer"
  expected = {
    f"{prefix}.wte.weight": (v, d),
    f"{prefix}.ln_f.weight": (d,),
    f"{prefix}.ff_out.weight": (v, d),
  }
  for i in range(32):
    block = f"{prefix}.blocks.{i}"
    for name in ("q_proj", "k_proj", "v_proj", "attn_out"):
      expected[f"{block}.{name}.weight"] = (d, d)
    for name in ("attn_norm", "ff_norm"):
      expected[f"{block}.{name}.weight"] = (d,)
    for name in ("ff_proj", "up_proj"):
      expected[f"{block}.{name}.weight"] = (f, d)
    expected[f"{block}.ff_out.weight"] = (d, f)
  assert found == expected
  assert len(found) == 291
  assert sum(np.prod(shape) for shape in found.values()) == 8_082_690_048


def test_amused_has_exactly_the_recorded_tensors():
  with np.load(GOLDEN / "amused_vq.npz") as record:
    listed = dict(drawn_weights.listed(record["names"]))
    multipliers = record["block_out_channels"] // 32
    config = dataclasses.replace(
      image_tokenizer.AMUSED,
      base_channels=32,
      encoder_multipliers=tuple(multipliers.tolist()),
      decoder_multipliers=tuple(multipliers.tolist()),
      num_codes=int(record["codebook"]),
      latent_channels=int(record["latent_channels"]),
    )
  assert len(listed) == 277
  assert _published(rules.AMUSED, image_tokenizer, config) == listed


def test_magvitv2_has_exactly_the_recorded_tensors_but_two_buffers():
  with np.load(GOLDEN / "magvitv2.npz") as record:
    listed = dict(drawn_weights.listed(record["names"]))
    config = dataclasses.replace(
      image_tokenizer.MAGVITV2, base_channels=int(record["ch"])
    )
  shapes = _shapes(image_tokenizer, config)
  ignored = plan_lib.expected(rules.MAGVITV2, shapes).ignored
  assert set(ignored) == {"quantize.embedding", "quantize.power_vals"}
  found = _published(rules.MAGVITV2, image_tokenizer, config)
  assert found == {k: v for k, v in listed.items() if k not in ignored}
  assert len(found) == 380


def test_heads_in_is_the_projection_that_torch_computes():
  heads, size, width = 2, 3, 4
  rng = np.random.default_rng(0)
  weight, x = rng.standard_normal((heads * size, width)), rng.standard_normal(4)
  ours = rules.TRANSFORMS["heads_in"].to_ours(weight, (width, heads, size))
  np.testing.assert_allclose(
    np.einsum("d,dhk->hk", x, ours).reshape(-1), weight @ x
  )


def test_heads_out_is_the_projection_that_torch_computes():
  heads, size, width = 2, 3, 4
  rng = np.random.default_rng(0)
  weight, x = rng.standard_normal((width, heads * size)), rng.standard_normal(6)
  ours = rules.TRANSFORMS["heads_out"].to_ours(weight, (heads, size, width))
  np.testing.assert_allclose(
    np.einsum("hk,hkd->d", x.reshape(heads, size), ours), weight @ x
  )


@pytest.mark.parametrize(
  ("name", "shape", "published"),
  [
    ("same", (5,), (5,)),
    ("same", (5, 7), (5, 7)),
    ("transpose", (5, 7), (7, 5)),
    ("heads_in", (5, 2, 3), (6, 5)),
    ("heads_out", (2, 3, 5), (5, 6)),
    ("conv", (3, 2, 5, 7), (7, 5, 3, 2)),
  ],
)
def test_transforms_lose_nothing_and_copy_nothing(name, shape, published):
  transform = rules.TRANSFORMS[name]
  assert transform.published_shape(shape) == published
  array = np.arange(np.prod(published)).reshape(published)
  ours = transform.to_ours(array, shape)
  assert ours.shape == shape and np.shares_memory(ours, array)
  back = transform.to_published(ours)
  np.testing.assert_array_equal(back, array)
  assert back.flags.c_contiguous
  assert len(transform.tiles) in (0, len(shape))


def _checkpoint(folder, changes):
  """Write the small backbone's tensors with some of them changed."""
  arrays = {
    name: np.zeros(shape, np.float32)
    for name, shape in _published(rules.BACKBONE, transformer, SMALL).items()
  }
  for name, array in changes.items():
    if array is None:
      del arrays[name]
    else:
      arrays[name] = array
  safetensors.numpy.save_file(arrays, folder / "model.safetensors")
  return tensors.Checkpoint.open(folder)


def test_everything_that_does_not_fit_is_listed_at_once(tmp_path):
  prefix = "model.transformer"
  changes = {
    f"{prefix}.blocks.1.q_proj.weight": None,
    f"{prefix}.ln_f.weight": None,
    f"{prefix}.blocks.3.q_proj.weight": np.zeros((8, 8), np.float32),
    f"{prefix}.blocks.01.k_proj.weight": np.zeros((8, 8), np.float32),
    f"{prefix}.ff_out.bias": np.zeros(11, np.float32),
    f"{prefix}.blocks.0.ff_out.weight": np.zeros((6, 8), np.float32),
    f"{prefix}.wte.weight": np.zeros((11, 8), np.int64),
    f"{prefix}.blocks.2.up_proj.weight": np.zeros((6, 8), np.float16),
  }
  checkpoint = _checkpoint(tmp_path, changes)
  with pytest.raises(plan_lib.Mismatch) as caught:
    plan_lib.match(rules.BACKBONE, checkpoint, _shapes(transformer, SMALL))
  error = caught.value
  assert error.unmatched == (
    f"{prefix}.blocks.01.k_proj.weight",
    f"{prefix}.blocks.3.q_proj.weight",
    f"{prefix}.ff_out.bias",
  )
  assert error.unfilled == (
    f"blocks/q_proj[1]: wants {prefix}.blocks.1.q_proj.weight",
    f"final_norm: wants {prefix}.ln_f.weight",
  )
  found = "\n".join(sorted(error.misshapen))
  assert found == (
    f"{prefix}.blocks.0.ff_out.weight in model.safetensors must be [8, 6], got "
    "[6, 8]\n"
    f"{prefix}.blocks.2.up_proj.weight in model.safetensors must be of the "
    f"dtype of {prefix}.blocks.0.up_proj.weight, F32, got F16\n"
    f"{prefix}.wte.weight in model.safetensors must be of "
    "('BF16', 'F16', 'F32'), got I64"
  )
  for line in (*error.unmatched, *error.unfilled, *error.misshapen):
    assert line in str(error)
  assert str(tmp_path) in str(error)


@pytest.mark.parametrize(
  ("kind", "name", "array"),
  [
    ("unmatched", "model.extra.weight", np.zeros(3, np.float32)),
    ("unfilled", "model.transformer.ln_f.weight", None),
    ("misshapen", "model.transformer.ln_f.weight", np.zeros(9, np.float32)),
  ],
)
def test_one_fault_of_any_kind_is_enough(tmp_path, kind, name, array):
  checkpoint = _checkpoint(tmp_path, {name: array})
  with pytest.raises(plan_lib.Mismatch, match=name) as caught:
    plan_lib.match(rules.BACKBONE, checkpoint, _shapes(transformer, SMALL))
  kinds = ("unmatched", "unfilled", "misshapen")
  found = {k: len(getattr(caught.value, k)) for k in kinds}
  assert found == {k: int(k == kind) for k in kinds}


def test_an_exact_checkpoint_matches(tmp_path):
  plan = plan_lib.match(
    rules.BACKBONE, _checkpoint(tmp_path, {}), _shapes(transformer, SMALL)
  )
  assert plan.ignored == ()
  leaf = next(leaf for leaf in plan.leaves if leaf.target == "blocks/down")
  assert leaf.sources[2] == "model.transformer.blocks.2.ff_out.weight"
  assert (leaf.shape, leaf.published_shape) == ((3, 6, 8), (8, 6))


def test_rules_must_lead_to_each_parameter_once():
  shapes = {"a": np.zeros(3), "b": np.zeros(3)}
  with pytest.raises(plan_lib.Mismatch, match="b: no rule leads to it"):
    plan_lib.expected([rules.Rule("x", "a")], shapes)
  twice = [rules.Rule(x, y) for x, y in (("x", "a"), ("y", "a"), ("z", "b"))]
  with pytest.raises(plan_lib.Mismatch, match="a: more than one rule"):
    plan_lib.expected(twice, shapes)
  with pytest.raises(ValueError, match="transform must be in"):
    rules.Rule("x", "a", "rotate")
  with pytest.raises(ValueError, match="must suit the rank of a"):
    plan_lib.expected([rules.Rule("x", "a", "conv")], shapes)
