"""The demo: what it asks, shows and writes."""

import miniature
import numpy as np
import PIL.Image
import pytest
from etils import epath

from experiments import asked as asked_lib
from experiments import benchmark
from experiments import sample
from paradiff.scenes import benchmark as scenes_benchmark
from paradiff.scenes import render


@pytest.fixture(scope="module")
def pipeline():
  return miniature.make_pipeline()


def test_what_the_user_leaves_out_is_the_demonstration():
  prompt, picture = sample.request(None, None)
  assert prompt == sample.PROMPT
  np.testing.assert_array_equal(picture, render.render(sample.SCENE))
  assert sample.request("a.png", "do it") == ("do it", "a.png")
  assert sample.request("none", "draw it") == ("draw it", None)
  with pytest.raises(ValueError, match="needs an instruction"):
    sample.request("a.png", None)


@pytest.mark.parametrize("image", [None, "none"])
def test_the_demo_writes_what_it_shows(pipeline, tmp_path, capsys, image):
  prompt, picture = sample.request(image, "add a big red star")
  folder = epath.Path(tmp_path)
  (folder / "before_after.png").write_bytes(b"of an earlier run")
  last = sample.run(pipeline, prompt, picture, seed=1, folder=folder)
  text = (folder / "text.txt").read_text()
  assert text.startswith("add a big red star\n\n")
  assert all(word in text for word in last.words)
  output = np.asarray(PIL.Image.open(tmp_path / "output.png"))
  np.testing.assert_array_equal(output, last.picture)
  with PIL.Image.open(tmp_path / "denoising.gif") as gif:
    # A GIF writer may merge equal frames; the run must still be visible.
    assert 2 <= gif.n_frames <= last.num_steps + 1
  assert (folder / "before_after.png").exists() == (image is None)
  assert f"step {last.num_steps:3d}/{last.num_steps}" in capsys.readouterr().err


def test_a_model_without_the_demonstration_needs_words():
  with pytest.raises(ValueError, match="needs an instruction"):
    sample.request(None, None, has_demo=False)
  words = sample.request(None, "draw it", has_demo=False)
  assert words == ("draw it", None)
  assert sample.request("a.png", "do it", has_demo=False)[1] == "a.png"


def test_a_long_run_is_shown_in_few_frames(
  pipeline, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(sample, "_MAX_CANVASES", 5)
  asked = asked_lib.Asked(model="miniature", num_steps=11, num_image_steps=4)
  last = sample.run(
    pipeline,
    "draw a red star",
    None,
    seed=0,
    folder=epath.Path(tmp_path),
    asked=asked,
  )
  assert (last.step, last.num_steps) == (11, 11)
  assert not last.masked.any()
  with PIL.Image.open(tmp_path / "denoising.gif") as gif:
    assert gif.n_frames <= 6
  lines = capsys.readouterr().err.splitlines()
  steps = [line.split()[1] for line in lines if line.startswith("step")]
  assert steps == ["3/11", "6/11", "9/11", "11/11"]


def test_the_report_shows_every_baseline(pipeline, tmp_path, monkeypatch):
  tasks = scenes_benchmark.build()[::37]
  monkeypatch.setattr(scenes_benchmark, "build", lambda: tasks)
  pipeline.save(str(tmp_path / "model"))
  summary = benchmark.run(
    str(tmp_path / "model"), epath.Path(tmp_path / "out"), seed=0
  )
  assert f"{len(tasks)} held-out tasks" in summary
  assert "| copy input | untrained |" in summary
  assert (tmp_path / "out" / "summary.md").read_text().strip() == summary
  report = (tmp_path / "out" / "report.md").read_text()
  assert report.startswith(summary) and "text_exact" in report
  groups = set(scenes_benchmark.groups(tasks))
  assert all(f"| {group} |" in report for group in groups)
  assert (tmp_path / "out" / "samples.png").exists()
