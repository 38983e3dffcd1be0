"""Edits of photographs: their truths, their words, and what is written."""

import json
import sys

import numpy as np
import PIL.Image
import pytest

from experiments import photograph_edits
from experiments import photographs
from paradiff.data import crops
from paradiff.data import images

KINDS = tuple(edit.kind for edit in photograph_edits.EDITS)
NUM_TRAIN, NUM_HELD_OUT = 20, 10


def _photographs() -> dict[str, PIL.Image.Image]:
  """Return made-up ones; the first byte of a pixel tells which it is of."""
  made = {}
  for i, name in enumerate((*photographs.TRAIN, *photographs.HELD_OUT)):
    rng = np.random.default_rng(i)
    pixels = rng.integers(0, 256, (12, 13, 3), np.uint8)
    pixels[..., 0] = 20 * i
    pixels = pixels.repeat(16, axis=0).repeat(16, axis=1)
    made[name] = PIL.Image.fromarray(pixels)
  return made


def _build(folder, **options):
  options = {"num_train": NUM_TRAIN, "num_held_out": NUM_HELD_OUT} | options
  return photographs.build(
    folder, photographs=_photographs(), identity={}, **options
  )


def _rows(folder, split: str) -> list[dict[str, str]]:
  lines = (folder / f"{split}.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def _files(folder) -> dict[str, bytes]:
  found = (path for path in folder.rglob("*") if path.is_file())
  return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def _read(path) -> np.ndarray:
  return np.asarray(PIL.Image.open(path))


@pytest.fixture(name="built", scope="module")
def _built(tmp_path_factory):
  folder = tmp_path_factory.mktemp("photographs")
  return folder, _build(folder)


def _truth(kind: str, before: np.ndarray) -> np.ndarray:
  """Return what an edit must make of float64[H, W, 3], pixel by pixel."""
  height, width, _ = before.shape
  row, column = np.mgrid[:height, :width]
  grey = np.floor(before @ [0.299, 0.587, 0.114] + 0.5 + 1e-6)[..., None]
  is_left = (column < width // 2)[..., None]
  is_top = (row < height // 2)[..., None]
  truths = {
    "invert": 255 - before,
    "grey": grey + 0 * before,
    "swap": np.stack([before[..., i] for i in (2, 1, 0)], -1),
    "brighter": before + np.floor((255 - before) / 2),
    "darker": np.floor(before / 2),
    "mirror": before[row, width - 1 - column],
    "flip": before[height - 1 - row, column],
    "invert_left": np.where(is_left, 255 - before, before),
    "grey_left": np.where(is_left, grey, before),
    "cover_top": np.where(is_top, 255, before),
  }
  return truths[kind]


@pytest.mark.parametrize("shape", [(96, 160), (5, 7), (1, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_makes_the_truth(kind, shape):
  rng = np.random.default_rng(0)
  before = rng.integers(0, 256, (*shape, 3), np.uint8)
  kept = before.copy()
  (edit,) = (e for e in photograph_edits.EDITS if e.kind == kind)
  after = edit.change(before)
  assert (after.dtype, after.shape) == (np.uint8, before.shape)
  np.testing.assert_array_equal(after, _truth(kind, before.astype(np.float64)))
  np.testing.assert_array_equal(before, kept)


def test_what_is_written_is_the_truth_of_its_kind(built):
  folder, _ = built
  for row in _rows(folder, "train") + _rows(folder, "held_out"):
    before = _read(folder / row["input_image"])
    after = _read(folder / row["output_image"])
    truth = _truth(row["kind"], before.astype(np.float64))
    np.testing.assert_array_equal(after, truth, err_msg=row["id"])
    assert np.abs(after.astype(float) - before).mean() >= 10, row["id"]


def test_kinds_take_turns_and_rows_are_whole(built):
  folder, counts = built
  nums = {"train": NUM_TRAIN, "held_out": NUM_HELD_OUT}
  assert counts == {
    split: dict.fromkeys(KINDS, num // len(KINDS))
    for split, num in nums.items()
  }
  rows = _rows(folder, "train")
  assert [row["kind"] for row in rows] == list(KINDS) * 2
  assert len({row["id"] for row in rows}) == len(rows)
  for row in rows:
    assert set(row) == {
      *("id", "input_image", "instruction"),
      *("reasoning", "output_image", "kind"),
    }
  assert (folder / "pairs.png").is_file()


def test_windows_have_legal_sizes_of_several_aspects(built):
  folder, _ = built
  found = set()
  for row in _rows(folder, "train"):
    before = PIL.Image.open(folder / row["input_image"])
    assert before.size == PIL.Image.open(folder / row["output_image"]).size
    # What reads a data set chooses this size too, so it cuts nothing.
    assert crops.nearest(*before.size, crops.sizes(128)) == before.size
    found.add(before.size)
  assert found == set(photographs.SIZES)
  assert found == {(160, 96), (128, 96), (128, 128), (96, 128), (96, 160)}


def test_a_photograph_is_of_one_split(built):
  assert not set(photographs.TRAIN) & set(photographs.HELD_OUT)
  folder, _ = built
  order = (*photographs.TRAIN, *photographs.HELD_OUT)
  for split, names, below in (
    ("train", photographs.TRAIN, "pictures"),
    ("held_out", photographs.HELD_OUT, "held_out"),
  ):
    seen = set()
    rows = _rows(folder, split)
    for row in rows:
      before = _read(folder / row["input_image"])
      (which,) = np.unique(before[..., 0])  # its first byte is 20 * place
      seen.add(order[which // 20])
    assert seen <= set(names)
    files = {row[k] for row in rows for k in ("input_image", "output_image")}
    found = {f"{below}/{path.name}" for path in (folder / below).iterdir()}
    assert files == found


def test_the_zoom_keeps_the_window_inside():
  pixels = np.zeros((200, 300, 3), np.uint8)
  pixels[..., 0] = np.linspace(0, 255, 300).astype(np.uint8)
  pixels[..., 1] = np.linspace(0, 255, 200).astype(np.uint8)[:, None]
  photograph = PIL.Image.fromarray(pixels)
  rng = np.random.default_rng(0)
  spans = []
  for _ in range(200):
    window = photographs.cut_window(photograph, rng).astype(int)
    height, width, _ = window.shape
    across = (window[0, -1, 0] - window[0, 0, 0]) * 300 / 255 / width
    down = (window[-1, 0, 1] - window[0, 0, 1]) * 200 / 255 / height
    assert across == pytest.approx(down, abs=0.06)  # the aspect is kept
    spans.append(across)
  assert 0.95 < min(spans) < 1.1 and 1.6 < max(spans) < 2.1


def test_the_same_flags_give_the_same_bytes_and_another_seed_others(
  built, tmp_path
):
  folder, _ = built
  _build(tmp_path / "again")
  assert _files(tmp_path / "again") == _files(folder)
  _build(tmp_path / "other", seed=1)
  assert _files(tmp_path / "other").keys() != _files(folder).keys()


def test_a_build_goes_on_after_a_kill(built, tmp_path, monkeypatch):
  folder, _ = built
  save, saved = images.save_picture, []

  def save_some(picture, path):
    if len(saved) == 31:
      raise KeyboardInterrupt
    saved.append(path)
    save(picture, path)

  monkeypatch.setattr(images, "save_picture", save_some)
  with pytest.raises(KeyboardInterrupt):
    _build(tmp_path)
  assert len(saved) == 31 and not (tmp_path / "train.jsonl").exists()
  again = []
  monkeypatch.setattr(
    images, "save_picture", lambda *args: (again.append(args[1]), save(*args))
  )
  _build(tmp_path)
  assert not set(again) & set(saved)
  assert _files(tmp_path) == _files(folder)


def test_words_are_few_whatever_is_seen():
  looks = [
    f"{tone}, mostly {colour}"
    for tone in ("medium bright", "dark")
    for colour in photograph_edits.COLOURS
  ]
  for edit in photograph_edits.EDITS:
    assert len(set(edit.instructions)) >= 4
    for words in edit.instructions:
      assert len(words.split()) <= 12
    text = f"The picture is {looks[0]}. {edit.outcome} The result is {looks[0]}"
    assert len(text.split()) <= 25, text
  instructions = [w for e in photograph_edits.EDITS for w in e.instructions]
  assert len(set(instructions)) == len(instructions)


def test_words_by_hand():
  red = np.full((2, 2, 3), (200, 30, 20), np.uint8)
  (swap,) = (e for e in photograph_edits.EDITS if e.kind == "swap")
  assert photograph_edits.reasoning(swap, red, swap.change(red)) == (
    "The picture is dark, mostly red. Red and blue change places. "
    "The result is very dark, mostly blue."
  )


@pytest.mark.parametrize(
  ("rgb", "colour", "tone"),
  [
    ((0, 0, 0), "black", "very dark"),
    ((255, 255, 255), "white", "very bright"),
    ((128, 128, 128), "grey", "medium bright"),
    ((255, 0, 10), "red", "dark"),
    ((255, 0, 40), "red", "dark"),
    ((255, 140, 0), "orange", "bright"),
    ((120, 70, 30), "brown", "dark"),
    ((255, 240, 0), "yellow", "very bright"),
    ((20, 180, 30), "green", "medium bright"),
    ((0, 200, 200), "turquoise", "medium bright"),
    ((20, 40, 220), "blue", "very dark"),
    ((160, 40, 200), "purple", "dark"),
  ],
)
def test_colours_and_tones(rgb, colour, tone):
  picture = np.full((3, 4, 3), rgb, np.uint8)
  assert photograph_edits.dominant_colour(picture) == colour
  assert photograph_edits.tone(picture) == tone


def test_the_colour_of_most_pixels_is_said():
  picture = np.full((2, 5, 3), (20, 40, 220), np.uint8)
  picture[:, :2] = (20, 160, 30)
  assert photograph_edits.dominant_colour(picture) == "blue"


def test_another_build_in_the_folder_is_refused(built, tmp_path):
  folder, _ = built
  with pytest.raises(ValueError, match="must be empty or of the same build"):
    _build(folder, seed=1)
  (tmp_path / "notes.txt").write_text("mine")
  with pytest.raises(ValueError, match=r"must be empty, got \['notes.txt'\]"):
    _build(tmp_path)


@pytest.mark.parametrize(
  "wrong", [{"num_train": 0}, {"num_held_out": 0}, {"seed": -1}]
)
def test_wrong_numbers_are_refused_before_anything_is_written(wrong, tmp_path):
  with pytest.raises(ValueError, match="must be positive and seed must not"):
    _build(tmp_path / "new", **wrong)
  assert not (tmp_path / "new").exists()


def test_photographs_that_show_nothing_are_refused():
  blank = PIL.Image.new("RGB", (200, 200))
  with pytest.raises(ValueError, match="window that invert changes visibly"):
    photographs.draw_pair(
      dict.fromkeys(photographs.HELD_OUT, blank),
      split="held_out",
      index=0,
      seed=0,
    )


def test_a_missing_package_is_told(monkeypatch):
  monkeypatch.setitem(sys.modules, "skimage", None)
  with pytest.raises(ValueError, match="pip install scikit-image"):
    photographs.find_folder()


def test_missing_and_small_photographs_are_told(tmp_path):
  with pytest.raises(ValueError, match="must come with its photographs"):
    photographs.load_photographs(tmp_path)
  small = np.zeros((96, 159, 3), np.uint8)
  images.save_picture(small, tmp_path / next(iter(photographs.TRAIN)))
  with pytest.raises(ValueError, match=r"must hold a window of \(160, 96\)"):
    photographs.load_photographs(tmp_path)


def test_the_real_photographs_are_there_and_are_cut(tmp_path):
  pytest.importorskip("skimage", reason="needs the package scikit-image")
  found, digest = photographs.load_photographs(photographs.find_folder())
  assert len(digest) == 64
  assert set(found) == {*photographs.TRAIN, *photographs.HELD_OUT}
  assert {picture.mode for picture in found.values()} == {"RGB"}
  counts = photographs.build(
    tmp_path, photographs=found, identity={}, num_train=10, num_held_out=10
  )
  assert counts["train"] == counts["held_out"] == dict.fromkeys(KINDS, 1)
