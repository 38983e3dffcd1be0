"""Edit a picture, or make one from words, and show how it came about.

  make demo
  IMAGE=picture.png PROMPT="add a big red star" make demo
  IMAGE=none PROMPT="draw three blue circles" make demo

or, with every choice at hand (--help lists them), also for a published model:

  python -m experiments.sample --model=micro --image=none \
    --prompt="draw two big blue circles" --seed=3 --output=DIR
  python -m experiments.sample --model=FOLDER --variant=parallel_a \
    --image=photo.jpg --prompt="make the sky red" --output=DIR

`IMAGE` and `PROMPT` are read from the environment, so neither a shell nor a
makefile expands them. Without an image a shipped model edits a small scene;
`none` means words alone. Writes denoising.gif and, of what there is: input.png
as the model sees it, output.png, before_after.png and text.txt.
"""

import itertools
import math
import os
import shutil
import sys
import time
import unicodedata

import numpy as np
from absl import app
from absl import flags
from absl import logging
from etils import epath

from experiments import asked as asked_lib
from paradiff import display
from paradiff import flow
from paradiff import outputs as outputs_lib
from paradiff import pipeline as pipeline_lib
from paradiff.data import images
from paradiff.diffusion import sampler
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
_MAX_CANVASES = 64
_GIF_MS = 6000  # how long a GIF runs at most before it rests
_FRAME_MS = 140
_FILES = ("input.png", "output.png", "before_after.png", "text.txt")
PROMPT = "add a small orange square at a2"


def request(
  image: str | None, prompt: str | None, *, has_demo: bool = True
) -> tuple[str, images.Source | None]:
  """Return instruction and picture, with the demonstration's for what lacks.

  Args:
    image: where the picture is; "none" for words alone.
    prompt: the instruction.
    has_demo: whether the model knows the demonstration; one that does not
      takes words alone where there is no picture.

  Raises:
    ValueError: if there is a picture but nothing to do with it.
  """
  if not prompt and not has_demo:
    raise ValueError(
      "a published model needs an instruction (--prompt or $PROMPT), got none"
    )
  if image and not prompt:
    raise ValueError(f"a picture needs an instruction, got only {image=}")
  if image == "none" or not (image or has_demo):
    return prompt or PROMPT, None
  return prompt or PROMPT, image or render.render(SCENE)


def run(
  pipeline: pipeline_lib.ParallelPipeline,
  prompt: str,
  picture: images.Source | None,
  *,
  seed: int,
  folder: epath.Path,
  asked: asked_lib.Asked = asked_lib.DEFAULT,
) -> outputs_lib.Canvas:
  """Denoise one request in view of the user and write everything about it.

  Raises:
    ValueError: if the model cannot do what is asked.
  """
  started = time.perf_counter()
  task, config = asked_lib.settle(
    pipeline.variant, asked, has_picture=picture is not None
  )
  request = pipeline.request(
    [prompt],
    [picture],
    task=None if task is None else task.name,
    size=asked.size,
    text_len=asked.text_len,
    config=config,
  )
  source = request.sources[0][0] if request.sources[0] else None
  if source is not None and task is None:
    _warn_of_other_worlds(source)
  num_steps = len(sampler.schedule_of(config, request.layout).step)
  stride = math.ceil(num_steps / _MAX_CANVASES)
  canvases: list[outputs_lib.Canvas] = []
  is_terminal = sys.stderr.isatty()
  told = 0
  for canvas in pipeline.canvases(request, seed=seed, stride=stride):
    canvases.append(canvas)
    line = _progress_line(canvas, time.perf_counter() - started)
    if is_terminal:
      columns = shutil.get_terminal_size().columns - 1
      sys.stderr.write(f"\r\x1b[K{line[: _num_fitting(line, columns)]}")
      sys.stderr.flush()
    elif canvas.step - told >= config.num_steps / 8 or not told:
      print(line, file=sys.stderr)
      told = canvas.step
  if is_terminal:
    sys.stderr.write("\r\x1b[K")
  elif told < canvases[-1].step:
    print(line, file=sys.stderr)
  write(folder, prompt, source, canvases)
  return canvases[-1]


def _warn_of_other_worlds(source: np.ndarray) -> None:
  """Say so if a picture is none of the scenes world's."""
  quality = parse_picture.parse(source).quality
  if quality < _CLEAN_QUALITY:
    print(
      "note: this model has seen nothing but scenes of coloured shapes in "
      f"a 4x4 grid; the picture reads as one with quality {quality:.2f} of 1",
      file=sys.stderr,
    )


def _progress_line(canvas: outputs_lib.Canvas, secs: float) -> str:
  """Say how far a run is."""
  text = flow.text_line(canvas.words, has_own_spaces=canvas.has_own_spaces)
  return f"step {canvas.step:3d}/{canvas.num_steps} {secs:7.1f} s  {text}"


def _num_fitting(line: str, columns: int) -> int:
  """Return how many characters fit into columns; some take two."""
  taken = itertools.accumulate(
    1 + (unicodedata.east_asian_width(c) in "WF") for c in line
  )
  return sum(columns_taken <= columns for columns_taken in taken)


def write(
  folder: epath.Path,
  prompt: str,
  source: np.ndarray | None,
  canvases: list[outputs_lib.Canvas],
) -> None:
  """Write pictures, text and the GIF of a run; nothing of an earlier stays."""
  last = canvases[-1]
  for name in _FILES:
    (folder / name).unlink(missing_ok=True)
  if source is not None:
    images.save_picture(source, folder / "input.png")
  if last.picture is not None:
    images.save_picture(last.picture, folder / "output.png")
  if source is not None and last.picture is not None:
    pair = display.side_by_side(source, last.picture, prompt=prompt)
    images.save_picture(np.asarray(pair), folder / "before_after.png")
  if any(canvas.words for canvas in canvases):
    text = flow.joined(last.words, has_own_spaces=last.has_own_spaces)
    images.write_atomically(
      folder / "text.txt", f"{prompt}\n\n{text}\n".encode()
    )
  frames = display.draw_frames(canvases, prompt=prompt, source=source)
  frame_ms = min(_FRAME_MS, _GIF_MS // len(frames))
  display.save_gif(frames, folder / "denoising.gif", frame_ms=frame_ms)


def define_flags() -> None:
  """Define the flags: late, for modules may share names."""
  asked_lib.define_flags()
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
  started = time.perf_counter()
  folder = epath.Path(flags.FLAGS.output)
  try:
    if len(argv) > 1:
      raise ValueError(f"there must be no further arguments, got {argv[1:]}")
    asked = asked_lib.from_flags()
    prompt, picture = request(
      flags.FLAGS.image or os.environ.get("IMAGE"),
      flags.FLAGS.prompt or os.environ.get("PROMPT"),
      has_demo=not asked.is_published,
    )
    asked_lib.check(asked, has_picture=picture is not None)
    if picture is not None:
      picture = images.open_picture(picture)
    if folder.exists() and not folder.is_dir():
      raise ValueError(f"--output must be a folder, got the file {folder}")
    print(f"Loading {asked.model} ...", file=sys.stderr)
    pipeline = pipeline_lib.ParallelPipeline.from_pretrained(
      asked.model,
      variant=asked.variant,
      image_tokenizer=asked.image_tokenizer,
      tokenizer=asked.tokenizer,
      picture_size=asked.picture_size,
    )
    print("Compiling, then denoising ...", file=sys.stderr)
    last = run(
      pipeline,
      prompt,
      picture,
      seed=flags.FLAGS.seed,
      folder=folder,
      asked=asked,
    )
  except (ValueError, TypeError, OSError) as error:
    sys.exit(f"error: {error}")
  if sys.stdout.isatty() and last.picture is not None:
    print("\n".join(display.terminal_picture(last.picture)))
  secs = time.perf_counter() - started
  print(f"prompt     {prompt}")
  text = flow.text_line(last.words, has_own_spaces=last.has_own_spaces)
  if text:
    print(f"{'answer   ' if last.picture is None else 'reasoning'}  {text}")
  written = [name for name in _FILES if (folder / name).exists()]
  print(f"files      {', '.join([*written, 'denoising.gif'])} in {folder}")
  print(f"{secs:.1f} s in all")


if __name__ == "__main__":
  define_flags()
  app.run(main)
