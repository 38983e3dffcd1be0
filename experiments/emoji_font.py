"""Pictures of emoji from Noto Color Emoji, a font of bitmaps (OFL 1.1)."""

import os
from collections.abc import Callable

import numpy as np
import PIL.features
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from etils import epath

# uint8[SIDE, SIDE, 3]; None where the font does not know the sequence.
Renderer = Callable[[str], np.ndarray | None]
SIDE = 64
_STRIKE = 109  # the one size of the font's bitmaps, 136 x 128 pixels
_FACE = "\U0001f600"
_FILE = "NotoColorEmoji.ttf"
_FOLDERS = (
  "/usr/share/fonts/truetype/noto",
  "/usr/share/fonts/noto",
  "/usr/share/fonts/noto-emoji",
  "/usr/share/fonts/google-noto-emoji-fonts",
  "/usr/local/share/fonts",
  "~/.local/share/fonts",
  "~/.fonts",
)


def find_font(path: str | None = None) -> str:
  """Return the path of the font: the one given, or where systems put it.

  Raises:
    FileNotFoundError: if it is not there; says what brings it.
  """
  places = [path] if path else [f"{folder}/{_FILE}" for folder in _FOLDERS]
  for place in places:
    if epath.Path(os.path.expanduser(place)).is_file():
      return os.path.expanduser(place)
  raise FileNotFoundError(
    f"the font must exist, looked for {', '.join(places)}; the Debian package "
    "fonts-noto-color-emoji brings it (apt-get install "
    "fonts-noto-color-emoji), or name a copy with --font"
  )


def make_renderer(path: str) -> Renderer:
  """Return what draws a sequence on white in `SIDE` x `SIDE` pixels.

  Args:
    path: the font.

  Raises:
    ValueError: if it is not the font, or Pillow cannot join sequences.
  """
  if not PIL.features.check("raqm"):
    raise ValueError(
      "Pillow must have raqm to join sequences of emoji; the wheels of Pillow "
      "do (pip install --force-reinstall pillow)"
    )
  try:
    font = PIL.ImageFont.truetype(
      path, _STRIKE, layout_engine=PIL.ImageFont.Layout.RAQM
    )
  except OSError as error:
    raise ValueError(
      f"the font must have bitmaps of size {_STRIKE}, as {_FILE} has, got "
      f"{path}: {error}"
    ) from error
  advance = font.getlength(_FACE)
  canvas = round(advance)

  def render(text: str) -> np.ndarray | None:
    # Parts that do not join stand side by side; an unknown one is empty.
    _, top, _, bottom = font.getbbox(text)
    if font.getlength(text) != advance or top == bottom:
      return None
    picture = PIL.Image.new("RGB", (canvas, canvas), "white")
    left_top = (0, (canvas - (bottom - top)) // 2 - top)
    PIL.ImageDraw.Draw(picture).text(
      left_top, text, font=font, embedded_color=True
    )
    small = picture.resize((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
    return np.asarray(small)

  face = render(_FACE)
  if face is None or not np.any(face[..., 0] != face[..., 2]):
    raise ValueError(f"the font must draw in colour, got {path}")
  return render
