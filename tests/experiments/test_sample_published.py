"""The demo with published models, at random weights."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from etils import epath

from benchmarks import published_format
from experiments import asked as asked_lib
from experiments import sample
from paradiff import pipeline as pipeline_lib
from paradiff.convert import synthetic

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """A published checkpoint of variant A."""
  folder = tmp_path_factory.mktemp("published")
  sizes = published_format.sizes("parallel_a")
  synthetic.build(folder, "parallel_a", sizes=sizes)
  return str(folder)


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
  """A file with a landscape of 3:2."""
  rows, columns = np.indices((120, 180))
  sky = np.stack([90 + rows, 140 + rows // 2, 230 - rows // 3], -1)
  hill = rows > 80 - 20 * np.sin(columns / 30)
  sky[hill] = (60, 110, 40)
  path = tmp_path_factory.mktemp("pictures") / "photo.jpg"
  PIL.Image.fromarray(sky.astype(np.uint8)).save(path)
  return str(path)


def command(*flags: str) -> subprocess.CompletedProcess:
  environment = {
    name: value
    for name, value in os.environ.items()
    if name not in ("IMAGE", "PROMPT", "XLA_FLAGS")
  }
  return subprocess.run(
    [sys.executable, "-m", "experiments.sample", *flags],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )


def test_a_photograph_is_edited_from_the_command_line(
  model, photograph, tmp_path
):
  done = command(
    f"--model={model}",
    "--variant=parallel_a",
    f"--image={photograph}",
    "--prompt=make the sky red",
    f"--output={tmp_path}",
    "--picture_size=96",
    "--text_len=6",
    "--num_steps=4",
    "--num_image_steps=3",
  )
  assert done.returncode == 0, done.stderr
  assert "step   4/4" in done.stderr
  assert "prompt     make the sky red" in done.stdout
  shape = (64, 96, 3)  # of about 96 x 96 pixels the nearest to 3:2
  given = np.asarray(PIL.Image.open(tmp_path / "input.png"))
  assert given.shape == shape
  assert given[0, :, 2].min() > given[-1, :, 2].max()  # sky above the hill
  assert np.asarray(PIL.Image.open(tmp_path / "output.png")).shape == shape
  assert (tmp_path / "before_after.png").exists()
  text = (tmp_path / "text.txt").read_text()
  assert text.startswith("make the sky red\n\n")
  with PIL.Image.open(tmp_path / "denoising.gif") as gif:
    assert 2 <= gif.n_frames <= 5


def test_an_error_is_one_line_before_anything_is_loaded(model):
  done = command(
    f"--model={model}",
    "--variant=parallel_a",
    "--prompt=make the sky red",
    "--task=describe",
  )
  assert done.returncode == 1
  assert done.stdout == ""
  assert done.stderr.splitlines() == [
    "error: the task describe of parallel_a must have an input picture "
    "(--image), got none"
  ]


def test_the_reference_is_shown_to_its_end(model, photograph, tmp_path):
  pipeline = pipeline_lib.ParallelPipeline.from_pretrained(
    model, variant="parallel_a", picture_size=64
  )
  asked = asked_lib.Asked(
    reference=True, text_len=6, num_steps=4, num_image_steps=3
  )
  last = sample.run(
    pipeline,
    "make it red",
    photograph,
    seed=1,
    folder=epath.Path(tmp_path),
    asked=asked,
  )
  config = dataclasses.replace(
    pipeline.variant.reference_sampler, num_steps=4, num_image_steps=3
  )
  whole = pipeline.edit(
    "make it red", photograph, seed=1, text_len=6, config=config
  )
  np.testing.assert_array_equal(last.picture, whole.picture)
  written = np.asarray(PIL.Image.open(tmp_path / "output.png"))
  np.testing.assert_array_equal(written, whole.picture)
  # The published sampler leaves some picture tokens to be drawn at the end.
  assert not last.masked.any()


def test_an_answer_in_words_has_no_pictures(tmp_path):
  synthetic.build(tmp_path / "model", "llada")
  pipeline = pipeline_lib.ParallelPipeline.from_pretrained(
    str(tmp_path / "model"), variant="llada"
  )
  folder = epath.Path(tmp_path / "out")
  folder.mkdir()
  (folder / "output.png").write_bytes(b"of an earlier run")
  last = sample.run(
    pipeline,
    "What is red?",
    None,
    seed=0,
    folder=folder,
    asked=asked_lib.Asked(num_steps=6, text_len=6),
  )
  assert last.has_own_spaces
  assert {path.name for path in folder.iterdir()} == {
    "text.txt",
    "denoising.gif",
  }
  config = dataclasses.replace(
    pipeline.variant.task("answer").sampler, num_steps=6
  )
  whole = pipeline.answer("What is red?", text_len=6, config=config)
  assert (folder / "text.txt").read_text() == f"What is red?\n\n{whole}\n"
