"""Pictures from anywhere to upright RGB or one square array, and to files.

`open_picture` takes what people have (a path, bytes, a PIL picture, an array)
and answers an upright RGB picture; whatever cannot become that raises one
error that says what must hold and what was found, before pixels are decoded.
`load_picture` cuts it to the square that the models of the scenes world read;
`crops` makes the sizes of the published models.
"""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator

import numpy as np
import PIL.Image
import PIL.ImageOps
from etils import epath

from paradiff import remote

MAX_PIXELS = 64 * 10**6
MAX_BYTES = 256 * 10**6
Source = str | os.PathLike[str] | bytes | PIL.Image.Image | np.ndarray


def load_picture(source: Source, *, size: int) -> np.ndarray:
  """Read a picture as the largest centred square, scaled to `size`.

  The picture is turned as its EXIF orientation says; transparent parts show
  white; a picture that already is `size` x `size` keeps its pixels.

  Args:
    source: path, encoded bytes, PIL picture, or array uint8[H, W, 3], [H, W]
      or [H, W, 4]. A path may be remote.
    size: side of the result.

  Returns:
    uint8[size, size, 3].

  Raises:
    FileNotFoundError: if there is no file at the path.
    ValueError: if the picture is unreadable, empty, animated or huge.
    TypeError: if the source is of another type.
  """
  if size < 1:
    raise ValueError(f"size must be positive, got {size=}")
  return _square(open_picture(source), size)


def open_picture(source: Source) -> PIL.Image.Image:
  """Read a picture of any size, upright and in RGB.

  The picture is turned as its EXIF orientation says; transparent parts show
  white. The result is decoded and shares nothing with the source.

  Args:
    source: path, encoded bytes, PIL picture, or array uint8[H, W, 3], [H, W]
      or [H, W, 4]. A path may be remote.

  Returns:
    A picture of mode RGB, of at most `MAX_PIXELS` pixels.

  Raises:
    FileNotFoundError: if there is no file at the path.
    ValueError: if the picture is unreadable, empty, animated or huge.
    TypeError: if the source is of another type.
  """
  if isinstance(source, np.ndarray):
    return _from_array(source)
  if isinstance(source, PIL.Image.Image):
    return _to_rgb(source, "picture")
  if isinstance(source, bytes):
    return _decode(source, "bytes")
  if isinstance(source, (str, os.PathLike)):
    name = f"{os.fspath(source)!r}"
    return _decode(_read(source), name)
  raise TypeError(
    "a picture must be a path, bytes, a PIL picture or an array, got "
    f"{type(source).__name__}"
  )


def save_picture(picture: np.ndarray, path: epath.PathLike) -> None:
  """Write uint8[H, W, 3] as a PNG; the file is there whole or not at all."""
  encoded = io.BytesIO()
  _from_array(picture).save(encoded, format="PNG")
  write_atomically(path, encoded.getvalue())


def write_atomically(path: epath.PathLike, data: bytes) -> None:
  """Write a file such that a reader never meets a part of it."""
  target = epath.Path(path)
  target.parent.mkdir(parents=True, exist_ok=True)
  if remote.is_remote(target):  # an object appears once it is whole
    target.write_bytes(data)
    return
  partial = target.parent / f".{target.name}.{os.getpid()}.part"
  try:
    partial.write_bytes(data)
    partial.replace(target)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise


def _read(source: str | os.PathLike[str]) -> bytes:
  """Return the bytes at a path."""
  path, name = epath.Path(source), f"{os.fspath(source)!r}"
  try:
    is_there, is_file = path.exists(), path.is_file()
  except (OSError, ValueError):  # a name that no file can have
    is_there = is_file = False
  if not is_there or not os.fspath(source):
    raise FileNotFoundError(f"a picture must be an existing file, got {name}")
  if not is_file:
    raise ValueError(f"a picture must be a file, not a folder, got {name}")
  try:
    length = path.stat().length
    if length > MAX_BYTES:
      raise ValueError(
        f"a picture file must have at most {MAX_BYTES} bytes, got {length} in "
        f"{name}"
      )
    return path.read_bytes()
  except OSError as error:
    raise ValueError(
      f"a picture must be a readable file, got {name}: {error}"
    ) from error


def _decode(data: bytes, name: str) -> PIL.Image.Image:
  """Return the picture in encoded bytes; `name` says where they are from."""
  if not data:
    raise ValueError(f"a picture must not be empty, got 0 bytes in {name}")
  try:
    with warnings.catch_warnings():
      # Pillow warns of huge pictures at a bound of its own.
      warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
      picture = PIL.Image.open(io.BytesIO(data))
  except PIL.Image.DecompressionBombError as error:
    raise ValueError(
      f"a picture must have at most {MAX_PIXELS} pixels, got {name}: {error}"
    ) from error
  except Exception as error:  # damaged headers raise errors of many kinds
    raise ValueError(
      f"a picture must be of a known format such as PNG or JPEG, got {name}: "
      f"{len(data)} bytes of something else"
    ) from error
  with picture:
    return _to_rgb(picture, name)


def _to_rgb(picture: PIL.Image.Image, name: str) -> PIL.Image.Image:
  """Return an upright RGB picture, refusing what cannot be one."""
  width, height = picture.size
  if min(width, height) < 1:
    raise ValueError(
      f"a picture must have pixels, got {width} x {height} in {name}"
    )
  if width * height > MAX_PIXELS:
    raise ValueError(
      f"a picture must have at most {MAX_PIXELS} pixels, got {width} x "
      f"{height} in {name}"
    )
  with _readable(name):
    num_frames = getattr(picture, "n_frames", 1)
  # Phones add a depth or brightness map to a photograph: format MPO.
  if num_frames > 1 and picture.format != "MPO":
    raise ValueError(
      f"a picture must be still, got {num_frames} frames in {name}"
    )
  if picture.mode == "F":
    raise ValueError(f"pixels must be integers, got floats in {name}")
  with _readable(name):
    return _flatten(PIL.ImageOps.exif_transpose(picture))


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
  """Turn the errors of damaged data, which are of many kinds, into one."""
  try:
    yield
  except Exception as error:
    raise ValueError(
      f"a picture must be complete and convertible to RGB, got {name}: {error}"
    ) from error


def _flatten(picture: PIL.Image.Image) -> PIL.Image.Image:
  """Return the picture as RGB, transparent parts white."""
  if picture.mode.startswith("I"):  # 16-bit grey, which convert() would clip
    wide = np.asarray(picture).astype(np.float64)
    narrow = np.clip(np.rint(wide / 257), 0, 255).astype(np.uint8)
    return PIL.Image.fromarray(narrow).convert("RGB")
  if picture.has_transparency_data:
    layer = picture.convert("RGBA")
    white = PIL.Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return PIL.Image.alpha_composite(white, layer).convert("RGB")
  return picture.convert("RGB")


def _from_array(array: np.ndarray) -> PIL.Image.Image:
  """Return uint8[H, W], [H, W, 3] or [H, W, 4] as an RGB picture."""
  channels = array.shape[2] if array.ndim == 3 else 1
  fits = array.ndim in (2, 3) and (array.ndim == 2 or channels in (3, 4))
  if array.dtype != np.uint8 or not fits:
    raise ValueError(
      "a picture array must be uint8[H, W, 3], [H, W, 4] or [H, W], got "
      f"{array.dtype}{list(array.shape)}"
    )
  if array.size == 0:
    raise ValueError(f"a picture must have pixels, got {list(array.shape)}")
  picture = PIL.Image.fromarray(np.ascontiguousarray(array))
  return _to_rgb(picture, "array")


def _square(picture: PIL.Image.Image, size: int) -> np.ndarray:
  """Return uint8[size, size, 3]: the central square, anti-aliased."""
  if picture.size != (size, size):
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    picture = picture.resize(
      (size, size),
      PIL.Image.Resampling.BICUBIC,
      box=(left, top, left + side, top + side),
    )
  return np.array(picture, np.uint8)
