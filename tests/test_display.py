"""Laws of what people see of a run."""

import dataclasses
import io

import numpy as np
import PIL.Image
import pytest

from paradiff import display
from paradiff import drawing
from paradiff import gif
from paradiff import outputs as outputs_lib

WORDS = ("add", "red", "star", ".", "result", ":", "a2", ",")
RED = np.full((64, 64, 3), (200, 0, 0), np.uint8)
BLUE = np.full((64, 64, 3), (0, 0, 200), np.uint8)


def canvas(step: int, num_masked: int) -> outputs_lib.Canvas:
  """A canvas of four steps whose first words and cells are masked."""
  masked = np.arange(16).reshape(4, 4) < num_masked
  hidden = min(num_masked, len(WORDS))
  return outputs_lib.Canvas(
    step=step,
    num_steps=4,
    words=(None,) * hidden + WORDS[hidden:],
    picture=RED,
    masked=masked,
  )


RUN = (canvas(1, 12), canvas(2, 5), canvas(3, 2), canvas(4, 0))


def panel(frame: PIL.Image.Image) -> np.ndarray:
  """Cut the output, right and below the instruction, from a frame."""
  return np.asarray(frame)[95:415, 440:760]


def test_terminal_picture_has_two_rows_of_pixels_a_line():
  picture = np.concatenate([RED[:32], BLUE[:32]])
  lines = display.terminal_picture(picture, columns=10)
  assert len(lines) == 5
  for line in lines:
    assert line.count("▀") == 10
    assert line.endswith("\x1b[0m")
  assert "38;2;200;0;0" in lines[0]
  assert "48;2;200;0;0" in lines[0]
  assert lines[0].count("\x1b") == 3  # colours are named once
  assert "38;2;0;0;200" in lines[-1]


def test_frames_begin_masked_and_end_with_the_answer():
  frames = display.draw_frames(RUN, prompt="add a star", source=BLUE)
  assert len(frames) == len(RUN) + 1
  assert len({frame.size for frame in frames}) == 1
  seen = [(panel(frame) == (200, 0, 0)).all(-1).mean() for frame in frames]
  assert seen[0] == 0
  assert seen == sorted(seen)
  assert seen[-1] > 0.99  # all but the round corners


def test_a_masked_cell_is_veiled_and_a_committed_one_is_not():
  frames = display.draw_frames(RUN, prompt="add a star", source=BLUE)
  cells = panel(frames[2])  # five masked cells: a row and one more
  for row in range(4):
    for column in range(4):
      centre = tuple(cells[40 + 80 * row, 40 + 80 * column])
      is_veiled = 4 * row + column < 5
      assert (centre != (200, 0, 0)) == is_veiled


def test_words_do_not_move_from_frame_to_frame():
  longer = dataclasses.replace(RUN[0], words=(None,) * 30)
  frames = display.draw_frames((longer, *RUN[1:]), prompt="add a star")
  ink = [np.asarray(f.convert("L"))[430:460, 40:] < 90 for f in frames]
  # what is dark in an earlier frame stays dark
  for before, after in zip(ink[2:-2], ink[3:-1], strict=True):
    assert not (before & ~after).any()
  assert ink[-1].any()


def test_new_words_stand_out_until_the_next_frame():
  frames = display.draw_frames(RUN, prompt="add a star")
  accent = [
    (np.asarray(frame)[430:470] == drawing.ACCENT).all(-1).sum()
    for frame in frames
  ]
  assert accent[0] == 0
  assert accent[2] > 0
  assert accent[-1] == 0


def test_every_kind_of_run_can_be_drawn():
  long_prompt = "word " * 200 + "w" * 500
  for prompt in ("", "größer → 赤", long_prompt):
    for source in (None, BLUE, np.zeros((30, 50, 3), np.uint8)):
      frames = display.draw_frames(RUN[-1:], prompt=prompt, source=source)
      assert frames[0].height < 800
  empty = dataclasses.replace(RUN[-1], words=())
  display.draw_frames([empty], prompt="a")
  large = dataclasses.replace(
    RUN[0],
    picture=np.zeros((512, 512, 3), np.uint8),
    masked=np.ones((32, 32), bool),
  )
  display.draw_frames([large], prompt="a")


def box_of(frame: PIL.Image.Image, colour: tuple[int, int, int]) -> list[int]:
  """Return left, top, right and bottom of a flat picture on a page."""
  rows, columns = np.nonzero((np.asarray(frame) == colour).all(-1))
  return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


SIZES = ((64, 64), (384, 576), (576, 384), (256, 1024), (1024, 256), (48, 80))


@pytest.mark.parametrize("source_size", SIZES)
@pytest.mark.parametrize("output_size", SIZES)
def test_pictures_keep_their_aspect_and_stand_side_by_side(
  source_size, output_size
):
  source = np.full((*source_size, 3), (0, 0, 200), np.uint8)
  output = np.full((*output_size, 3), (200, 0, 0), np.uint8)
  height, width = (side // 16 for side in output_size)
  last = dataclasses.replace(
    RUN[-1], picture=output, masked=np.zeros((height, width), bool)
  )
  frame = display.draw_frames([last], prompt="add it", source=source)[-1]
  pair = display.side_by_side(source, output, prompt="add it")
  for page in (frame, pair):
    first, second = box_of(page, (0, 0, 200)), box_of(page, (200, 0, 0))
    for box, size in ((first, source_size), (second, output_size)):
      tall, wide = box[3] - box[1], box[2] - box[0]
      assert max(tall, wide) == 320
      assert abs(wide * size[0] - tall * size[1]) <= max(size)
    assert first[2] < second[0]
    assert abs(first[1] + first[3] - second[1] - second[3]) <= 1
    assert abs(first[0] + second[2] - page.width) <= 1
    assert second[2] <= page.width - 40
    assert max(first[3], second[3]) < page.height - 39


def test_cells_of_a_wide_picture_are_veiled_where_they_are():
  masked = np.zeros((2, 6), bool)
  masked[1, 4] = True
  wide = np.full((32, 96, 3), (200, 0, 0), np.uint8)
  run = [dataclasses.replace(RUN[-1], picture=wide, masked=masked)]
  frame = np.asarray(display.draw_frames(run, prompt="")[-1])
  left, top, right, bottom = box_of(PIL.Image.fromarray(frame), (200, 0, 0))
  cells = frame[top:bottom, left:right]
  height, width = cells.shape[0] / 2, cells.shape[1] / 6
  for row, column in np.ndindex(2, 6):
    centre = cells[int((row + 0.5) * height), int((column + 0.5) * width)]
    is_veiled = tuple(centre) != (200, 0, 0)
    assert is_veiled == masked[row, column]


def test_what_is_not_there_has_no_place():
  text_only = [dataclasses.replace(c, picture=None, masked=None) for c in RUN]
  picture_only = [dataclasses.replace(c, words=()) for c in RUN]
  heights = []
  for run, source in (
    (text_only, None),
    (text_only, BLUE),
    (picture_only, None),
    (RUN, None),
  ):
    frames = display.draw_frames(run, prompt="go on", source=source)
    assert len({frame.size for frame in frames}) == 1
    heights.append(frames[0].height)
    reds = (np.asarray(frames[-1]) == (200, 0, 0)).all(-1).any()
    assert reds == (run is not text_only)
    if source is not None:  # alone in the middle
      left, _, right, _ = box_of(frames[-1], (0, 0, 200))
      assert left + right == frames[-1].width
  text_alone, described, picture_alone, both = heights
  assert text_alone < picture_alone < both
  assert described == both


def test_a_page_is_not_endless():
  masks = dataclasses.replace(RUN[0], words=(None,) * 256)
  short = display.draw_frames([masks, RUN[-1]], prompt="go on")[0].height
  assert short < 620
  long = [dataclasses.replace(RUN[-1], words=("word",) * 5000)]
  assert display.draw_frames(long, prompt="go on")[0].height < 1100


def test_a_long_run_of_masks_shrinks_while_words_are_committed():
  words = ("a", *[None] * 40)
  run = [
    dataclasses.replace(RUN[0], words=words[:n], step=i + 1)
    for i, n in enumerate((41, 21, 5, 3, 1))
  ]
  frames = display.draw_frames(run, prompt="")[1:]
  bars = [(np.asarray(f) == drawing.BAR).all(-1)[390:425].sum() for f in frames]
  assert bars[0] == bars[1] == bars[2] > bars[3] > bars[4] == 0


def test_letters_that_the_font_lacks_are_drawn_by_their_like():
  assert drawing.drawable("größer → café\n") == "grosser -> cafe "
  assert drawing.drawable("赤") == "赤"  # a box, no error
  drawing.font(20).getlength("\ufffd赤\ud800")


def test_drawing_a_run_without_canvases_is_refused():
  with pytest.raises(ValueError, match="at least one canvas"):
    display.draw_frames([], prompt="a")


def test_side_by_side_shows_input_and_output():
  sheet = np.asarray(display.side_by_side(BLUE, RED, prompt="paint it red"))
  middle = sheet.shape[0] // 2
  assert tuple(sheet[middle, 200]) == (0, 0, 200)
  assert tuple(sheet[middle, 600]) == (200, 0, 0)


def test_small_pictures_keep_hard_pixels():
  checks = np.indices((64, 64)).sum(0) % 2 * 255
  checks = np.repeat(checks[..., None], 3, -1).astype(np.uint8)
  large = np.asarray(drawing.fit(checks, 320))
  np.testing.assert_array_equal(large[::5, ::5], checks)
  assert set(np.unique(large)) == {0, 255}


def test_grid_places_pictures_in_reading_order():
  sheet = np.asarray(
    display.grid([RED, BLUE, BLUE], ["a", "b", "c"], columns=2, side=100)
  )
  assert tuple(sheet[70, 70]) == (200, 0, 0)
  assert tuple(sheet[70, 190]) == (0, 0, 200)
  assert tuple(sheet[230, 70]) == (0, 0, 200)
  assert tuple(sheet[230, 190]) == drawing.PAPER
  assert display.grid([RED]).size == (200, 200)


def test_grid_wants_a_caption_for_every_picture():
  with pytest.raises(ValueError, match="got 1 for 2"):
    display.grid([RED, BLUE], ["a"])


def test_wrapped_lines_fit_the_width():
  text = "some words of different lengths and " + "w" * 300
  lines = drawing.wrap(text, size=20, width=200, max_lines=3)
  assert len(lines) <= 3
  assert all(drawing.font(20).getlength(line) <= 200 for line in lines)
  assert lines[-1].endswith("...")
  assert drawing.wrap("two words", size=20, width=200, max_lines=1) == [
    "two words"
  ]


def test_gif_keeps_frames_durations_and_flat_colours(tmp_path):
  frames = display.draw_frames(RUN, prompt="add a star", source=BLUE)
  path = tmp_path / "new" / "run.gif"
  display.save_gif(frames, path, frame_ms=100, hold_ms=2000)
  with PIL.Image.open(path) as animation:
    assert animation.n_frames == len(frames)
    assert animation.info["loop"] == 0
    durations = []
    for i, frame in enumerate(frames):
      animation.seek(i)
      durations.append(animation.info["duration"])
      shown = np.asarray(animation.convert("RGB"))
      assert tuple(shown[3, 3]) == drawing.PAPER
      np.testing.assert_array_equal(shown[255, 200], (0, 0, 200))
      off = np.abs(shown.astype(int) - np.asarray(frame)).max(-1)
      assert off.mean() < 0.1
  assert durations == [100] * len(RUN) + [2000]


def test_gif_needs_frames(tmp_path):
  with pytest.raises(ValueError, match="at least one frame"):
    display.save_gif([], tmp_path / "a.gif")
  with pytest.raises(ValueError, match="1 frames and 0 durations"):
    gif.encode([PIL.Image.new("RGB", (4, 4))], durations_ms=[])


def gradients(shift: int) -> PIL.Image.Image:
  """A page of which the left half moves and the right half does not."""
  rows, columns = np.indices((120, 160))
  planes = [rows * 2, columns, 255 - rows - columns // 2]
  pixels = np.stack(planes, -1)
  pixels[:, :80] += shift
  return PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def test_what_stands_still_does_not_shimmer_in_a_gif():
  frames = [gradients(shift) for shift in (0, 5, 9, 9, 20)]
  data = gif.encode(frames, durations_ms=[100] * len(frames))
  with PIL.Image.open(io.BytesIO(data)) as animation:
    shown = []
    for i in range(animation.n_frames):
      animation.seek(i)
      shown.append(np.asarray(animation.convert("RGB")))
  for frame in shown[1:]:
    np.testing.assert_array_equal(frame[:, 80:], shown[0][:, 80:])
  assert (shown[-1][:, :80] != shown[0][:, :80]).any()


def test_a_rich_gif_has_the_right_colours_on_the_average():
  rows, columns = np.indices((240, 320))
  tiles = (rows // 40 * 7 + columns // 40 * 3) % 10 * 25
  pixels = np.stack([rows, columns * 255 // 320, tiles], -1).astype(np.uint8)
  data = gif.encode([PIL.Image.fromarray(pixels)], durations_ms=[100])
  with PIL.Image.open(io.BytesIO(data)) as animation:
    off = np.asarray(animation.convert("RGB")).astype(float) - pixels
  blocks = off.reshape(30, 8, 40, 8, 3).mean((1, 3))
  assert np.abs(blocks).mean() < 1.8  # levels; 2.1 without dithering
