"""Edits of emoji: what sequences say, what words say, what is written.

Pictures are made up; only the test of the names needs the package `emoji`.
"""

import hashlib
import json
import sys

import numpy as np
import PIL.Image
import pytest

from experiments import emoji
from experiments import emoji_choices
from experiments import emoji_pairs
from experiments import emoji_texts
from experiments import emoji_world

MAN, WOMAN, PERSON = "\U0001f468", "\U0001f469", "\U0001f9d1"
RUNNER, COOKING, ROCKET = "\U0001f3c3", "\U0001f373", "\U0001f680"
LIGHT, DARK = "\U0001f3fb", "\U0001f3ff"
ZWJ, MALE, FEMALE, RIGHT = (
  "\u200d",
  "\u2642\ufe0f",
  "\u2640\ufe0f",
  "\u27a1\ufe0f",
)
RED_HEART, BLUE_HEART = "\u2764\ufe0f", "\U0001f499"


def _names() -> dict[str, str]:
  """Return a small world: runners, two jobs, two hearts, a couple."""
  names = {RED_HEART: ":red_heart:", BLUE_HEART: ":blue_heart:"}
  for skin, suffix in (("", ""), (LIGHT, "_light_skin_tone")):
    for sign, who in (("", "person"), (MALE, "man"), (FEMALE, "woman")):
      runner = RUNNER + skin + (ZWJ + sign if sign else "")
      names[runner] = f":{who}_running{suffix}:"
      names[runner + ZWJ + RIGHT] = f":{who}_running_facing_right{suffix}:"
    for who, prefix in ((PERSON, ""), (MAN, "man_"), (WOMAN, "woman_")):
      names[who + skin + ZWJ + COOKING] = f":{prefix}cook{suffix}:"
      names[who + skin + ZWJ + ROCKET] = f":{prefix}astronaut{suffix}:"
  heart = ZWJ + "\u2764\ufe0f" + ZWJ
  names[f"{WOMAN}{heart}{MAN}"] = ":couple_with_heart_woman_man:"
  names[f"{WOMAN}{LIGHT}{heart}{MAN}{DARK}"] = ":couple_with_heart_mixed:"
  return names


def _catalogue() -> dict[str, emoji_world.Emoji]:
  found = emoji_world.catalogue(
    _names(), shared_bases=emoji_choices.SHARED_BASES
  )
  return {e.text: e for e in found}


def _render(text: str) -> np.ndarray:
  """Return a picture whose colours follow from the sequence."""
  digest = hashlib.sha256(text.encode()).digest()
  tile = np.frombuffer(digest[:12], np.uint8).reshape(2, 2, 3)
  return tile.repeat(32, axis=0).repeat(32, axis=1)


def _build(folder, *, renderer=_render, **options):
  return emoji.build(
    folder, names=_names(), renderer=renderer, identity={}, **options
  )


def _rows(folder, split: str) -> list[dict[str, str]]:
  lines = (folder / f"{split}.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def _edits(kind: str) -> list[emoji_pairs.Edit]:
  edits = emoji_pairs.edits(tuple(_catalogue().values()))
  return [edit for edit in edits if edit.kind == kind]


def test_a_sequence_is_taken_apart():
  found = _catalogue()[RUNNER + LIGHT + ZWJ + FEMALE + ZWJ + RIGHT]
  assert found == emoji_world.Emoji(
    text=RUNNER + LIGHT + ZWJ + FEMALE + ZWJ + RIGHT,
    code="1f3c3-1f3fb-200d-2640-200d-27a1",
    name="woman running",
    thing="1f3c3",
    base="1f3c3",
    tone="light",
    gender="woman",
    facing="right",
  )


def test_what_others_of_a_thing_say_is_the_opposite_where_nothing_is_said():
  found = _catalogue()
  runner, heart = found[RUNNER], found[RED_HEART]
  assert (runner.tone, runner.gender, runner.facing) == (
    "yellow",
    "person",
    "left",
  )
  assert (heart.tone, heart.gender, heart.facing) == (None, None, None)
  assert heart.base == found[BLUE_HEART].base == "heart"
  assert heart.thing != found[BLUE_HEART].thing


def test_the_first_part_of_a_job_is_who_does_it():
  found = _catalogue()
  cooks = [found[who + ZWJ + COOKING] for who in (MAN, WOMAN, PERSON)]
  assert [cook.gender for cook in cooks] == ["man", "woman", "person"]
  assert len({cook.thing for cook in cooks}) == 1


def test_two_people_of_different_skins_are_in_no_edit():
  mixed = [e for e in _catalogue().values() if e.is_mixed]
  assert len(mixed) == 1
  edits = emoji_pairs.edits(tuple(_catalogue().values()))
  assert not {e.after for e in edits} & set(mixed)


@pytest.mark.parametrize(
  ("kind", "num"),
  [
    ("skin", 2 * 12),  # 6 runners and 6 workers, each way
    ("gender", 6 * 4 + 6 * 4),  # 4 sets of runners and 4 of workers
    ("direction", 2 * 6),
    ("profession", 2 * 6),
    ("colour", 2),
  ],
)
def test_edits_are_counted_by_hand(kind, num):
  assert len(_edits(kind)) == num


def test_an_edit_changes_one_trait_or_the_thing():
  traits = ("thing", "tone", "gender", "facing")
  for edit in emoji_pairs.edits(tuple(_catalogue().values())):
    assert edit.before is not None
    changed = [
      trait
      for trait in traits
      if getattr(edit.before, trait) != getattr(edit.after, trait)
    ]
    assert len(changed) == 1, edit


def test_words_of_a_change_of_skin():
  found = _catalogue()
  edit = emoji_pairs.Edit("skin", found[RUNNER], found[RUNNER + LIGHT], "light")
  assert emoji_texts.reasoning(edit) == (
    "The picture shows a person running facing left with yellow skin. "
    "The result shows a person running facing left with light skin."
  )
  assert "light" in emoji_texts.instruction(edit)


def test_every_kind_has_words_and_leaves_no_place_empty():
  kinds = {choice.kind for choice in emoji_choices.CHOICES}
  kinds |= {"skin", "gender", "direction", "draw"}
  assert kinds == set(emoji_texts.TEMPLATES)
  catalogue = tuple(_catalogue().values())
  for edit in (
    *emoji_pairs.edits(catalogue),
    *emoji_pairs.drawings(catalogue),
  ):
    words = emoji_texts.instruction(edit) + emoji_texts.reasoning(edit)
    assert "{" not in words and "None" not in words and "  " not in words


@pytest.mark.parametrize(
  ("words", "expected"),
  [
    ("cook", "a cook"),
    ("astronaut", "an astronaut"),
    ("unicorn", "a unicorn"),
    ("crossed fingers", "crossed fingers"),
    ("face with rolling eyes", "a face with rolling eyes"),
    ("man lifting weights", "a man lifting weights"),
    ("people holding hands", "people holding hands"),
    ("cactus", "a cactus"),
  ],
)
def test_articles(words, expected):
  assert emoji_texts.with_article(words) == expected


def test_a_base_is_of_one_split():
  catalogue = tuple(_catalogue().values())
  splits = {"1f3c3": "held_out"}
  splits = {e.base: splits.get(e.base, "train") for e in catalogue}
  chosen = emoji_pairs.select(
    emoji_pairs.edits(catalogue), splits=splits, max_pairs=1000
  )
  bases = {
    split: {e.base for edit in kept for e in (edit.before, edit.after) if e}
    for split, kept in chosen.items()
  }
  assert bases["held_out"] == {"1f3c3"}
  assert "1f3c3" not in bases["train"]


def test_an_edit_between_two_splits_is_left_out():
  catalogue = tuple(_catalogue().values())
  splits = {e.base: "train" for e in catalogue} | {"person-1f373": "held_out"}
  chosen = emoji_pairs.select(
    _edits("profession"), splits=splits, max_pairs=1000
  )
  assert chosen == {"train": (), "held_out": ()}


def test_of_a_choice_among_many_two_bases_are_held_out():
  names = {chr(0x1F600 + i): f":face_{i}:" for i in range(10)}
  choice = emoji_choices.Choice("face", {f"face {i}": "" for i in range(10)})
  catalogue = emoji_world.catalogue(names, shared_bases={})
  splits = emoji_pairs.splits(catalogue, choices=(choice,))
  assert list(splits.values()).count("held_out") >= 2


def test_a_kind_is_bounded():
  splits = {e.base: "train" for e in _catalogue().values()}
  chosen = emoji_pairs.select(
    emoji_pairs.edits(tuple(_catalogue().values())), splits=splits, max_pairs=5
  )
  kinds = [edit.kind for edit in chosen["train"]]
  assert max(kinds.count(kind) for kind in kinds) == 5


def test_build_writes_rows_whose_pictures_are_there(tmp_path):
  counts = _build(tmp_path, generation=True)
  rows = _rows(tmp_path, "train") + _rows(tmp_path, "held_out")
  assert len(rows) == sum(sum(kinds.values()) for kinds in counts.values())
  assert len({row["id"] for row in rows}) == len(rows)
  for row in rows:
    assert set(row) == {
      *("id", "input_image", "instruction"),
      *("reasoning", "output_image", "kind"),
    }
    assert (tmp_path / row["output_image"]).is_file()
    is_drawn = row["kind"] == "draw"
    assert is_drawn == (row["input_image"] == "")
    assert is_drawn or (tmp_path / row["input_image"]).is_file()
  picture = PIL.Image.open(tmp_path / rows[0]["output_image"])
  assert (picture.size, picture.mode) == ((64, 64), "RGB")
  assert (tmp_path / "pairs.png").is_file()
  assert "draw" in {row["kind"] for row in rows}


def test_build_twice_gives_the_same_bytes_and_goes_on_after_a_kill(tmp_path):
  def stop(text):
    if text == RUNNER + LIGHT:
      raise KeyboardInterrupt
    return _render(text)

  with pytest.raises(KeyboardInterrupt):
    _build(tmp_path / "a", renderer=stop)
  _build(tmp_path / "a")
  _build(tmp_path / "b")
  files = sorted(p for p in (tmp_path / "a").rglob("*") if p.is_file())
  assert len(files) > 20
  for path in files:
    other = tmp_path / "b" / path.relative_to(tmp_path / "a")
    assert path.read_bytes() == other.read_bytes()


def test_pictures_that_look_alike_are_no_edit(tmp_path):
  def colour_blind(text):
    return _render("heart" if text in (RED_HEART, BLUE_HEART) else text)

  counts = _build(tmp_path, renderer=colour_blind)
  assert not any("colour" in kinds for kinds in counts.values())
  assert any("skin" in kinds for kinds in counts.values())


def test_what_the_font_does_not_know_is_left_out(tmp_path):
  def without_jobs(text):
    return None if COOKING in text else _render(text)

  _build(tmp_path, renderer=without_jobs)
  assert not list((tmp_path / "pictures").glob("*1f373*"))
  rows = _rows(tmp_path, "train") + _rows(tmp_path, "held_out")
  assert rows and not [row for row in rows if "1f373" in row["id"]]


def test_a_font_without_an_edit_is_refused(tmp_path):
  with pytest.raises(ValueError, match="must draw two emoji of an edit"):
    _build(tmp_path, renderer=lambda text: None)


def test_another_build_in_the_folder_is_refused(tmp_path):
  _build(tmp_path / "a")
  with pytest.raises(ValueError, match="must be empty or of the same build"):
    _build(tmp_path / "a", generation=True)
  (tmp_path / "b").mkdir()
  (tmp_path / "b" / "notes.txt").write_text("mine")
  with pytest.raises(ValueError, match=r"must be empty, got \['notes.txt'\]"):
    _build(tmp_path / "b")


def test_a_missing_package_is_told(monkeypatch):
  monkeypatch.setitem(sys.modules, "emoji", None)
  with pytest.raises(ValueError, match="pip install emoji"):
    emoji.load_names()


def test_every_name_of_a_choice_is_an_emoji():
  pytest.importorskip("emoji", reason="needs the package emoji")
  names, _ = emoji.load_names()
  known = {e.name for e in emoji_world.catalogue(names, shared_bases={})}
  asked = {name for c in emoji_choices.CHOICES for name in c.names}
  assert asked - known == set()
