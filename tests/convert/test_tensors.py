"""Laws of reading safetensors lazily, and what is refused before that."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from paradiff.convert import tensors

ARRAYS = {
  "a": np.arange(6, dtype=np.float32).reshape(2, 3),
  "b": np.arange(4).astype(ml_dtypes.bfloat16),
  "c": np.arange(3, dtype=np.int64),
  "empty": np.zeros((0, 3), np.float16),
}


def _write(path, header, num_bytes):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text + b"\1" * num_bytes)


def _entry(start, stop, **changes):
  shape = [(stop - start) // 4]
  return {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]} | (
    changes
  )


def _sharded(folder, places=None):
  """Write two shards and their index by the format's own library."""
  folder.mkdir(exist_ok=True)
  parts = {"one.safetensors": ("a", "b"), "two.safetensors": ("c", "empty")}
  for name, keys in parts.items():
    part = {key: ARRAYS[key] for key in keys}
    safetensors.numpy.save_file(part, folder / name)
  ours = {key: name for name, keys in parts.items() for key in keys}
  index = {"weight_map": ours if places is None else ours | places}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))
  return folder


@pytest.mark.parametrize("sharded", [False, True])
def test_tensors_are_those_that_the_formats_library_wrote(tmp_path, sharded):
  if sharded:
    _sharded(tmp_path)
  else:
    safetensors.numpy.save_file(ARRAYS, tmp_path / "model.safetensors")
  checkpoint = tensors.Checkpoint.open(tmp_path)
  assert set(checkpoint) == set(ARRAYS) and len(checkpoint) == len(ARRAYS)
  for name, array in ARRAYS.items():
    view = checkpoint[name].view()
    assert view.dtype == array.dtype
    assert not view.size or not view.flags.writeable
    np.testing.assert_array_equal(view, array)
  with pytest.raises(KeyError):
    checkpoint["d"]


def test_files_may_be_links_into_a_cache(tmp_path):
  """As huggingface_hub lays a snapshot out."""
  blobs = _sharded(tmp_path / "blobs")
  (tmp_path / "snapshot").mkdir()
  for i, path in enumerate(sorted(blobs.iterdir())):
    blob = path.rename(blobs / f"{i:064x}")
    (tmp_path / "snapshot" / path.name).symlink_to(blob)
  checkpoint = tensors.Checkpoint.open(tmp_path / "snapshot")
  assert list(checkpoint.files) == ["one.safetensors", "two.safetensors"]
  np.testing.assert_array_equal(checkpoint["a"].view(), ARRAYS["a"])


def test_a_file_larger_than_memory_opens_and_gives_a_few_numbers(tmp_path):
  path = tmp_path / "model.safetensors"
  size = 1 << 40  # bytes, none of them on the disk
  _write(path, {"huge": _entry(0, size)}, 0)
  with path.open("r+b") as file:
    file.truncate(path.stat().st_size + size)
  tensor = tensors.Checkpoint.open(tmp_path)["huge"]
  assert tensor.shape == (size // 4,)
  assert (tensor.view()[-5:] == 0.0).all()


@pytest.mark.parametrize(
  ("keep", "message"),
  [
    (-1, r"must have \d+ bytes by its header, got \d+: it is truncated"),
    (4, "must begin with the length of its header, got 4 bytes"),
    (40, "must begin with the length of its header, got 40 bytes"),
    (0, "must begin with the length of its header, got 0 bytes"),
  ],
)
def test_a_truncated_file_is_named_before_a_tensor_is_read(
  tmp_path, keep, message
):
  folder = _sharded(tmp_path)
  data = (folder / "two.safetensors").read_bytes()
  (folder / "two.safetensors").write_bytes(data[:keep])
  with pytest.raises(ValueError, match=rf"two\.safetensors {message}"):
    tensors.Checkpoint.open(folder)


@pytest.mark.parametrize(
  ("header", "num_bytes", "message"),
  [
    ({"a": _entry(0, 8)}, 9, "must have .* bytes by its header, .* too long"),
    ({"a": _entry(0, 8), "b": _entry(12, 16)}, 16, "b must begin .* 8, got 12"),
    ({"a": _entry(0, 8), "b": _entry(4, 12)}, 12, "b must begin .* 8, got 4"),
    ({"a": _entry(0, 8, shape=[3])}, 8, "a must have 12 bytes"),
    ({"a": _entry(0, 8, shape=[-2])}, 8, "a must have sizes >= 0"),
    ({"a": _entry(0, 8, shape=8)}, 8, "a must have sizes >= 0"),
    ({"a": _entry(0, 8, dtype="F8_E4M3")}, 8, "a must be of a dtype in"),
    ({"a": _entry(0, 8, more=1)}, 8, "a must have"),
    ({"a": 3}, 8, "a must have"),
    ([1], 0, "header of .* must be a JSON object, got list"),
    (b"{nothing", 0, "header of .* must be JSON"),
    (b'{"a":{}, "a":{}}', 0, r"repeated keys \['a'\]"),
  ],
)
def test_a_header_that_contradicts_itself_is_refused(
  tmp_path, header, num_bytes, message
):
  path = tmp_path / "model.safetensors"
  _write(path, header, num_bytes)
  with pytest.raises(ValueError, match=message) as caught:
    tensors.Checkpoint.open(tmp_path)
  assert str(path) in str(caught.value)


def test_a_missing_shard_is_named(tmp_path):
  folder = _sharded(tmp_path)
  (folder / "two.safetensors").unlink()
  with pytest.raises(FileNotFoundError, match=r"name two\.safetensors"):
    tensors.Checkpoint.open(folder)


@pytest.mark.parametrize(
  "name",
  [
    "../two.safetensors",
    "/etc/two.safetensors",
    "sub/two.safetensors",
    "sub\\two.safetensors",
    "..",
    ".two.safetensors",
    "two.json",
    "",
    7,
  ],
)
def test_an_index_names_plain_files_of_its_own_folder(tmp_path, name):
  sub = tmp_path / "inner"
  folder = _sharded(sub, {"a": name})
  _sharded(tmp_path)  # the file is there, outside
  with pytest.raises(ValueError, match="must name plain .safetensors files"):
    tensors.Checkpoint.open(folder)


@pytest.mark.parametrize(
  ("places", "message"),
  [
    ({"d": "one.safetensors"}, r"without \['d'\] and with \[\]"),
    ({"b": "two.safetensors"}, r"without \[\] and with \['b'\]"),
  ],
)
def test_an_index_and_its_shards_agree(tmp_path, places, message):
  with pytest.raises(ValueError, match=rf"one\.safetensors must .*{message}"):
    tensors.Checkpoint.open(_sharded(tmp_path, places))


@pytest.mark.parametrize("suffix", ["bin", "pth", "pt", "ckpt"])
def test_pickles_are_refused_with_the_reason(tmp_path, suffix):
  path = tmp_path / f"pytorch_model.{suffix}"
  path.write_bytes(b"never read")
  message = f"{path.name}.*runs whatever code is in it"
  with pytest.raises(ValueError, match=message):
    tensors.Checkpoint.open(tmp_path)
  with pytest.raises(ValueError, match=message):
    tensors.Checkpoint.open(path)
  folder = _sharded(tmp_path / "indexed", {"a": path.name})
  with pytest.raises(ValueError, match=message):
    tensors.Checkpoint.open(folder)


def test_a_pickle_beside_safetensors_is_never_opened(tmp_path):
  _sharded(tmp_path)
  (tmp_path / "pytorch_model.bin").mkdir()  # opening it would fail
  assert set(tensors.Checkpoint.open(tmp_path)) == set(ARRAYS)


def test_a_folder_must_hold_one_checkpoint(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"must hold model\.safetensors"):
    tensors.Checkpoint.open(tmp_path)
  with pytest.raises(FileNotFoundError, match="must be a folder, got no"):
    tensors.Checkpoint.open(tmp_path / "absent")
  _sharded(tmp_path)
  safetensors.numpy.save_file(ARRAYS, tmp_path / "model.safetensors")
  with pytest.raises(ValueError, match="must hold one checkpoint"):
    tensors.Checkpoint.open(tmp_path)
  with pytest.raises(ValueError, match="got the file"):
    tensors.Checkpoint.open(tmp_path / "model.safetensors")


def test_a_remote_folder_is_refused_with_the_reason():
  with pytest.raises(ValueError, match="mapped into memory"):
    tensors.Checkpoint.open("gs://bucket/model")
