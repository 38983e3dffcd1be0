"""What the tests of the recipes share: a stand-in program, and one's words."""

import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
# A host, as of an index of packages or images: a site has its own.
_HOST = re.compile(r"\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:io|dev|com|org|net)\b")


def hosts(path: pathlib.Path) -> list[str]:
  """Return the names of hosts in a recipe."""
  return _HOST.findall(path.read_text())


def stand_in(path: pathlib.Path, body: str) -> None:
  """Write a program in Python; `words` are the arguments it is given."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(
    f"#!{sys.executable}\nimport json, os, pathlib, sys\n"
    f"words = sys.argv[1:]\n{body}\n"
  )
  path.chmod(0o755)


def with_first(folder: pathlib.Path, **variables: str) -> dict[str, str]:
  """Return an environment in which the programs of a folder come first."""
  path = f"{folder}{os.pathsep}{os.environ['PATH']}"
  return {**os.environ, "PATH": path, **variables}
