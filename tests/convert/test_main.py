"""The command: there and back, what it reports, and how it refuses."""

import math
import os
import pathlib
import subprocess
import sys

import pytest
import safetensors

from paradiff.convert import synthetic

ROOT = pathlib.Path(__file__).parents[2]


def _run(*flags):
  return subprocess.run(
    [sys.executable, "-m", "paradiff.convert", *flags],
    cwd=ROOT,
    env=os.environ,
    capture_output=True,
    text=True,
  )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  folder = tmp_path_factory.mktemp("source") / "m"
  synthetic.build(folder, "parallel_m")
  return folder


def _num_params(folder):
  """Count the numbers of all files but those of the two buffers."""
  total = 0
  for path in folder.rglob("*.safetensors"):
    with safetensors.safe_open(path, "numpy") as file:
      shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}
    total += sum(
      math.prod(shape)
      for name, shape in shapes.items()
      if not name.startswith("quantize.")
    )
  return total


def test_there_and_back(tmp_path, source):
  there = _run(
    "--variant=parallel_m",
    f"--source={source}",
    f"--image_tokenizer={source / 'image_tokenizer'}",
    f"--out={tmp_path / 'ours'}",
    "--mesh=1,2,2",
  )
  assert there.returncode == 0, there.stderr
  for line in (
    f"parallel_m -> {tmp_path / 'ours'}",
    f"parameters  {_num_params(source):,}",
    "dtype       bfloat16, float32",
    "unmatched   none",
    "unfilled    none",
    "ignored     quantize.embedding, quantize.power_vals",
  ):
    assert line in there.stdout
  back = _run(
    "--to=safetensors",
    f"--source={tmp_path / 'ours'}",
    f"--out={tmp_path / 'theirs'}",
  )
  assert back.returncode == 0, back.stderr
  files = [path for path in source.rglob("*") if path.is_file()]
  assert len(files) > 6
  for path in files:
    twin = tmp_path / "theirs" / path.relative_to(source)
    assert twin.read_bytes() == path.read_bytes()


def test_a_refusal_is_one_line_and_leaves_nothing(tmp_path, source):
  result = _run(
    "--variant=llada", f"--source={source}", f"--out={tmp_path / 'out'}"
  )
  assert result.returncode == 1
  *_, line = result.stderr.splitlines()
  assert line == (
    f"error: {source / 'config.json'} must have model_type 'llada', got "
    "'mmada': it is of another model"
  )
  assert list(tmp_path.iterdir()) == []


def test_the_wrong_direction_is_named(tmp_path, source):
  back = _run(
    "--to=safetensors", f"--source={source}", f"--out={tmp_path / 'x'}"
  )
  assert back.returncode == 1
  assert "which is not converted" in back.stderr
  assert not (tmp_path / "x").exists()
