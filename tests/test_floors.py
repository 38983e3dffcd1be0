"""The map of the package: an import may only point down.

Floor 0 is arrays, 1 networks, 2 sequences and their diffusion, 3 ParaRL, 4
files and users, 5 the loops that people start.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TOP = ("experiments", "launch", "benchmarks")
FLOORS = {
  "paradiff.sharding": 0,
  "paradiff.masked": 0,
  "paradiff.vocab": 0,
  "paradiff.models": 1,
  "paradiff.layout": 2,
  "paradiff.places": 2,
  "paradiff.sequence": 2,
  "paradiff.diffusion": 2,
  "paradiff.scenes": 2,
  "paradiff.rl": 3,
  "paradiff.variants": 4,
  "paradiff.train_state": 4,
  "paradiff.optim": 4,
  "paradiff.ema": 4,
  "paradiff.step": 4,
  "paradiff.checkpoints": 4,
  "paradiff.pretrained": 4,
  "paradiff.metrics": 4,
  "paradiff.metric_files": 4,
  "paradiff.remote": 4,
  "paradiff.pipeline": 4,
  "paradiff.loading": 4,
  "paradiff.outputs": 4,
  "paradiff.published": 4,
  "paradiff.requests": 4,
  "paradiff.tasks": 4,
  "paradiff.shipped": 4,
  "paradiff.display": 4,
  "paradiff.drawing": 4,
  "paradiff.flow": 4,
  "paradiff.gif": 4,
  "paradiff.data": 4,
  "paradiff.convert": 4,
  "paradiff.evaluate": 4,
  "paradiff.cli": 4,
  "paradiff.app": 4,
  **dict.fromkeys(TOP, 5),
}
MAX_LINES = 350
MAX_FUNCTION_LINES = 80
MAX_LOOP_LINES = 150  # of floor 5, read top to bottom


def files() -> list[pathlib.Path]:
  """Return the source files that the laws bind."""
  return [
    path for top in ("paradiff", *TOP) for path in (ROOT / top).rglob("*.py")
  ]


def module_name(path: pathlib.PurePath) -> str:
  """Return `a.b` of the relative path a/b.py or a/b/__init__.py."""
  parts = path.with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(name: str) -> int:
  """Return the floor of a module or of a name in it; -1 if not ours."""
  parts = name.split(".")
  if parts[0] != "paradiff" and parts[0] not in TOP:
    return -1
  for end in range(len(parts), 0, -1):
    if ".".join(parts[:end]) in FLOORS:
      return FLOORS[".".join(parts[:end])]
  if parts == ["paradiff"]:
    return 0  # the package itself is documentation
  raise ValueError(f"every module must have a floor, got {name}")


def imported(tree: ast.AST) -> list[str]:
  """Return the dotted names that a file imports, at any depth of the code."""
  names = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      prefix = "." * node.level + (node.module or "")
      names += [f"{prefix}.{alias.name}" for alias in node.names]
  return names


def import_faults(name: str, source: str) -> list[str]:
  """Return the imports of module `name` that its floor does not allow."""
  faults = []
  own = floor_of(name)
  for other in imported(ast.parse(source)):
    floor = floor_of(other)
    if floor > own:
      faults.append(f"{name}: {other} is above, on floor {floor}")
    elif (own, floor) == (2, 1):
      faults.append(f"{name}: floors 1 and 2 must not meet, {other}")
    if other.startswith("ml_collections") and own < 5:
      faults.append(f"{name}: {other} belongs to floor 5")
    if other.startswith("flax.linen") and own != 1:
      faults.append(f"{name}: {other} belongs to paradiff.models")
    if other.startswith(("logging", "absl.logging")) and own < 5:
      faults.append(f"{name}: {other} belongs to floor 5")
    if other.startswith("absl.flags") and own < 4:
      faults.append(f"{name}: {other} belongs to floors 4 and 5")
  return faults


def call_faults(name: str, source: str) -> list[str]:
  """Return the calls of `print` in a module of the library."""
  return [
    f"{name}:{node.lineno}: library code must not print"
    for node in ast.walk(ast.parse(source))
    if isinstance(node, ast.Call)
    and isinstance(node.func, ast.Name)
    and node.func.id == "print"
    and name.startswith("paradiff")
  ]


def length_faults(name: str, source: str) -> list[str]:
  """Return the functions of a module that do not fit a screen."""
  allowed = MAX_FUNCTION_LINES if floor_of(name) < 5 else MAX_LOOP_LINES
  return [
    f"{name}.{node.name}: {lines} lines"
    for node in ast.walk(ast.parse(source))
    if isinstance(node, ast.FunctionDef)
    and (lines := (node.end_lineno or 0) - node.lineno + 1) > allowed
  ]


def google_faults(name: str, source: str, modules: set[str]) -> list[str]:
  """Return imports of names, not modules, from our own modules."""
  return [
    f"{name}: import the module of {other}"
    for other in imported(ast.parse(source))
    if floor_of(other) >= 0 and other not in modules
  ]


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
  return {module_name(p.relative_to(ROOT)): p.read_text() for p in files()}


def test_imports_point_down(sources):
  assert len(sources) > 20
  assert [f for s in sources.items() for f in import_faults(*s)] == []


def test_library_does_not_print(sources):
  assert [f for s in sources.items() for f in call_faults(*s)] == []


def test_imports_are_of_modules(sources):
  modules = set(sources) | {"paradiff"}
  faults = [f for s in sources.items() for f in google_faults(*s, modules)]
  assert faults == []


def test_functions_fit_a_screen(sources):
  assert [f for s in sources.items() for f in length_faults(*s)] == []


def test_files_fit_a_room():
  too_long = {
    str(path.relative_to(ROOT)): lines
    for path in files()
    if (lines := len(path.read_text().splitlines())) > MAX_LINES
  }
  assert too_long == {}


@pytest.mark.parametrize(
  ("name", "line"),
  [
    ("paradiff.masked", "from paradiff import layout"),
    ("paradiff.models.transformer", "from paradiff.diffusion import sampler"),
    ("paradiff.layout", "from paradiff.models import transformer"),
    ("paradiff.layout", "import paradiff.models.transformer as transformer"),
    ("paradiff.scenes.rules", "from paradiff.data import text"),
    ("paradiff.rl.rollout", "def f():\n  from paradiff import pipeline"),
    ("paradiff.pipeline", "import experiments.common"),
    ("paradiff.optim", "import ml_collections"),
    ("paradiff.optim", "from ml_collections import config_dict"),
    ("paradiff.diffusion.model", "from flax import linen as nn"),
    ("paradiff.step", "import flax.linen"),
    ("paradiff.step", "import logging"),
    ("paradiff.step", "from absl import logging"),
    ("paradiff.rl.reward", "from absl import flags"),
  ],
)
def test_checker_catches_a_planted_import(name, line):
  assert len(import_faults(name, line)) == 1


@pytest.mark.parametrize(
  ("name", "line"),
  [
    ("paradiff.models.transformer", "from flax import linen as nn"),
    ("paradiff.models.transformer", "from paradiff import masked"),
    ("paradiff.diffusion.sampler", "from paradiff import layout"),
    ("paradiff.pipeline", "from paradiff.models import magvit2\nimport jax"),
    ("experiments.sft", "import ml_collections\nfrom paradiff import step"),
  ],
)
def test_checker_allows_what_points_down(name, line):
  assert import_faults(name, line) == []


def test_checker_catches_a_planted_print():
  assert call_faults("paradiff.step", "def f():\n  print('x')")
  assert not call_faults("experiments.sft", "print('x')")


def test_checker_catches_a_long_function():
  source = "def f():\n" + "  x = 1\n" * 100
  assert length_faults("paradiff.step", source)
  assert not length_faults("experiments.sft", source)


def test_checker_catches_an_imported_name():
  line = "from paradiff.masked import mean"
  assert google_faults("paradiff.step", line, {"paradiff.masked"})
  assert not google_faults(
    "paradiff.step", "from paradiff import masked", {"paradiff.masked"}
  )


def test_checker_wants_a_floor_for_every_module():
  with pytest.raises(ValueError, match=r"paradiff\.novel"):
    import_faults("paradiff.novel.part", "import jax")
