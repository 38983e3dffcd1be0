"""Laws of words in a row, joined and on a page."""

import itertools

import numpy as np
import pytest

from paradiff import drawing
from paradiff import flow

TIMES = "\N{MULTIPLICATION SIGN}"
WORDS = ("add", "red", "star", ".", "result", ":", "a2", ",")
PIECES = ("The", " sk", "y", " is", " red", ".\n\n", "It", "'s", " so", ".")


def test_words_are_joined_with_spaces_and_punctuation_without():
  assert flow.text_line(WORDS) == "add red star. result: a2,"
  assert flow.text_line(("add", None, ".", None)) == "add ░░░. ░░░"
  assert flow.text_line(()) == ""
  assert flow.joined(("add", "", "it")) == "add it"


def test_pieces_with_spaces_of_their_own_are_joined_as_they_are():
  assert flow.joined(PIECES, has_own_spaces=True) == "".join(PIECES)
  line = flow.text_line(PIECES, has_own_spaces=True)
  assert line == "The sky is red. It's so."
  masked = ("The", None, "y", None, " red", "\n", None)
  joined = flow.joined(masked, has_own_spaces=True)
  assert joined == "The ░░░y ░░░ red\n░░░"


def test_a_long_run_of_masks_is_a_number():
  assert flow.joined(("a", *[None] * 3, "b")) == "a ░░░ ░░░ ░░░ b"
  assert flow.joined(("a", *[None] * 37, "b")) == f"a ░░░ {TIMES}37 b"
  masked = ("a", *[None] * 37, "b", "c")
  assert flow.joined(masked, has_own_spaces=True) == f"a ░░░ {TIMES}37 bc"
  # Tokens without ink, as half a character is, do not end a run.
  assert flow.joined((None, "", None, None, None)) == f"░░░ {TIMES}4"


def test_a_line_has_no_character_that_moves_the_cursor():
  line = flow.text_line(("a\x1b[2J", "\rb\x07", "\u202e"), has_own_spaces=True)
  assert line.isprintable()


def random_pieces(seed: int) -> list[str | None]:
  rng = np.random.default_rng(seed)
  kinds = [*PIECES, " ", "\n", "w" * 90, "", "\x14", "赤", None, " longer"]
  return [kinds[i] for i in rng.integers(0, len(kinds), 60)] + [None] * 100


@pytest.mark.parametrize("has_own_spaces", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_words_stand_in_order_without_touching(seed, has_own_spaces):
  words = random_pieces(seed)
  spots = flow.spots(words, size=20, width=400, has_own_spaces=has_own_spaces)
  for spot, after in itertools.pairwise(spots):
    assert spot.stop <= after.start
    assert (spot.line, spot.left) < (after.line, after.left)
    if spot.line == after.line:
      # places are rounded
      assert spot.left + spot.width <= after.left + 1
  for spot in spots:
    assert spot.left == 0 or spot.left + spot.width <= 402
  placed = {i for spot in spots for i in range(spot.start, spot.stop)}
  blank = {i for i, word in enumerate(words) if word is not None}
  blank = {i for i in blank if not drawing.printable(words[i] or "").strip()}
  assert placed == set(range(len(words))) - blank


def test_a_word_is_not_torn_and_a_line_break_breaks_a_line():
  for width in range(60, 300, 7):
    spots = flow.spots(PIECES, size=20, width=width, has_own_spaces=True)
    lines = [spot.line for spot in spots]
    assert lines[1] == lines[2]  # sk y
    assert lines[4] == lines[5]  # red .
    assert lines[6] == lines[7]  # It 's
    assert lines[6] - lines[5] == 2
    assert spots[6].left == 0


def test_pieces_stand_as_close_as_in_the_whole_text():
  spots = flow.spots(PIECES[:5], size=20, width=700, has_own_spaces=True)
  whole = drawing.font(20).getlength("".join(PIECES[:5]))
  end = spots[-1].left + spots[-1].width
  assert abs(end - whole) <= 3


def test_masks_fit_a_page_however_many():
  spots = flow.spots([None] * 256, size=20, width=700)
  assert [(spot.start, spot.stop) for spot in spots] == [(0, 256)]
  assert spots[0].width <= 700
  few = flow.spots([None] * 4, size=20, width=700)
  assert len(few) == 4
