"""What holds of the notebooks as files; `make test` executes them besides."""

import configparser
import json
import pathlib
import re

import pytest
from packaging import requirements
from packaging import version

ROOT = pathlib.Path(__file__).parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in PATHS]
COLAB = "https://colab.research.google.com/github/"


def _cells(path, kind=None):
  """Return (kind, source) of the cells of a notebook."""
  cells = json.loads(path.read_text())["cells"]
  pairs = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
  return [pair for pair in pairs if kind in (None, pair[0])]


def _config():
  config = configparser.ConfigParser()
  config.read(ROOT / "setup.cfg")
  return config


def test_both_notebooks_are_there():
  assert NAMES == ["quickstart", "sft_micro"]


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_a_notebook_is_committed_as_it_is_before_it_runs(path):
  notebook = json.loads(path.read_text())
  code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
  assert code
  assert all(cell["outputs"] == [] for cell in code)
  assert all(cell["execution_count"] is None for cell in code)
  assert notebook["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_what_a_cell_shows_is_explained_above_it_in_two_sentences(path):
  cells = _cells(path)
  shown = 0
  for (kind, text), (_, source) in zip(cells, cells[1:], strict=False):
    if not re.search(r"plt\.show|display|print\(", source) or kind == "code":
      continue
    shown += 1
    assert len(re.findall(r"[.:;](?=\s|$)", text)) >= 2, text
  assert shown >= 4


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_only_colab_installs_and_what_it_has_is_a_constraint(path):
  installs = [s for _, s in _cells(path, "code") if "pip install" in s]
  (cell,) = installs
  guard, *rest = cell.split('if "google.colab" in sys.modules:\n')
  assert "!" not in guard and len(rest) == 1
  lines = [line for line in rest[0].splitlines() if line.startswith("  ")]
  frozen = next(i for i, line in enumerate(lines) if "pip list" in line)
  (install,) = [i for i, line in enumerate(lines) if "pip install" in line]
  assert frozen < install
  place = lines[frozen].split("> ")[1]
  assert f"--constraint {place} " in lines[install]
  assert "--upgrade" not in cell and "-U" not in cell


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_a_smoke_run_is_asked_for_by_the_environment_alone(path):
  code = "\n".join(source for _, source in _cells(path, "code"))
  assert code.count('os.environ.get("PARADIFF_SMOKE", "0")') == 1
  assert code.count("IS_SMOKE") > 1
  makefile = (ROOT / "Makefile").read_text()
  assert re.search(r"PARADIFF_SMOKE=1 .* --nbmake .* notebooks\n", makefile)


def test_the_quickstart_needs_nothing_but_what_is_installed():
  code = "\n".join(source for _, source in _cells(PATHS[0], "code"))
  found = set(re.findall(r"^(?:from|import) (\w+)", code, re.MULTILINE))
  ours = {"paradiff", "experiments", "tests", "benchmarks", "launch"}
  assert found & ours == {"paradiff"}


def test_every_address_is_of_one_repository():
  home = _config()["metadata"]["url"]
  name = home.removeprefix("https://github.com/")
  assert re.fullmatch(r"[\w-]+/paradiff", name)
  texts = {path: path.read_text() for path in PATHS}
  texts["README"] = (ROOT / "README.md").read_text()
  for text in texts.values():
    found = re.findall(r"github(?:\.com)?/([\w-]+/paradiff)\b", text)
    assert found and set(found) == {name}
  for path in PATHS:
    badge = f"{COLAB}{name}/blob/main/notebooks/{path.name}"
    assert badge in texts[path] and badge in texts["README"]


def test_the_packages_of_colab_are_in_the_range_that_is_supported():
  lines = (ROOT / "requirements-colab.txt").read_text().splitlines()
  pins = dict(line.split("==") for line in lines if "==" in line)
  assert {"jax", "flax", "numpy", "optax"} <= set(pins)
  wanted = _config()["options"]["install_requires"].strip().splitlines()
  for line in wanted:
    one = requirements.Requirement(line)
    if one.name in pins:
      assert version.Version(pins[one.name]) in one.specifier, line
