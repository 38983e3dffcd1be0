"""Laws of loading: recorded runs, any sharding, dtypes, and little memory.

The recorded logits, latents and pictures are of the published PyTorch code
(float32, CPU); 1e-4 is for sums in another order on values of about 1 to 4.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import drawn_weights
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import toy

from paradiff import sharding
from paradiff.convert import load as load_lib
from paradiff.convert import picture_tokenizers
from paradiff.convert import plan as plan_lib
from paradiff.convert import rules
from paradiff.convert import synthetic
from paradiff.convert import tensors
from paradiff.models import image_tokenizer
from paradiff.models import transformer

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
BACKBONE = transformer.TransformerConfig(
  vocab_size=1084, width=64, num_layers=2, num_heads=4, mlp_width=192
)


def _shard(arrays, folder, num_shards=3):
  """Write arrays over some files and an index, by the format's library."""
  names = sorted(arrays)
  places = {}
  for i in range(num_shards):
    part = names[i::num_shards]
    file = f"model-{i + 1:05}-of-{num_shards:05}.safetensors"
    safetensors.numpy.save_file({n: arrays[n] for n in part}, folder / file)
    places |= dict.fromkeys(part, file)
  index = folder / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": places}))
  return tensors.Checkpoint.open(folder)


def _published():
  with np.load(GOLDEN / "parallel_a_greedy.npz") as file:
    arrays = {
      name.removeprefix("sd/"): file[name]
      for name in file.files
      if name.startswith("sd/")
    }
    return arrays, file["input_ids"], file["logits"]


def _load(checkpoint, shapes, rule_set=rules.BACKBONE, **options):
  plan = plan_lib.match(rule_set, checkpoint, shapes)
  return load_lib.load(checkpoint, plan, shapes, **options)


def _backbone_shapes(mesh=None, config=BACKBONE):
  shapes = jax.eval_shape(lambda: transformer.init(config, jax.random.key(0)))
  if mesh is None:
    return shapes
  return jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=place
    ),
    shapes,
    sharding.shardings(mesh, transformer.logical_axes(config)),
  )


def test_a_loaded_backbone_reproduces_the_recorded_logits(tmp_path):
  arrays, tokens, expected = _published()
  params = _load(_shard(arrays, tmp_path), _backbone_shapes())

  @jax.jit
  def logits(params):
    valid = jnp.ones(tokens.shape, bool)
    hidden = transformer.trunk(
      BACKBONE, params, jnp.asarray(tokens), valid_mask=valid
    )
    return transformer.head(BACKBONE, params, hidden, columns=(0, 1084))

  assert np.abs(expected).max() > 0.5
  np.testing.assert_allclose(logits(params), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["amused", "magvitv2"])
def test_a_loaded_image_tokenizer_reproduces_the_recorded_run(tmp_path, kind):
  file = {"amused": "amused_vq.npz", "magvitv2": "magvitv2.npz"}[kind]
  with np.load(GOLDEN / file) as npz:
    record = {name: npz[name] for name in npz.files}
  salt = str(record["salt"])
  arrays = {
    name: drawn_weights.tensor(name, shape, salt=salt)
    for name, shape in drawn_weights.listed(record["names"])
  }
  checkpoint = _shard(arrays, tmp_path)
  if kind == "amused":
    sizes = dataclasses.replace(
      image_tokenizer.AMUSED,
      base_channels=32,
      encoder_multipliers=tuple((record["block_out_channels"] // 32).tolist()),
      decoder_multipliers=tuple((record["block_out_channels"] // 32).tolist()),
      num_codes=int(record["codebook"]),
      latent_channels=int(record["latent_channels"]),
    )
    text = json.dumps(picture_tokenizers.to_config(sizes))
    (tmp_path / "config.json").write_text(text)
  config = picture_tokenizers.read(kind, tmp_path, checkpoint)
  shapes = jax.eval_shape(
    lambda: image_tokenizer.init(config, jax.random.key(0))
  )
  params = _load(checkpoint, shapes, picture_tokenizers.RULES[kind])
  grid = tuple(side // config.factor for side in record["x"].shape[2:])

  @jax.jit
  def run(pictures):
    codes = image_tokenizer.encode(config, params, pictures)
    return codes, image_tokenizer.decode(config, params, codes, grid=grid)

  codes, decoded = run(record["x"].transpose(0, 2, 3, 1))
  np.testing.assert_array_equal(codes, record["codes"].reshape(codes.shape))
  np.testing.assert_allclose(
    decoded, record["decoded"].transpose(0, 2, 3, 1), rtol=0, atol=1e-4
  )


def _small(folder, dtype):
  """Write the toy backbone, every number of it another one."""
  shapes = _backbone_shapes(config=toy.CONFIG)
  start, arrays = 0, {}
  for leaf in plan_lib.expected(rules.BACKBONE, shapes).leaves:
    for name in leaf.sources:
      stop = start + int(np.prod(leaf.published_shape))
      numbers = np.arange(start, stop, dtype=np.uint32)
      words = numbers.astype(np.dtype(f"u{np.dtype(dtype).itemsize}"))
      arrays[name] = words.view(dtype).reshape(leaf.published_shape)
      start = stop
  return _shard(arrays, folder), arrays


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
@pytest.mark.parametrize("shape", [None, *toy.MESHES])
def test_every_shard_on_every_mesh_holds_the_published_bits(
  tmp_path, shape, dtype
):
  checkpoint, arrays = _small(tmp_path, dtype)
  mesh = None if shape is None else toy.mesh(shape)
  shapes = _backbone_shapes(mesh, toy.CONFIG)
  params = _load(checkpoint, shapes)
  h, k = toy.CONFIG.num_heads, toy.CONFIG.head_size
  prefix = "model.transformer"
  expected = {
    "embed": arrays[f"{prefix}.wte.weight"],
    "q_proj": np.stack(
      [
        arrays[f"{prefix}.blocks.{i}.q_proj.weight"].T.reshape(-1, h, k)
        for i in range(toy.CONFIG.num_layers)
      ]
    ),
    "attn_out": np.stack(
      [
        arrays[f"{prefix}.blocks.{i}.attn_out.weight"].T.reshape(h, k, -1)
        for i in range(toy.CONFIG.num_layers)
      ]
    ),
    "down": np.stack(
      [
        arrays[f"{prefix}.blocks.{i}.ff_out.weight"].T
        for i in range(toy.CONFIG.num_layers)
      ]
    ),
  }
  assert jax.tree.structure(params) == jax.tree.structure(shapes)
  for name, array in expected.items():
    leaf = params[name] if name == "embed" else params["blocks"][name]
    assert leaf.dtype == dtype and leaf.shape == array.shape
    word = np.dtype(f"u{array.itemsize}")
    for shard in leaf.addressable_shards:
      found = np.asarray(shard.data).view(word)
      np.testing.assert_array_equal(found, array[shard.index].view(word))
  if mesh is not None:
    placed = jax.tree.map(lambda leaf: leaf.sharding, params)
    assert placed == jax.tree.map(lambda leaf: leaf.sharding, shapes)


def test_layers_may_be_sharded_too(tmp_path):
  checkpoint, arrays = _small(tmp_path, np.float32)
  mesh = toy.mesh((2, 2, 1))
  place = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec("data", None, "fsdp")
  )
  shapes = _backbone_shapes(config=toy.CONFIG)
  old = shapes["blocks"]["gate"]
  shapes["blocks"]["gate"] = jax.ShapeDtypeStruct(
    old.shape, old.dtype, sharding=place
  )
  gate = _load(checkpoint, shapes)["blocks"]["gate"]
  assert {shard.data.shape for shard in gate.addressable_shards} == {
    (1, 16, 16)
  }
  for i in range(2):
    name = f"model.transformer.blocks.{i}.ff_proj.weight"
    np.testing.assert_array_equal(
      np.asarray(gate)[i].view(np.uint32), arrays[name].T.view(np.uint32)
    )


def test_a_dtype_that_is_asked_for_is_given(tmp_path):
  arrays, _, _ = _published()
  checkpoint = _shard(arrays, tmp_path)
  params = _load(checkpoint, _backbone_shapes(), dtype=jnp.bfloat16)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
    jnp.dtype(jnp.bfloat16)
  }
  np.testing.assert_array_equal(
    params["head"],
    arrays["model.transformer.ff_out.weight"].astype(ml_dtypes.bfloat16),
  )


@pytest.mark.parametrize("shape", [None, (2, 2, 2), (8, 1, 1)])
def test_progress_rises_to_the_total(tmp_path, shape):
  checkpoint, arrays = _small(tmp_path, np.float16)
  calls = []
  mesh = None if shape is None else toy.mesh(shape)
  _load(
    checkpoint,
    _backbone_shapes(mesh, toy.CONFIG),
    on_tensor=lambda *call: calls.append(call),
  )
  done = [call[0] for call in calls]
  assert done == sorted(done) and len(calls) >= len(arrays)
  assert done[-1] == calls[-1][1] == sum(a.nbytes for a in arrays.values())


@pytest.fixture(scope="module")
def large(tmp_path_factory):
  """A checkpoint of some 128 MiB, most of it in matrices of blocks."""
  folder = tmp_path_factory.mktemp("large")
  sizes = synthetic.Sizes(
    width=512, num_layers=20, num_heads=4, mlp_width=1536, spare_rows=64
  )
  synthetic.build(folder, "parallel_a", sizes=sizes)
  return folder


@pytest.mark.parametrize(
  ("num_devices", "mesh"), [(1, None), (8, "1,4,2"), (8, "2,2,2")]
)
def test_memory_stays_near_the_result(large, num_devices, mesh):
  """At most 1.5 of the largest shard above the result's own bytes.

  The same program measures 2 GiB: see benchmarks/conversion_memory.py.
  """
  command = [sys.executable, "-m", "benchmarks.conversion_memory"]
  command += [f"--read={large}", *([f"--mesh={mesh}"] if mesh else [])]
  flag = f"--xla_force_host_platform_device_count={num_devices}"
  result = subprocess.run(
    command,
    cwd=ROOT,
    env={**os.environ, "XLA_FLAGS": flag},
    check=True,
    capture_output=True,
    text=True,
  )
  figures = json.loads(result.stdout.splitlines()[-1])
  assert figures["devices"] == num_devices
  assert figures["result_bytes"] >= 2**27
  # The sampler sees the result appear, less what the start had to spare.
  assert figures["peak_bytes"] > 0.95 * figures["result_bytes"]
  assert figures["overhead_bytes"] <= 1.5 * figures["largest_shard_bytes"]
