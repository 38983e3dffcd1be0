"""Build a data set of true edits from the emoji of Unicode.

  pip install emoji; apt-get install fonts-noto-color-emoji
  python -m experiments.emoji --out=DIR [--generation]

Writes DIR/pictures/*.png, every emoji of the font once, 64x64 on white;
DIR/train.jsonl and DIR/held_out.jsonl with a row an edit: id, input_image,
instruction, reasoning, output_image, kind (paths relative to DIR); and
DIR/pairs.png to look at. `--generation` adds pictures from words, whose
input_image is "". What is asked for, say dark skin or another job, is what
Unicode says of the two sequences; nothing is guessed. A base that is held out
(somebody running, of every skin and gender) never occurs in train.

The same packages and flags give the same bytes, and the same command after a
kill goes on. The pictures are Noto's (OFL 1.1), the names Unicode's.
"""

import collections
import hashlib
import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL
from absl import app
from absl import flags
from absl import logging
from etils import epath

from experiments import emoji_choices
from experiments import emoji_font
from experiments import emoji_pairs
from experiments import emoji_texts
from experiments import emoji_world
from paradiff import display
from paradiff import metrics
from paradiff.data import caching
from paradiff.data import images

_FULLY_QUALIFIED = 2  # the status of a sequence as it should be written
_NUM_SHOWN = 18


def load_names() -> tuple[dict[str, str], str]:
  """Return the name of every emoji by sequence, and the package's version.

  Raises:
    ValueError: if the package `emoji` is not installed.
  """
  try:
    package = importlib.import_module("emoji")
  except ImportError as error:
    raise ValueError(
      f"the package emoji must be installed (pip install emoji), got {error}"
    ) from error
  names = {
    text: data["en"]
    for text, data in package.EMOJI_DATA.items()
    if data["status"] == _FULLY_QUALIFIED
  }
  return names, package.__version__


def render_all(
  catalogue: Sequence[emoji_world.Emoji],
  folder: epath.Path,
  *,
  renderer: emoji_font.Renderer,
) -> dict[str, np.ndarray]:
  """Write the picture of every emoji that the font knows; return by code."""
  progress = metrics.Progress(len(catalogue), stream=sys.stderr, what="picture")
  pictures = {}
  for done, emoji in enumerate(catalogue, start=1):
    picture = renderer(emoji.text)
    if picture is not None:
      pictures[emoji.code] = picture
      images.save_picture(picture, folder / path_of(emoji))
    progress.update(done)
  progress.close()
  return pictures


def path_of(emoji: emoji_world.Emoji) -> str:
  """Return the path of an emoji's picture, relative to the data set."""
  return f"pictures/{emoji.code}.png"


def row_of(edit: emoji_pairs.Edit) -> dict[str, str]:
  """Return the row of an edit."""
  return {
    "id": edit.id,
    "input_image": "" if edit.before is None else path_of(edit.before),
    "instruction": emoji_texts.instruction(edit),
    "reasoning": emoji_texts.reasoning(edit),
    "output_image": path_of(edit.after),
    "kind": edit.kind,
  }


def contact_sheet(
  edits: Sequence[emoji_pairs.Edit], pictures: Mapping[str, np.ndarray]
) -> np.ndarray:
  """Return uint8[H, W, 3]: a few edits of every kind, with their words."""
  by_kind: dict[str, list[emoji_pairs.Edit]] = {}
  for edit in edits:
    by_kind.setdefault(edit.kind, []).append(edit)
  # Round robin, so that each kind is there before another comes twice.
  depth = -(-_NUM_SHOWN // max(1, len(by_kind)))
  rounds = [
    kind[i] for i in range(depth) for kind in by_kind.values() if kind[i:]
  ]
  shown: list[np.ndarray] = []
  captions: list[str] = []
  blank = np.full((emoji_font.SIDE, emoji_font.SIDE, 3), 255, np.uint8)
  for edit in rounds[:_NUM_SHOWN]:
    before = blank if edit.before is None else pictures[edit.before.code]
    shown += [before, pictures[edit.after.code]]
    captions += [emoji_texts.instruction(edit), f"({edit.kind})"]
  return np.asarray(display.grid(shown, captions, columns=6))


def build(
  folder: epath.PathLike,
  *,
  names: Mapping[str, str],
  renderer: emoji_font.Renderer,
  identity: Mapping[str, Any],
  max_pairs: int = 2000,
  generation: bool = False,
) -> dict[str, dict[str, int]]:
  """Write the data set.

  Args:
    folder: where to; empty, or of the same build.
    names: name by sequence, as `load_names` gives them.
    renderer: sequence to picture.
    identity: what else the result depends on, for `build.json`.
    max_pairs: bound of every kind in train; held out are a ninth as many.
    generation: also rows without an input picture.

  Returns:
    Number of rows by split and kind.

  Raises:
    ValueError: if the folder holds something else, or there is no edit.
  """
  if max_pairs < 1:
    raise ValueError(f"max_pairs must be positive, got {max_pairs}")
  folder = epath.Path(folder)
  options = {"max_pairs": max_pairs, "generation": generation}
  caching.claim(folder, {"format": 1, **options, **identity})
  catalogue = emoji_world.catalogue(
    names, shared_bases=emoji_choices.SHARED_BASES
  )
  pictures = render_all(catalogue, folder, renderer=renderer)
  drawn = [emoji for emoji in catalogue if emoji.code in pictures]
  edits = [
    edit
    for edit in emoji_pairs.edits(drawn)
    if edit.before is not None  # the font draws some sequences alike
    and np.any(pictures[edit.before.code] != pictures[edit.after.code])
  ]
  if not edits:
    raise ValueError(
      f"the font must draw two emoji of an edit, got {len(drawn)} of "
      f"{len(catalogue)} emoji and no edit"
    )
  if generation:
    edits += emoji_pairs.drawings(drawn)
  chosen = emoji_pairs.select(
    edits, splits=emoji_pairs.splits(drawn), max_pairs=max_pairs
  )
  for split, kept in chosen.items():
    lines = [json.dumps(row_of(edit)) + "\n" for edit in kept]
    images.write_atomically(folder / f"{split}.jsonl", "".join(lines).encode())
  images.save_picture(
    contact_sheet(chosen["train"], pictures), folder / "pairs.png"
  )
  return {
    split: dict(collections.Counter(edit.kind for edit in kept))
    for split, kept in chosen.items()
  }


def define_flags() -> None:
  """Define the flags: late, for modules may share names."""
  flags.DEFINE_string("out", None, "Folder to write to.", required=True)
  flags.DEFINE_string("font", None, "NotoColorEmoji.ttf; default: found.")
  flags.DEFINE_integer("max_pairs", 2000, "Of a kind, in train.")
  flags.DEFINE_bool("generation", False, "Also pictures from words.")


def main(argv: list[str]) -> None:
  logging.set_verbosity(logging.WARNING)  # jax tells of devices it lacks
  if len(argv) > 1:
    raise app.UsageError(f"only flags are taken, got {argv[1:]}")
  asked = flags.FLAGS
  try:
    names, version = load_names()
    font = emoji_font.find_font(asked.font)
    font_hash = hashlib.sha256(epath.Path(font).read_bytes()).hexdigest()
    counts = build(
      asked.out,
      names=names,
      renderer=emoji_font.make_renderer(font),
      identity={
        "font": font_hash,
        "emoji": version,
        "pillow": PIL.__version__,
      },
      max_pairs=asked.max_pairs,
      generation=asked.generation,
    )
  except (ValueError, OSError) as error:
    sys.exit(f"error: {error}")
  for split, kinds in counts.items():
    parts = [f"{kind} {num}" for kind, num in sorted(kinds.items())]
    print(f"{split}: {sum(kinds.values())} rows: {', '.join(parts)}")


if __name__ == "__main__":
  define_flags()
  app.run(main)
