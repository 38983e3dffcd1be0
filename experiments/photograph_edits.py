"""Edits of photographs whose result is known to the byte, and their words.

An edit changes the colours of all pixels, or of a half, or their places; so
its result follows from the picture alone, whatever it shows. What a reasoning
says of a picture is measured too: how light it is on average and which of a
few named colours most of its pixels have.

Example: of uint8 [[[200, 30, 20]]], a red pixel, "swap" makes [[[20, 30, 200]]]
and says "The picture is dark, mostly red. Red and blue change places. The
result is very dark, mostly blue."
"""

import dataclasses
from collections.abc import Callable

import numpy as np

_TONES = (  # lower bound of the mean lightness, from dark to bright
  (0.0, "very dark"),
  (64.0, "dark"),
  (104.0, "medium bright"),
  (152.0, "bright"),
  (200.0, "very bright"),
)
_HUES = (  # by the upper bound of the hue in degrees
  (18, "red"),
  (46, "orange"),
  (70, "yellow"),
  (165, "green"),
  (195, "turquoise"),
  (260, "blue"),
  (345, "purple"),
  (360, "red"),
)
COLOURS = (
  *("black", "grey", "white", "red", "brown", "orange"),
  *("yellow", "green", "turquoise", "blue", "purple"),
)
_MIN_CHROMA = 40  # below it a pixel has no colour
_MAX_BLACK, _MIN_WHITE = 56, 200  # lightness of pixels without a colour
_MAX_BROWN = 170  # largest byte of what is orange if it is brighter


@dataclasses.dataclass(frozen=True)
class Edit:
  """A change of a picture, and how it is asked for.

  Attributes:
    kind: its name.
    change: uint8[H, W, 3] to the edited uint8[H, W, 3].
    instructions: ways to ask for it.
    outcome: a sentence that says what happens.
  """

  kind: str
  change: Callable[[np.ndarray], np.ndarray]
  instructions: tuple[str, ...]
  outcome: str


def lightness(picture: np.ndarray) -> np.ndarray:
  """Return uint8[H, W], rounded Rec. 601 luma, of uint8[H, W, 3]."""
  weighted = picture.astype(np.int64) @ np.array([299, 587, 114])
  return ((weighted + 500) // 1000).astype(np.uint8)


def tone(picture: np.ndarray) -> str:
  """Return how light uint8[H, W, 3] is on average: one of five words."""
  mean = lightness(picture).mean()
  return [word for bound, word in _TONES if mean >= bound][-1]


def dominant_colour(picture: np.ndarray) -> str:
  """Return which of `COLOURS` most pixels of uint8[H, W, 3] have."""
  pixels = picture.reshape(-1, 3).astype(np.int64)
  red, green, blue = pixels.T
  high, low = pixels.max(-1), pixels.min(-1)
  chroma = np.maximum(high - low, 1)
  # Degrees around the circle of colours, as in HSV, from red over green.
  hue = np.select(
    [high == red, high == green],
    [60 * (green - blue) / chroma, 60 * (blue - red) / chroma + 120],
    60 * (red - green) / chroma + 240,
  )
  bounds = np.array([bound for bound, _ in _HUES])
  names = np.array([name for _, name in _HUES])
  colours = names[np.searchsorted(bounds[:-1], hue % 360, side="right")]
  colours = np.where(
    (colours == "orange") & (high <= _MAX_BROWN), "brown", colours
  )
  light = lightness(picture).reshape(-1)
  greys = np.select(
    [light <= _MAX_BLACK, light >= _MIN_WHITE], ["black", "white"], "grey"
  )
  colours = np.where(high - low < _MIN_CHROMA, greys, colours)
  counts = [int((colours == name).sum()) for name in COLOURS]
  return COLOURS[int(np.argmax(counts))]


def look(picture: np.ndarray) -> str:
  """Say how uint8[H, W, 3] looks, such as "dark, mostly blue"."""
  return f"{tone(picture)}, mostly {dominant_colour(picture)}"


def reasoning(edit: Edit, before: np.ndarray, after: np.ndarray) -> str:
  """Say what is seen, what happens and what comes of it.

  Args:
    edit: the change.
    before: uint8[H, W, 3], the picture.
    after: uint8[H, W, 3], the edited picture.
  """
  return (
    f"The picture is {look(before)}. {edit.outcome} "
    f"The result is {look(after)}."
  )


def _invert(picture: np.ndarray) -> np.ndarray:
  return 255 - picture


def _grey(picture: np.ndarray) -> np.ndarray:
  return np.repeat(lightness(picture)[..., None], 3, axis=-1)


def _left(
  change: Callable[[np.ndarray], np.ndarray],
) -> Callable[[np.ndarray], np.ndarray]:
  """Return the change of the left half alone, the middle column left out."""

  def changed(picture: np.ndarray) -> np.ndarray:
    half = picture.shape[1] // 2
    return np.concatenate([change(picture[:, :half]), picture[:, half:]], 1)

  return changed


def _cover_top(picture: np.ndarray) -> np.ndarray:
  """Paint the upper half white, the middle row left out."""
  half = picture.shape[0] // 2
  return np.concatenate([np.full_like(picture[:half], 255), picture[half:]])


EDITS = (
  Edit(
    "invert",
    _invert,
    (
      "Invert the colours",
      "Invert all colours of the picture",
      "Turn every colour into its opposite",
      "Make a negative of the picture",
      "Show this photo as a negative",
    ),
    "Every colour turns into its opposite.",
  ),
  Edit(
    "grey",
    _grey,
    (
      "Make it black and white",
      "Turn the picture black and white",
      "Remove all colour from the picture",
      "Make a black and white photo of it",
      "Convert the photo to grey",
    ),
    "All colour goes, only greys stay.",
  ),
  Edit(
    "swap",
    lambda picture: picture[..., ::-1],
    (
      "Swap red and blue",
      "Exchange the red and the blue of the picture",
      "Let red and blue change places",
      "Turn red into blue and blue into red",
    ),
    "Red and blue change places.",
  ),
  Edit(
    "brighter",
    lambda picture: picture + (255 - picture) // 2,  # half way to white
    (
      "Make it brighter",
      "Make the picture much brighter",
      "Brighten the photo",
      "Add light to the picture",
    ),
    "Every pixel goes half way to white.",
  ),
  Edit(
    "darker",
    lambda picture: picture // 2,
    (
      "Make it darker",
      "Make the picture much darker",
      "Darken the photo",
      "Take light from the picture",
    ),
    "Every pixel goes half way to black.",
  ),
  Edit(
    "mirror",
    lambda picture: picture[:, ::-1],
    (
      "Mirror the picture left to right",
      "Swap left and right",
      "Flip the photo horizontally",
      "Show it as in a mirror",
    ),
    "Left and right change places.",
  ),
  Edit(
    "flip",
    lambda picture: picture[::-1],
    (
      "Flip the picture upside down",
      "Put the top of the picture at the bottom",
      "Flip the photo vertically",
      "Swap top and bottom",
    ),
    "Top and bottom change places.",
  ),
  Edit(
    "invert_left",
    _left(_invert),
    (
      "Invert only the left half",
      "Invert the colours of the left half",
      "Make a negative of the left half",
      "Show the left half as a negative",
    ),
    "The left half turns into its negative, the right half stays.",
  ),
  Edit(
    "grey_left",
    _left(_grey),
    (
      "Make only the left half black and white",
      "Turn the left half black and white",
      "Remove all colour from the left half",
      "Convert the left half to grey",
    ),
    "The left half loses its colour, the right half stays.",
  ),
  Edit(
    "cover_top",
    _cover_top,
    (
      "Cover the upper half with white",
      "Paint the upper half white",
      "Make the top half white",
      "Hide the top half behind white",
    ),
    "The upper half turns white, the lower half stays.",
  ),
)
