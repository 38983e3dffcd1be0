"""Laws of converted models: bytes come back, and nothing is half-written."""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import toy

from paradiff import checkpoints
from paradiff.convert import export as export_lib
from paradiff.convert import facts as facts_lib
from paradiff.convert import load as load_lib
from paradiff.convert import model as model_lib
from paradiff.convert import publish
from paradiff.convert import storage
from paradiff.convert import synthetic
from paradiff.convert import tensors
from paradiff.data import text

FAMILIES = ("parallel_a", "parallel_m", "llada")
STEPS = {"save": storage.save, "export": publish.export}


def _bytes(folder):
  """Return the bytes of every file beneath a folder, by its path."""
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


def _read(folder, family, **options):
  inside = folder / "image_tokenizer"
  if inside.exists():
    options["image_tokenizer"] = inside
  return model_lib.read(folder, family, **options)


def _bits(tree):
  """Return the numbers of a tree as they are in memory."""
  flat = checkpoints.flatten(jax.device_get(tree))
  return {k: (str(v.dtype), v.shape, v.tobytes()) for k, v in flat.items()}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
  """Sources of three families, and what they are converted to."""
  root = tmp_path_factory.mktemp("converted")
  for family in FAMILIES:
    folder = root / "source" / family
    # Rows that two devices can share.
    spare_rows = 4 if family == "parallel_a" else 3
    sizes = synthetic.Sizes(num_shards=3, spare_rows=spare_rows)
    synthetic.build(folder, family, sizes=sizes)
    storage.save(root / family, _read(folder, family))
  return root


@pytest.mark.parametrize("family", FAMILIES)
def test_export_gives_every_file_back_byte_for_byte(
  tmp_path, converted, family
):
  source = converted / "source" / family
  publish.export(tmp_path / "out", storage.load(converted / family))
  expected = _bytes(source)
  assert len([name for name in expected if "model-0000" in name]) == 3
  assert ("vqvae/config.json" in expected) == (family == "parallel_a")
  assert _bytes(tmp_path / "out") == expected


def test_files_that_this_library_would_not_write_come_back_too(tmp_path):
  """Other order, metadata, padding and dtypes than our own export has."""
  source = tmp_path / "source"
  synthetic.build(source, "llada", sizes=synthetic.Sizes(num_shards=1))
  path = source / "model.safetensors"
  arrays = {
    name: np.array(tensor.view())
    for name, tensor in tensors.Checkpoint.open(source).items()
  }
  names = sorted(arrays, key=lambda name: name[::-1])
  for name in names:
    if "norm" in name:
      arrays[name] = arrays[name].astype(np.float32)
  entries = {
    name: (("F32" if "norm" in name else "BF16"), arrays[name].shape)
    for name in names
  }
  header = json.loads(export_lib.header_of(entries))
  header["__metadata__"] = {"format": "pt", "who": "\N{GREEK SMALL LETTER PI}"}
  header = dict(reversed(header.items()))  # the order of bytes is another
  spaced = json.dumps(header, ensure_ascii=False).encode() + b"     "
  export_lib.write_file(path, spaced, arrays.__getitem__)
  (source / "notes").mkdir()
  (source / "notes" / "a.txt").write_bytes(b"\r\n\xff")
  (source / "spiece.model").write_bytes(bytes(range(256)))
  expected = _bytes(source)
  (source / "modeling.py").write_text("raise SystemExit")
  (source / "weights.bin").write_bytes(b"pickle")
  storage.save(tmp_path / "ours", _read(source, "llada"))
  model = storage.load(tmp_path / "ours")
  assert model.params["blocks"]["attn_norm"].dtype == jnp.float32
  assert model.params["embed"].dtype == jnp.bfloat16
  assert set(model.origin.left_out) == {
    "model/modeling.py",
    "model/weights.bin",
  }
  publish.export(tmp_path / "out", model)
  assert _bytes(tmp_path / "out") == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stored_model_is_the_one_that_was_read(converted, family):
  read = _read(converted / "source" / family, family)
  stored = storage.load(converted / family)
  assert stored.facts == read.facts
  assert _bits(stored.params) == _bits(read.params)
  if family == "llada":
    assert stored.image_params is None
  else:
    assert _bits(stored.image_params) == _bits(read.image_params)
  words = text.TextTokenizer.load(converted / family)
  assert len(words) == stored.facts.text_size


def test_relative_folders_are_folders(tmp_path, monkeypatch, converted):
  monkeypatch.chdir(tmp_path)
  storage.save("ours", storage.load(converted / "llada"))
  publish.export("inner/theirs", storage.load("ours"))
  expected = _bytes(converted / "source" / "llada")
  assert _bytes(tmp_path / "inner" / "theirs") == expected


def test_a_model_is_restored_onto_a_mesh(converted):
  mesh = toy.mesh((2, 2, 2))
  family = "parallel_a"
  read = _read(converted / "source" / family, family, mesh=mesh)
  stored = storage.load(converted / family, mesh=mesh)
  for model in (read, stored):
    expected, pictures = model_lib.param_shapes(model.facts, mesh)
    for params, shapes in (
      (model.params, expected),
      (model.image_params, pictures),
    ):
      placed = jax.tree.map(lambda leaf: leaf.sharding, params)
      assert placed == jax.tree.map(lambda leaf: leaf.sharding, shapes)
  embed = stored.params["embed"]
  assert {s.data.shape for s in embed.addressable_shards} == {(322, 16)}
  assert _bits(stored.params) == _bits(storage.load(converted / family).params)


def test_a_sharded_model_is_exported_too(tmp_path, converted):
  mesh = toy.mesh((1, 4, 2))
  publish.export(
    tmp_path / "out", storage.load(converted / "parallel_a", mesh=mesh)
  )
  assert _bytes(tmp_path / "out") == _bytes(converted / "source/parallel_a")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_an_origin_gets_the_standard_layout(
  tmp_path, converted, family
):
  stored = storage.load(converted / family)
  tuned = dataclasses.replace(
    stored,
    params=jax.tree.map(lambda x: x.astype(jnp.float32) + 1.0, stored.params),
    origin=None,
  )
  storage.save(tmp_path / "tuned", tuned)
  assert storage.load(tmp_path / "tuned").origin is None
  out = tmp_path / "out"
  calls = []
  publish.export(
    out,
    storage.load(tmp_path / "tuned"),
    max_shard_bytes=50_000,
    on_tensor=lambda *call: calls.append(call),
  )
  assert calls[-1][0] == calls[-1][1] == model_lib.num_params(tuned)[1]
  index = json.loads((out / "model.safetensors.index.json").read_text())
  assert len(set(index["weight_map"].values())) > 1
  total = 0
  for name, file in index["weight_map"].items():
    # The format's own library reads them.
    with safetensors.safe_open(out / file, "numpy") as opened:
      assert opened.metadata() == {"format": "pt"}
      total += opened.get_tensor(name).nbytes
  assert total == index["metadata"]["total_size"]
  for file in tensors.Checkpoint.open(out).files.values():
    assert (8 + len(file.header)) % 8 == 0  # readers may map numbers in place
  sizes = [path.stat().st_size for path in out.glob("model-*.safetensors")]
  assert max(sizes) < 100_000
  again = _read(out, family)
  assert _bits(again.params) == _bits(tuned.params)
  expected = dataclasses.replace(
    tuned.facts.transformer, compute_dtype="float32"
  )
  assert again.facts == dataclasses.replace(tuned.facts, transformer=expected)


def test_lookup_free_buffers_are_what_the_bits_say(tmp_path, converted):
  stored = storage.load(converted / "parallel_m")
  assert set(stored.origin.ignored) == {
    "quantize.embedding",
    "quantize.power_vals",
  }
  trained = dataclasses.replace(stored, origin=None)
  publish.export(tmp_path / "out", trained)
  found = tensors.Checkpoint.open(tmp_path / "out" / "image_tokenizer")
  weights = found["quantize.power_vals"].view()
  np.testing.assert_array_equal(weights, [32, 16, 8, 4, 2, 1])
  signs = found["quantize.embedding"].view()
  assert signs.dtype == np.float32 and signs.shape == (64, 6)
  np.testing.assert_array_equal(signs[37], [1, -1, -1, 1, -1, 1])
  np.testing.assert_array_equal((signs > 0) @ weights, np.arange(64))


def test_export_keeps_the_origins_dtypes_or_refuses(tmp_path, converted):
  stored = storage.load(converted / "llada")
  tuned = jax.tree.map(lambda x: x.astype(jnp.float32), stored.params)
  with pytest.raises(ValueError, match="must be BF16 .* as in its source"):
    publish.export(tmp_path / "out", dataclasses.replace(stored, params=tuned))
  assert list(tmp_path.iterdir()) == []


def test_other_numbers_of_the_same_dtypes_are_exported_in_the_same_files(
  tmp_path, converted
):
  stored = storage.load(converted / "llada")
  params = {**stored.params, "final_norm": stored.params["final_norm"] * 2}
  publish.export(tmp_path / "out", dataclasses.replace(stored, params=params))
  source = tensors.Checkpoint.open(converted / "source" / "llada")
  out = tensors.Checkpoint.open(tmp_path / "out")
  for name, tensor in source.items():
    expected = np.array(tensor.view())
    if name == "model.transformer.ln_f.weight":
      expected = (expected * 2).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(out[name].view(), expected)
    assert out[name].start == tensor.start


@pytest.mark.parametrize("step", list(STEPS))
def test_nothing_half_written_is_left_behind(
  tmp_path, monkeypatch, converted, step
):
  stored = storage.load(converted / "parallel_a")

  def fail(*_args, **_options):
    raise KeyboardInterrupt

  if step == "save":
    monkeypatch.setattr(storage.ocp.Checkpointer, "save", fail)
  else:
    monkeypatch.setattr(export_lib.Reader, "__call__", fail)
  (tmp_path / "out").mkdir()  # an empty folder stays as it was
  with pytest.raises(KeyboardInterrupt):
    STEPS[step](tmp_path / "out", stored)
  assert os.listdir(tmp_path) == ["out"] and not os.listdir(tmp_path / "out")


@pytest.mark.parametrize("step", list(STEPS))
def test_what_is_there_is_not_touched(tmp_path, converted, step):
  stored = storage.load(converted / "llada")
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "mine.txt").write_text("keep")
  with pytest.raises(FileExistsError, match="must not exist or be an empty"):
    STEPS[step](tmp_path / "out", stored)
  assert _bytes(tmp_path) == {"out/mine.txt": b"keep"}


def test_export_to_a_remote_folder_is_refused(converted):
  with pytest.raises(ValueError, match="exported to a local folder"):
    publish.export("gs://bucket/out", storage.load(converted / "llada"))


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("facts.json", None, r"must have .*facts\.json"),
    ("facts.json", "{", r"facts\.json must be JSON"),
    ("facts.json", '{"family": "llada"}', r"facts\.json must hold fac"),
    ("source.json", "[]", r"source\.json must hold an object"),
    ("source.json", "{}", r"source\.json must say what a source was"),
    ("image_tokenizer.safetensors", None, r"image_tokenizer\.safetensors"),
    ("transformer/_METADATA", None, "transformer must be a complete checkpoi"),
    ("transformer/_METADATA", "{", "transformer must be a complete checkpoint"),
    ("transformer", None, "must have .*transformer, got none"),
  ],
)
def test_a_damaged_folder_is_named(tmp_path, converted, name, content, message):
  folder = tmp_path / "model"
  storage.save(folder, storage.load(converted / "parallel_a"))
  path = folder / name
  if content is not None:
    path.write_text(content)
  elif path.is_dir():
    path.rename(tmp_path / "gone")
  else:
    path.unlink()
  with pytest.raises((FileNotFoundError, ValueError), match=message):
    storage.load(folder)


def test_parameters_of_other_facts_are_refused(tmp_path, converted):
  folder = tmp_path / "model"
  storage.save(folder, storage.load(converted / "llada"))
  facts = json.loads((folder / "facts.json").read_text())
  facts["transformer"]["num_layers"] = 3
  (folder / "facts.json").write_text(json.dumps(facts))
  with pytest.raises(ValueError, match=r"transformer must hold the parameters"):
    storage.load(folder)


def test_a_published_config_of_ours_says_all_that_is_checked(converted):
  facts = storage.load(converted / "llada").facts
  config = facts_lib.to_config(facts)
  assert {*facts_lib.REQUIRED, *facts_lib.OPTIONAL} <= set(config)


def test_bytes_done_are_counted_over_both_networks(converted):
  calls = []
  model = _read(
    converted / "source" / "parallel_a",
    "parallel_a",
    on_tensor=lambda *call: calls.append(call),
  )
  assert calls == sorted(calls)
  assert calls[-1] == (model_lib.num_params(model)[1],) * 2
  assert load_lib.counter(3, None)(3) is None


@pytest.mark.parametrize(
  "change",
  [
    lambda data: data["small_files"].update(a=["../../.bashrc"]),
    lambda data: data["small_files"].update({"../out": ["x.json"]}),
    lambda data: data["small_files"]["model"].append("/etc/passwd"),
    lambda data: data["components"]["transformer"].update(folder="../.."),
    lambda data: data["components"]["transformer"].update(root="/tmp"),
    lambda data: data["components"]["transformer"]["headers"].update(
      {"../x.safetensors": "{}"}
    ),
  ],
)
def test_a_folder_of_somebody_else_writes_nothing_outside(tmp_path, change):
  synthetic.build(tmp_path / "source", "llada")
  converted = tmp_path / "converted"
  storage.save(converted, model_lib.read(tmp_path / "source", "llada"))
  path = converted / "source.json"
  data = json.loads(path.read_text())
  change(data)
  path.write_text(json.dumps(data))
  with pytest.raises(ValueError, match=r"source\.json must name"):
    storage.load(converted)


def test_a_name_on_a_hub_is_not_looked_up_as_a_folder(monkeypatch):
  def refuse(path):
    raise AssertionError(f"{path} was looked up")

  monkeypatch.setattr(storage.epath, "Path", refuse)
  assert not storage.is_converted("hf://owner/name")
