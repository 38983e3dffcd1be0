"""`make demo` passes words on as they are, and sets up only what is needed."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Stands in for the interpreter of .venv: notes how it was called.
RECORDER = f"""#!{sys.executable}
import json, os, sys
call = [sys.argv[1:], os.environ.get("IMAGE"), os.environ.get("PROMPT")]
with open("calls.jsonl", "a") as file:
  file.write(json.dumps(call) + "\\n")
if sys.argv[1:3] == ["-m", "venv"]:
  folder = sys.argv[3] + "/bin"
  os.makedirs(folder, exist_ok=True)
  if not os.path.exists(folder + "/python"):
    os.link(sys.argv[0], folder + "/python")
"""
NASTY = (
  "make it \"red\" and 'blue'",
  "$HOME $(HOME) ${HOME} $$ $(shell touch pwned)",
  "`touch pwned`; touch pwned & touch pwned | tee pwned > pwned",
  "$(touch pwned) \\ \\n # not a comment % * ? ~ !",
  "$(error stop) $(eval demo: ; touch pwned) -n --help =",
  "two\nlines\n\ttouch pwned",
  "  spaces  around  ",
  "größer → 赤",
)

RUN = [
  "-m pytest -m not nightly -n 2 --dist loadfile",
  "-m pytest --nbmake -n 2 notebooks",
]

pytestmark = pytest.mark.skipif(
  shutil.which("make") is None, reason="make is not installed"
)


@pytest.fixture
def clone(tmp_path):
  """A clone whose Python only notes its calls."""
  for name in ("Makefile", "setup.cfg", "pyproject.toml"):
    shutil.copy(ROOT / name, tmp_path / name)
  recorder = tmp_path / "recorder"
  recorder.write_text(RECORDER)
  recorder.chmod(0o755)
  return tmp_path


def make(clone: pathlib.Path, *arguments: str, **variables: str) -> None:
  environment = {**os.environ, "PYTHON": "./recorder", **variables}
  for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VENV", "CONSTRAINTS"):
    environment.pop(name, None)  # of the make that runs the tests
  subprocess.run(
    ["make", *arguments],
    cwd=clone,
    env=environment,
    check=True,
    capture_output=True,
    timeout=60,
  )


def calls(clone: pathlib.Path) -> list[list]:
  """Return the calls so far as [arguments, IMAGE, PROMPT], and forget them."""
  path = clone / "calls.jsonl"
  lines = path.read_text().splitlines() if path.exists() else []
  path.unlink(missing_ok=True)
  return [json.loads(line) for line in lines]


def test_demo_without_words_leaves_them_unset(clone):
  make(clone, "demo")
  assert calls(clone)[-1] == [["-m", "experiments.sample"], None, None]


@pytest.mark.parametrize("words", NASTY)
def test_demo_gets_the_words_of_the_environment_as_they_are(clone, words):
  make(clone, "demo", IMAGE=f"{words}.png", PROMPT=words)
  *_, last = calls(clone)
  assert last == [["-m", "experiments.sample"], f"{words}.png", words]
  assert not (clone / "pwned").exists()


@pytest.mark.parametrize("words", NASTY)
def test_demo_gets_the_words_of_the_command_line_as_they_are(clone, words):
  make(clone, "demo", f"PROMPT={words}")
  *_, last = calls(clone)
  # make itself takes the spaces before a value given this way
  assert last == [["-m", "experiments.sample"], None, words.lstrip()]
  assert not (clone / "pwned").exists()


def test_set_up_happens_once_and_again_when_requirements_change(clone):
  make(clone, "demo")
  modules = [arguments[1] for arguments, *_ in calls(clone) if len(arguments)]
  assert "venv" in modules
  assert "pip" in modules
  make(clone, "demo")
  assert [arguments for arguments, *_ in calls(clone)] == [
    ["-m", "experiments.sample"]
  ]
  later = time.time() + 5
  os.utime(clone / "setup.cfg", (later, later))
  make(clone, "demo")
  assert any("pip" in arguments for arguments, *_ in calls(clone))


def test_test_runs_every_check(clone):
  make(clone, "test")
  commands = [" ".join(arguments) for arguments, *_ in calls(clone)]
  expected = ["ruff format --check", "ruff check", "mypy", "pytest"]
  positions = [
    next(i for i, c in enumerate(commands) if c.startswith(f"-m {what}"))
    for what in expected
  ]
  assert positions == sorted(positions)
  assert commands[-2:] == RUN


def test_the_tests_run_on_both_ends_of_the_versions(clone):
  make(clone, "test-versions", PYTHON313="./recorder", PYTHON="false")
  commands = [" ".join(arguments) for arguments, *_ in calls(clone)]
  made = [c for c in commands if c.startswith("-m venv")]
  assert made == ["-m venv .venv-colab", "-m venv .venv-newest"]
  colab, newest = (commands.index(c) for c in made)
  installs = [i for i, c in enumerate(commands) if c.startswith("-m pip")]
  for i in installs:
    is_pinned = "--constraint requirements-colab.txt" in commands[i]
    assert is_pinned == (colab < i < newest)
  assert [c for c in commands if c.startswith("-m pytest")] == 2 * RUN


def test_an_old_python_is_refused_before_anything_is_made(clone):
  old = clone / "old"
  old.write_text("#!/bin/sh\nexit 1\n")
  old.chmod(0o755)
  with pytest.raises(subprocess.CalledProcessError):
    make(clone, "demo", PYTHON="./old")
  assert not (clone / ".venv").exists()
