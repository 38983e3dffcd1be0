"""Where the models lie that come with the package."""

import importlib.resources

from etils import epath

SHIPPED = ("micro", "micro_rl", "tiny")


def find(name_or_folder: str) -> epath.Path:
  """Return the folder of a model.

  Raises:
    FileNotFoundError: if there is no such model.
    ValueError: if it is a published checkpoint, whose family must be named.
  """
  if name_or_folder in SHIPPED:
    root = importlib.resources.files("paradiff")
    folder = epath.Path(str(root)) / "assets" / name_or_folder
  else:
    folder = epath.Path(name_or_folder)
  if (folder / "config.json").exists():
    raise ValueError(
      f"a published checkpoint must be loaded with variant=, its family, got "
      f"{name_or_folder!r} alone"
    )
  if not (folder / "transformer.json").exists():
    raise FileNotFoundError(
      f"a model must be one of {SHIPPED} or a folder with transformer.json, "
      f"got {name_or_folder!r}"
    )
  return folder
