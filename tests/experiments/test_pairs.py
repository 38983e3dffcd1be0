"""Laws of the score on own held-out pairs."""
# mypy: disallow-untyped-defs=False

import json

import miniature
import numpy as np
import pytest

from experiments import pairs
from paradiff.data import images
from paradiff.evaluate import pixels


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  path = str(tmp_path_factory.mktemp("model"))
  miniature.make_pipeline().save(path)
  return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  root = tmp_path_factory.mktemp("own")
  lines = []
  for i in range(6):
    rng = np.random.default_rng(i)
    picture = rng.integers(0, 256, (64, 64, 3), np.uint8)
    images.save_picture(picture, root / f"{i}a.png")
    picture[:16] = 255 - picture[:16]
    images.save_picture(picture, root / f"{i}b.png")
    lines.append(
      dict(
        before=f"{i}a.png" if i else "",
        prompt="add a red star.",
        reasoning="a red star.",
        output_image=f"{i}b.png",
      )
    )
  lines.append(dict(prompt="add a red star.", output_image="none.png"))
  path = root / "held_out.jsonl"
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  return str(path)


def test_a_model_stands_beside_all_that_it_must_beat(model, source, tmp_path):
  text = pairs.run(model, source, tmp_path / "out", fields={"source": "before"})
  assert "6 held-out pairs (1 records could not be used)" in text
  rows = json.loads((tmp_path / "out" / "scores.json").read_text())
  assert len(rows) == 6
  # The first has no input to copy, the others' copies keep all that stays.
  assert np.isnan(rows[0][pairs.COPY]).all()
  for row in rows[1:]:
    error, changed, kept = row[pairs.COPY]
    assert (changed > 0, kept) == (True, 0.0)
    assert error == pytest.approx(changed / 4, rel=0.05)
    assert row[pairs.CODED_TRUTH] != row[pairs.MODEL]
  table = (tmp_path / "out" / "summary.md").read_text()
  for name in (pairs.UNTRAINED, pairs.CODED_COPY, "model - the input"):
    assert f"| {name} |" in table
  sheet = images.open_picture(str(tmp_path / "out" / "samples.png"))
  assert sheet.width > sheet.height > 64


def test_the_floor_is_the_truth_through_the_tokenizer(model, source):
  pipeline = miniature.make_pipeline()
  options = pairs.options_of(pipeline.variant, {"source": "before"})
  found, _ = pairs.read_pairs(source, options, limit=3)
  assert len(found) == 3
  targets = [pair.target for pair in found]
  coded = pairs.through_tokenizer(pipeline, targets)
  for target, made in zip(targets, coded, strict=True):
    one = pipeline.decode_codes(pipeline.encode_pictures(target[None]))[0]
    # Another batch size may round a level the other way.
    np.testing.assert_allclose(made.astype(int), one.astype(int), atol=1)
  scores = pairs.score(found, {"coded": coded, "none": [None] * 3})
  expected = [
    pixels.errors(c, p.target, p.source)
    for c, p in zip(coded, found, strict=True)
  ]
  np.testing.assert_array_equal(scores["coded"], expected)
  assert np.isnan(scores["none"]).all()


def test_without_a_usable_pair_nothing_is_scored(model, tmp_path):
  path = tmp_path / "held_out.jsonl"
  path.write_text("{}\n")
  with pytest.raises(ValueError, match="must have a usable pair"):
    pairs.run(model, str(path), tmp_path / "out")
