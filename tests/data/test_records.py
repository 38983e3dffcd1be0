"""Laws of own records: names, pictures below the root, one window a pair."""

import io

import numpy as np
import PIL.Image
import pytest

from paradiff.data import records


def _png(size=(8, 8), colour=(255, 0, 0)):
  data = io.BytesIO()
  PIL.Image.new("RGB", size, colour).save(data, "PNG")
  return data.getvalue()


@pytest.fixture
def root(tmp_path):
  folder = tmp_path / "data"
  (folder / "p").mkdir(parents=True)
  (folder / "p" / "a.png").write_bytes(_png())
  (folder / "p" / "b.png").write_bytes(_png(colour=(0, 0, 255)))
  (folder / "broken.png").write_bytes(_png()[:40])
  (tmp_path / "secret.png").write_bytes(_png())
  (folder / "link.png").symlink_to(tmp_path / "secret.png")
  return folder


@pytest.mark.parametrize(
  "names",
  [
    ("input_image", "instruction", "reasoning", "output_image"),
    ("image", "prompt", "explanation", "edited_image"),
    ("input_image_bytes", "text", "answer_text", "output_image_bytes"),
  ],
)
def test_parts_are_found_under_their_usual_names(root, names):
  values = ("p/a.png", " Make it blue. ", "It is red.", "p/b.png")
  record = records.read(dict(zip(names, values, strict=True)), root=root)
  assert record.instruction == "Make it blue."
  assert record.reasoning == "It is red."
  assert np.asarray(record.source)[0, 0].tolist() == [255, 0, 0]
  assert np.asarray(record.target)[0, 0].tolist() == [0, 0, 255]


def test_pictures_may_be_bytes_or_what_datasets_writes(root):
  raw = {
    "image": {"bytes": None, "path": "p/a.png"},
    "output_image": {"bytes": _png(colour=(1, 2, 3)), "path": None},
    "caption": b"words",
  }
  record = records.read(raw, root=root)
  assert np.asarray(record.target)[0, 0].tolist() == [1, 2, 3]
  assert np.asarray(record.source)[0, 0].tolist() == [255, 0, 0]
  assert record.reasoning == record.instruction == "words"


@pytest.mark.parametrize(
  "empty", [None, "", b"", {"bytes": None, "path": None}]
)
def test_without_an_input_picture_it_is_drawn_from_words(root, empty):
  raw = {"input_image": empty, "prompt": "x", "output_image": "p/b.png"}
  assert records.read(raw, root=root).source is None


def test_other_names_are_told(root):
  raw = {"before": "p/a.png", "after": "p/b.png", "ask": "x", "text": "y"}
  fields = {"source": "before", "target": "after", "instruction": "ask"}
  record = records.read(raw, root=root, fields=fields)
  assert record.instruction == "x"
  assert record.source is not None
  with pytest.raises(ValueError, match=r"fields must be among.*got \['goal'\]"):
    records.check_fields({"goal": "x"})


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"prompt": " "}, "must have an instruction"),
    ({"prompt": 3}, "instruction must be a string, got int"),
    ({"prompt": b"\xff"}, "instruction must be Unicode"),
    ({"output_image": ""}, "must have an output picture"),
    ({"output_image": "p/none.png"}, "must be there"),
    ({"output_image": "broken.png"}, "must be readable"),
    ({"output_image": "p"}, "must be readable"),
    ({"output_image": 7}, "path or encoded bytes, got int"),
    ({"output_image": "../secret.png"}, "below the data's folder"),
    ({"output_image": "link.png"}, "below the data's folder"),
    ({"output_image": "/etc/passwd"}, "below the data's folder"),
    ({"output_image": "a\0b"}, "below the data's folder"),
    ({"output_image": _png((8, 12))}, "same aspect, got 8x8 and 8x12"),
  ],
)
def test_what_cannot_be_used_says_why(root, changes, message):
  raw = {"image": "p/a.png", "prompt": "x", "output_image": "p/b.png"}
  with pytest.raises(records.BadRecord, match=message) as caught:
    records.read({**raw, **changes}, root=root)
  assert str(caught.value).startswith(caught.value.kind)


def test_paths_stay_below_a_remote_root():
  for name in ("../x", "/x", "gs://other/x", "a/../../x"):
    with pytest.raises(records.BadRecord, match="below"):
      records.below("gs://bucket/data", name)
  assert str(records.below("gs://bucket/data", "a/b")) == "gs://bucket/data/a/b"


@pytest.mark.parametrize("offset", [None, (0.0, 0.0), (0.3, 0.9)])
def test_a_pair_is_cut_with_one_window(offset):
  # The output is the input at half size: a window of one is that of the other.
  noise = np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8)
  source = PIL.Image.fromarray(noise.repeat(2, axis=0).repeat(2, axis=1))
  target = PIL.Image.fromarray(noise)
  record = records.Record("", "x", "x", source, target)
  cut, kept = records.crop(record, ((48, 48),), offset=offset)
  assert cut.size == kept.size == (48, 48)
  np.testing.assert_array_equal(np.asarray(cut), np.asarray(kept))
  left = {None: 24, (0.0, 0.0): 0, (0.3, 0.9): 14}[offset]
  np.testing.assert_array_equal(np.asarray(kept), noise[:, left : left + 48])


def test_the_size_is_that_nearest_to_the_output():
  picture = PIL.Image.new("RGB", (200, 100))
  record = records.Record("", "x", "x", None, picture)
  cut, kept = records.crop(record, ((64, 64), (96, 48)))
  assert cut is None
  assert kept.size == (96, 48)
