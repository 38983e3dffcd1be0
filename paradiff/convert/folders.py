"""Folders that appear complete or not at all, and where sources come from."""

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator

from etils import epath

from paradiff.convert import tensors

# What a source is made of. Python files of a repository are code: they are
# neither fetched nor carried along, and nothing here ever runs them.
SMALL_SUFFIXES = (".json", ".txt", ".model")
PATTERNS = ("*.safetensors", *(f"*{suffix}" for suffix in SMALL_SUFFIXES))
HUB = "hf://"
_WORDS = ("vocab.json", "merges.txt")  # besides names with "token" in them


def check_new(folder: epath.PathLike) -> epath.Path:
  """Return the path of a folder that does not exist or is empty.

  Raises:
    FileExistsError: if there is something.
  """
  path = epath.Path(folder)
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise FileExistsError(
      f"{os.fspath(path)} must not exist or be an empty folder, got something "
      "in its place"
    )
  return path


@contextlib.contextmanager
def complete_or_absent(folder: epath.PathLike) -> Iterator[epath.Path]:
  """Give a temporary sibling to write to; rename it if all went well.

  Raises:
    FileExistsError: if there is something at `folder`.
  """
  path = check_new(folder)
  partial = path.parent / f".{path.name}.partial-{uuid.uuid4().hex[:8]}"
  partial.mkdir(parents=True)
  try:
    yield partial
    check_new(path)
    if path.exists():
      path.rmdir()
    partial.rename(path)
  except BaseException:  # also an interrupt leaves nothing behind
    partial.rmtree(missing_ok=True)
    raise


def resolve(source: str | os.PathLike[str]) -> pathlib.Path:
  """Return the local folder of a source.

  Args:
    source: a local folder, or `hf://owner/name`, optionally `@revision`; of
      the latter only weights in safetensors and json, txt and model files are
      requested.

  Raises:
    FileNotFoundError: if it is not there or cannot be fetched.
    ValueError: if the name is malformed or the source is remote otherwise.
  """
  text = os.fspath(source)
  if not text.startswith(HUB):
    return tensors.local_folder(text)
  import huggingface_hub

  name, _, revision = text.removeprefix(HUB).partition("@")
  if name.count("/") != 1 or not all(name.split("/")):
    raise ValueError(f"a source must read {HUB}owner/name, got {text}")
  try:
    fetched = huggingface_hub.snapshot_download(
      name, revision=revision or None, allow_patterns=list(PATTERNS)
    )
  except Exception as error:  # the hub's, the network's and the file system's
    first = [*str(error).strip().splitlines(), ""][0]
    raise FileNotFoundError(
      f"{text} must be fetched or in the cache, got {type(error).__name__}: "
      f"{first} Without a network, name a local folder with its files."
    ) from error
  return tensors.local_folder(fetched)


def small_files(root: pathlib.Path) -> tuple[list[str], list[str]]:
  """Return the files beneath a source besides its weights, as two lists.

  Args:
    root: the source.

  Returns:
    (carried, left_out): paths relative to `root`, joined by "/", of the files
    that travel with the weights, and of those that do not.
  """
  carried, left_out = [], []
  for path in sorted(root.rglob("*")):
    inside = path.relative_to(root)
    if not path.is_file() or any(part.startswith(".") for part in inside.parts):
      continue
    if path.suffix in SMALL_SUFFIXES:
      carried.append(inside.as_posix())
    elif path.suffix != ".safetensors":
      left_out.append(inside.as_posix())
  return carried, left_out


def copy_tokenizer(source: epath.Path, target: epath.Path) -> None:
  """Copy the files of a text tokenizer from one folder to another."""
  for path in source.iterdir():
    is_words = "token" in path.name or path.name in _WORDS
    if is_words and path.suffix in SMALL_SUFFIXES:
      (target / path.name).write_bytes(path.read_bytes())
