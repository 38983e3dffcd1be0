"""Build a data set of true edits from photographs, without a download.

  pip install scikit-image
  python -m experiments.photographs --out=DIR

The photographs are those that scikit-image carries in its wheel. A row is a
window of one, at a random place, zoom and aspect, and the window edited so
that the truth is known to the byte (`photograph_edits`). Written are
DIR/train.jsonl and DIR/held_out.jsonl, a row an edit: id, input_image,
instruction, reasoning, output_image, kind (paths relative to DIR); their
pictures in DIR/pictures and DIR/held_out; and DIR/pairs.png to look at.

Held-out windows are of the cat and of the coffee, which never occur in train.
Windows have the sizes in `SIZES`, so nothing is cut when they are read.

The same packages and flags give the same bytes, and the same command after a
kill goes on.
"""

import collections
import dataclasses
import hashlib
import importlib
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL
import PIL.Image
from absl import app
from absl import flags
from absl import logging
from etils import epath

from experiments import photograph_edits
from paradiff import display
from paradiff import metrics
from paradiff.data import caching
from paradiff.data import crops
from paradiff.data import images

AREA_SIDE = 128
SIZES = crops.sizes(AREA_SIDE, max_aspect=2.0)

# File to share of the windows. Everyday scenes come more often than what fills
# whole windows with one colour or one texture (eye, sky, tissue) or is grey.
TRAIN = {
  "astronaut.png": 3,
  "rocket.jpg": 3,
  "motorcycle_left.png": 2,  # a pair for stereo: one scene
  "motorcycle_right.png": 2,
  "retina.jpg": 1,
  "hubble_deep_field.jpg": 1,
  "ihc.png": 1,
  "camera.png": 1,  # grey, as the next
  "coins.png": 1,
}
HELD_OUT = {"chelsea.png": 1, "coffee.png": 1}
_SPLITS = {"train": (TRAIN, "pictures"), "held_out": (HELD_OUT, "held_out")}

# In levels of 255: what a window and its edit must have to be worth looking at.
_MIN_DEVIATION = 20.0  # of the window's lightness
_MIN_CHANGE = 10.0  # of a byte, on average
_MAX_DRAWS = 1000
_NUM_SHOWN = 10  # edits of a split


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
  """A row to be.

  Attributes:
    id: unique, a file's name too.
    edit: the change.
    instruction: one of the edit's.
    before: uint8[H, W, 3], a window of a photograph.
    after: uint8[H, W, 3], the edited window.
  """

  id: str
  edit: photograph_edits.Edit
  instruction: str
  before: np.ndarray
  after: np.ndarray


def find_folder() -> pathlib.Path:
  """Return the folder of scikit-image's photographs.

  Raises:
    ValueError: if the package is not installed.
  """
  try:
    package = importlib.import_module("skimage")
  except ImportError as error:
    raise ValueError(
      "scikit-image must be installed, for its photographs (pip install "
      f"scikit-image), got {error}"
    ) from error
  return pathlib.Path(str(package.__file__)).parent / "data"


def load_photographs(
  folder: epath.PathLike,
) -> tuple[dict[str, PIL.Image.Image], str]:
  """Read the photographs of both splits, and a hash of their files.

  The files are read, not asked for by `skimage.data`, which would download
  those that it lacks.

  Raises:
    ValueError: if one is not there, unreadable, or too small for a window.
  """
  photographs, digest = {}, hashlib.sha256()
  for name in (*TRAIN, *HELD_OUT):
    path = epath.Path(folder) / name
    if not path.exists():
      raise ValueError(
        "scikit-image must come with its photographs, as its wheels of 0.25 "
        f"and 0.26 do, got none at {path}"
      )
    data = path.read_bytes()
    digest.update(data)
    photographs[name] = images.open_picture(data)
    for size in SIZES:
      if any(np.array(photographs[name].size) < size):
        raise ValueError(
          f"a photograph must hold a window of {size}, got "
          f"{photographs[name].size} in {path}"
        )
  return photographs, digest.hexdigest()


def cut_window(
  photograph: PIL.Image.Image, rng: np.random.Generator
) -> np.ndarray:
  """Return uint8[H, W, 3], a random window of one of `SIZES`.

  The zoom is log-uniform between one pixel a pixel and the largest window
  that the photograph holds; the place is uniform.

  Args:
    photograph: of mode RGB, no side smaller than a window's.
    rng: drawn from four times.
  """
  width, height = SIZES[rng.integers(len(SIZES))]
  largest = min(photograph.width / width, photograph.height / height)
  zoom = largest ** rng.random()
  left = rng.random() * max(photograph.width - width * zoom, 0.0)
  top = rng.random() * max(photograph.height - height * zoom, 0.0)
  right = min(left + width * zoom, photograph.width)
  bottom = min(top + height * zoom, photograph.height)
  window = photograph.resize(
    (width, height), crops.BICUBIC, box=(left, top, right, bottom)
  )
  return np.array(window, np.uint8)


def draw_pair(
  photographs: Mapping[str, PIL.Image.Image],
  *,
  split: str,
  index: int,
  seed: int,
) -> Pair:
  """Draw row `index` of a split; it follows from the arguments alone.

  The kinds take turns. A window is drawn anew, of any photograph, where it
  shows next to nothing or the edit changes next to nothing.

  Args:
    photographs: by name, at least those of the split.
    split: "train" or "held_out".
    index: from 0.
    seed: of the data set.

  Raises:
    ValueError: if no photograph has such a window.
  """
  rng = np.random.default_rng([seed, list(_SPLITS).index(split), index])
  shares, _ = _SPLITS[split]
  names = [name for name, share in shares.items() for _ in range(share)]
  edit = photograph_edits.EDITS[index % len(photograph_edits.EDITS)]
  words = edit.instructions[rng.integers(len(edit.instructions))]
  for _ in range(_MAX_DRAWS):
    name = names[rng.integers(len(names))]
    before = cut_window(photographs[name], rng)
    after = edit.change(before)
    change = np.abs(after.astype(np.int64) - before).mean()
    deviation = photograph_edits.lightness(before).std()
    if deviation >= _MIN_DEVIATION and change >= _MIN_CHANGE:
      stem = name.partition(".")[0]
      return Pair(f"{index:05d}-{stem}-{edit.kind}", edit, words, before, after)
  raise ValueError(
    f"a photograph must have a window that {edit.kind} changes visibly, got "
    f"none in {_MAX_DRAWS} of {', '.join(shares)}"
  )


def paths_of(pair: Pair, folder: str) -> tuple[str, str]:
  """Return the paths of both pictures, relative to the data set."""
  return f"{folder}/{pair.id}-before.png", f"{folder}/{pair.id}-after.png"


def row_of(pair: Pair, folder: str) -> dict[str, str]:
  """Return the row of a pair whose pictures are in the folder."""
  before, after = paths_of(pair, folder)
  return {
    "id": pair.id,
    "input_image": before,
    "instruction": pair.instruction,
    "reasoning": photograph_edits.reasoning(pair.edit, pair.before, pair.after),
    "output_image": after,
    "kind": pair.edit.kind,
  }


def build(
  out: epath.PathLike,
  *,
  photographs: Mapping[str, PIL.Image.Image],
  identity: Mapping[str, Any],
  num_train: int = 4000,
  num_held_out: int = 200,
  seed: int = 0,
) -> dict[str, dict[str, int]]:
  """Write the data set.

  Args:
    out: folder to write to; empty, or of the same build.
    photographs: those of both splits by name, of mode RGB.
    identity: what else the result depends on, for `build.json`.
    num_train: rows to train on, at least 1.
    num_held_out: rows of the photographs that are held out, at least 1.
    seed: of windows and words, at least 0.

  Returns:
    Number of rows by split and kind.

  Raises:
    ValueError: if a number is too small, the folder holds something else, or
      a photograph is missing or shows nothing.
  """
  nums = {"train": num_train, "held_out": num_held_out}
  if min(nums.values()) < 1 or seed < 0:
    raise ValueError(
      "num_train and num_held_out must be positive and seed must not be "
      f"negative, got {num_train=} {num_held_out=} {seed=}"
    )
  missing = {*TRAIN, *HELD_OUT} - {*photographs}
  if missing:
    raise ValueError(f"every photograph must be given, got no {min(missing)}")
  folder = epath.Path(out)
  options = {f"num_{split}": num for split, num in nums.items()}
  caching.claim(folder, {"format": 1, **options, "seed": seed, **identity})
  progress = metrics.Progress(sum(nums.values()), stream=sys.stderr, what="row")
  done, shown, counts = 0, [], {}
  for split, num in nums.items():
    rows = []
    for index in range(num):
      pair = draw_pair(photographs, split=split, index=index, seed=seed)
      rows.append(row_of(pair, _SPLITS[split][1]))
      _save(pair, folder, split)
      shown += [pair] if index < _NUM_SHOWN else []
      done += 1
      progress.update(done)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    images.write_atomically(folder / f"{split}.jsonl", text.encode())
    counts[split] = dict(collections.Counter(row["kind"] for row in rows))
  progress.close()
  images.save_picture(contact_sheet(shown), folder / "pairs.png")
  return counts


def _save(pair: Pair, folder: epath.Path, split: str) -> None:
  """Write the pictures of a pair that are not there yet."""
  paths = paths_of(pair, _SPLITS[split][1])
  for path, picture in zip(paths, (pair.before, pair.after), strict=True):
    if not (folder / path).exists():  # files are whole or not at all
      images.save_picture(picture, folder / path)


def contact_sheet(pairs: list[Pair]) -> np.ndarray:
  """Return uint8[H, W, 3]: every pair with its words, four a row."""
  shown = [p for pair in pairs for p in (pair.before, pair.after)]
  captions = [
    text for pair in pairs for text in (pair.instruction, f"({pair.edit.kind})")
  ]
  return np.asarray(display.grid(shown, captions, columns=8))


def define_flags() -> None:
  """Define the flags: late, for modules may share names."""
  flags.DEFINE_string("out", None, "Folder to write to.", required=True)
  flags.DEFINE_integer("num_train", 4000, "Rows to train on.")
  flags.DEFINE_integer("num_held_out", 200, "Rows of held-out photographs.")
  flags.DEFINE_integer("seed", 0, "Of windows and words.")


def main(argv: list[str]) -> None:
  logging.set_verbosity(logging.WARNING)  # jax tells of devices it lacks
  if len(argv) > 1:
    raise app.UsageError(f"only flags are taken, got {argv[1:]}")
  asked = flags.FLAGS
  try:
    photographs, digest = load_photographs(find_folder())
    counts = build(
      asked.out,
      photographs=photographs,
      identity={"photographs": digest, "pillow": PIL.__version__},
      num_train=asked.num_train,
      num_held_out=asked.num_held_out,
      seed=asked.seed,
    )
  except (ValueError, OSError) as error:
    sys.exit(f"error: {error}")
  for split, kinds in counts.items():
    parts = [f"{kind} {num}" for kind, num in sorted(kinds.items())]
    print(f"{split}: {sum(kinds.values())} rows: {', '.join(parts)}")


if __name__ == "__main__":
  define_flags()
  app.run(main)
