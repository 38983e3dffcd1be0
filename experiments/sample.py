"""Edit a picture, or make one from words, and show how it came about.

  make demo
  IMAGE=picture.png PROMPT="add a big red star" make demo
  IMAGE=none PROMPT="draw three blue circles" make demo

or, with every choice at hand:

  python -m experiments.sample --model=micro --image=none \
    --prompt="draw two big blue circles" --seed=3 --output=DIR

`IMAGE` and `PROMPT` are read from the environment, so neither a shell nor a
makefile expands them. Without an image a small scene is edited; `none` makes
the picture from words alone. Writes input.png, output.png, before_after.png,
text.txt and denoising.gif.
"""

import os
import shutil
import sys
import time

import numpy as np
from absl import app
from absl import flags
from absl import logging
from etils import epath

from paradiff import display
from paradiff import outputs as outputs_lib
from paradiff import pipeline as pipeline_lib
from paradiff.data import images
from paradiff.scenes import parse_picture
from paradiff.scenes import render
from paradiff.scenes import world

# A task that the model gets right; its card says how often it does.
SCENE = world.Scene(
  (
    world.Thing(0, "big", "blue", "triangle"),
    world.Thing(1, "big", "yellow", "star"),
    world.Thing(7, "big", "yellow", "triangle"),
    world.Thing(9, "big", "blue", "circle"),
    world.Thing(14, "big", "red", "circle"),
  )
)
_CLEAN_QUALITY = 0.8
_PICTURES_OF_EDITS = ("input.png", "before_after.png")
PROMPT = "add a small orange square at a2"


def request(
  image: str | None, prompt: str | None
) -> tuple[str, images.Source | None]:
  """Return instruction and picture, with the demonstration's for what lacks.

  Raises:
    ValueError: if there is a picture but nothing to do with it.
  """
  if image and not prompt:
    raise ValueError(f"a picture needs an instruction, got only {image=}")
  picture: images.Source | None = image or render.render(SCENE)
  return prompt or PROMPT, None if image == "none" else picture


def run(
  pipeline: pipeline_lib.ParallelPipeline,
  prompt: str,
  picture: images.Source | None,
  *,
  seed: int,
  folder: epath.Path,
) -> outputs_lib.Canvas:
  """Denoise one request in view of the user and write everything about it."""
  size = pipeline.variant.pictures.picture_size
  source = None
  if picture is not None:
    source = images.load_picture(picture, size=size)
    quality = parse_picture.parse(source).quality
    if quality < _CLEAN_QUALITY:
      print(
        "note: this model has seen nothing but scenes of coloured shapes in "
        f"a 4x4 grid; the picture reads as one with quality {quality:.2f} of 1",
        file=sys.stderr,
      )
  canvases: list[outputs_lib.Canvas] = []
  is_terminal = sys.stderr.isatty()
  for canvas in pipeline.stream(prompt, source, seed=seed):
    canvases.append(canvas)
    done = f"step {canvas.step:3d}/{canvas.num_steps}"
    if is_terminal:
      width = shutil.get_terminal_size().columns
      line = f"{done}  {display.text_line(canvas.words)}"
      sys.stderr.write(f"\r\x1b[K{line[: width - 1]}")
      sys.stderr.flush()
    elif canvas.step % 8 == 0 or canvas.step == canvas.num_steps:
      print(f"{done}  {display.text_line(canvas.words)}", file=sys.stderr)
  if is_terminal:
    sys.stderr.write("\r\x1b[K")
  write(folder, prompt, source, canvases)
  return canvases[-1]


def write(
  folder: epath.Path,
  prompt: str,
  source: np.ndarray | None,
  canvases: list[outputs_lib.Canvas],
) -> None:
  """Write pictures, text and the GIF of a run; nothing of an earlier stays."""
  last = canvases[-1]
  for name in _PICTURES_OF_EDITS:
    (folder / name).unlink(missing_ok=True)
  images.save_picture(last.picture, folder / "output.png")
  if source is not None:
    images.save_picture(source, folder / "input.png")
    pair = display.side_by_side(source, last.picture, prompt=prompt)
    images.save_picture(np.asarray(pair), folder / "before_after.png")
  text = f"{prompt}\n\n{display.text_line(last.words)}\n"
  images.write_atomically(folder / "text.txt", text.encode())
  frames = display.draw_frames(canvases, prompt=prompt, source=source)
  display.save_gif(frames, folder / "denoising.gif")


def define_flags() -> None:
  """Define the flags: late, for modules may share names."""
  flags.DEFINE_string("model", "tiny", "A shipped model, or a folder with one.")
  flags.DEFINE_string(
    "image",
    None,
    'Picture to edit, "none" for words alone; default: $IMAGE, else a scene.',
  )
  flags.DEFINE_string(
    "prompt", None, "What to do; default: $PROMPT, else a demonstration."
  )
  flags.DEFINE_integer("seed", 0, "Seed of the sampler.")
  flags.DEFINE_string("output", "demo_output", "Folder to write to.")


def main(argv: list[str]) -> None:
  logging.set_verbosity(logging.WARNING)  # jax tells of devices it lacks
  if len(argv) > 1:
    raise app.UsageError(f"there must be no further arguments, got {argv[1:]}")
  started = time.perf_counter()
  try:
    prompt, picture = request(
      flags.FLAGS.image or os.environ.get("IMAGE"),
      flags.FLAGS.prompt or os.environ.get("PROMPT"),
    )
    print(f"Loading {flags.FLAGS.model} ...", file=sys.stderr)
    pipeline = pipeline_lib.ParallelPipeline.from_pretrained(flags.FLAGS.model)
    print("Compiling, then denoising ...", file=sys.stderr)
    folder = epath.Path(flags.FLAGS.output)
    last = run(pipeline, prompt, picture, seed=flags.FLAGS.seed, folder=folder)
  except (ValueError, TypeError, FileNotFoundError) as error:
    sys.exit(f"error: {error}")
  if sys.stdout.isatty():
    print("\n".join(display.terminal_picture(last.picture)))
  secs = time.perf_counter() - started
  print(f"prompt     {prompt}")
  print(f"reasoning  {display.text_line(last.words)}")
  shown = "output.png" if picture is None else "before_after.png"
  print(f"pictures   {folder / shown}, {folder / 'denoising.gif'}")
  print(f"{secs:.1f} s in all")


if __name__ == "__main__":
  define_flags()
  app.run(main)
