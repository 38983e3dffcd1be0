"""The real font, where it is installed, and what is said where it is not."""

import json
import subprocess
import sys

import numpy as np
import pytest

from experiments import emoji_font

LIGHT_RUNNER = "\U0001f3c3\U0001f3fb\u200d\u2640\ufe0f"
DARK_RUNNER = "\U0001f3c3\U0001f3ff\u200d\u2640\ufe0f"


def test_a_missing_font_is_told_with_the_package_that_brings_it(tmp_path):
  with pytest.raises(FileNotFoundError, match="fonts-noto-color-emoji"):
    emoji_font.find_font(str(tmp_path / "none.ttf"))


def test_a_file_that_is_no_font_is_refused(tmp_path):
  path = tmp_path / "font.ttf"
  path.write_bytes(b"no font")
  with pytest.raises(ValueError, match="font must have bitmaps"):
    emoji_font.make_renderer(str(path))


def _rows(folder, split: str) -> list[dict[str, str]]:
  lines = (folder / f"{split}.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def _real_font() -> str:
  pytest.importorskip("emoji", reason="needs the package emoji")
  try:
    return emoji_font.find_font()
  except FileNotFoundError as error:
    pytest.skip(str(error))


def test_the_real_font_joins_sequences_and_tells_what_it_lacks():
  render = emoji_font.make_renderer(_real_font())
  picture = render(LIGHT_RUNNER)
  assert picture is not None
  assert (picture.shape, picture.dtype) == ((64, 64, 3), np.uint8)
  assert (picture[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
  assert (picture != render(DARK_RUNNER)).any()
  assert (
    render(LIGHT_RUNNER + "\u200d\U0001f680") is None
  )  # parts that do not join
  assert render("\U0010fffd") is None


def test_the_command_builds_thousands_of_edits(tmp_path):
  _real_font()
  command = [sys.executable, "-m", "experiments.emoji", f"--out={tmp_path}"]
  done = subprocess.run(command, check=True, capture_output=True, text=True)
  train, held_out = (
    _rows(tmp_path, "train"),
    _rows(tmp_path, "held_out"),
  )
  assert len(train) > 2000 and len(held_out) > 200
  assert f"train: {len(train)} rows" in done.stdout
  seen = {row[k] for row in train for k in ("input_image", "output_image")}
  for row in held_out:
    assert not {row["input_image"], row["output_image"]} & seen
