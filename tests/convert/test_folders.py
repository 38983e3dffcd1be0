"""Laws of sources: what is fetched, what is carried, what is left out."""

import pathlib

import huggingface_hub
import pytest

from paradiff.convert import folders

ROOT = pathlib.Path(__file__).parents[2]


def test_only_weights_and_words_are_requested(monkeypatch, tmp_path):
  calls = []

  def snapshot_download(*args, **options):
    calls.append((args, options))
    return str(tmp_path)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
  assert folders.resolve("hf://owner/name") == tmp_path
  assert folders.resolve("hf://owner/name@abc") == tmp_path
  patterns = ["*.safetensors", "*.json", "*.txt", "*.model"]
  assert calls == [
    (("owner/name",), {"revision": None, "allow_patterns": patterns}),
    (("owner/name",), {"revision": "abc", "allow_patterns": patterns}),
  ]


def test_without_a_network_the_error_says_what_to_do():
  with pytest.raises(
    FileNotFoundError, match=r"hf://owner/name must be fetched.*local folder"
  ):
    folders.resolve("hf://owner/name")


@pytest.mark.parametrize("name", ["name", "a/b/c", "/b", "a/", ""])
def test_a_malformed_name_is_refused(name):
  with pytest.raises(ValueError, match="must read hf://owner/name"):
    folders.resolve(f"hf://{name}")


def test_small_files_are_carried_and_code_and_pickles_are_not(tmp_path):
  for name in (
    "config.json",
    "vqvae/config.json",
    "merges.txt",
    "spiece.model",
    "model.safetensors",
    "modeling.py",
    "pytorch_model.bin",
    ".git/config.json",
    ".hidden.json",
  ):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
  carried, left_out = folders.small_files(tmp_path)
  assert carried == [
    "config.json",
    "merges.txt",
    "spiece.model",
    "vqvae/config.json",
  ]
  assert left_out == ["modeling.py", "pytorch_model.bin"]


def test_a_folder_is_complete_or_absent(tmp_path):
  with folders.complete_or_absent(tmp_path / "new" / "out") as partial:
    assert partial.parent == tmp_path / "new" and partial.name != "out"
    (partial / "a.txt").write_text("x")
    assert not (tmp_path / "new" / "out").exists()
  assert (tmp_path / "new" / "out" / "a.txt").read_text() == "x"
  assert len(list((tmp_path / "new").iterdir())) == 1


def test_someone_elses_folder_is_not_replaced(tmp_path):
  with pytest.raises(FileExistsError, match="must not exist"):
    with folders.complete_or_absent(tmp_path / "out"):
      (tmp_path / "out").mkdir()
      (tmp_path / "out" / "theirs.txt").write_text("x")
  assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs.txt"]


def test_no_code_of_a_repository_is_ever_trusted():
  word = "trust_remote" + "_code"
  files = list((ROOT / "paradiff").rglob("*.py"))
  assert len(files) > 20
  assert [str(path) for path in files if word in path.read_text()] == []
