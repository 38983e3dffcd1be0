"""A published model from files to a picture and back, at random weights.

  python -m benchmarks.published_format --family=parallel_a --output=NEW

builds a checkpoint in the exact published format (shards, index, config,
tokenizer, image tokenizer), converts it, edits a photograph with the converted
model, writes it as published files again and compares them byte for byte. Each
step is timed. `--layers=32 --width=4096 ...` make it as large as memory allows.
"""

import dataclasses
import filecmp
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app
from absl import flags
from absl import logging

from paradiff import pipeline as pipeline_lib
from paradiff.convert import model as model_lib
from paradiff.convert import publish
from paradiff.convert import storage
from paradiff.convert import synthetic
from paradiff.data import images
from paradiff.diffusion import settings
from paradiff.models import image_tokenizer

_FLAT: dict[str, Any] = {
  "encoder_blocks": (1,) * 5,
  "decoder_blocks": (2,) * 5,
}
# As the published ones, five levels and 16 pixels a code, of few channels.
NARROW = {
  "amused": dataclasses.replace(
    image_tokenizer.AMUSED,
    base_channels=32,
    encoder_multipliers=(1, 1, 1, 1, 2),
    decoder_multipliers=(1, 1, 1, 1, 2),
    num_codes=64,
    latent_channels=8,
    **_FLAT,
  ),
  "magvitv2": dataclasses.replace(
    image_tokenizer.MAGVITV2,
    picture_size=512,
    code_bits=6,
    base_channels=32,
    encoder_multipliers=(1, 1, 1, 1, 2),
    decoder_multipliers=(1, 1, 1, 1, 2),
    **_FLAT,
  ),
}
_KINDS = {
  "parallel_a": "amused",
  "lumina_dimoo": "amused",
  "parallel_m": "magvitv2",
  "mmada": "magvitv2",
}


@dataclasses.dataclass(frozen=True)
class Report:
  """What a run found.

  Attributes:
    text: the reasoning.
    picture: uint8[H, W, 3], the output.
    num_params: parameters of both networks.
    differing: exported files that differ from the source's, by name.
    num_files: files compared.
    secs: seconds of each step, by its name.
  """

  text: str
  picture: np.ndarray
  num_params: int
  differing: tuple[str, ...]
  num_files: int
  secs: dict[str, float]


def sizes(family: str, **changes: Any) -> synthetic.Sizes:
  """Return small sizes of a synthetic checkpoint, or those in `changes`."""
  return synthetic.Sizes(image_tokenizer=NARROW[_KINDS[family]], **changes)


def run(
  folder: pathlib.Path,
  *,
  family: str,
  sizes: synthetic.Sizes,
  picture: images.Source,
  prompt: str,
  picture_size: int | None = None,
  text_len: int | None = None,
  change: Callable[
    [settings.SamplerConfig], settings.SamplerConfig
  ] = lambda config: config,
) -> Report:
  """Build, convert, edit, export, compare.

  Args:
    folder: new; gets `published`, `converted` and `exported`.
    family: one of those with pictures in `published.VARIANTS`.
    sizes: of the checkpoint.
    picture: the photograph.
    prompt: what to do with it.
    picture_size: side of the square whose area pictures have.
    text_len: tokens of the reasoning.
    change: applied to the model's sampler settings.
  """
  secs: dict[str, float] = {}
  clock = time.perf_counter()

  def lap(name: str) -> None:
    nonlocal clock
    now = time.perf_counter()
    secs[name], clock = now - clock, now

  source, converted = folder / "published", folder / "converted"
  synthetic.build(source, family, sizes=sizes)
  lap("build")
  inside = source / "image_tokenizer"
  model = model_lib.read(
    source, family, image_tokenizer=inside if inside.is_dir() else None
  )
  num_params, _ = model_lib.num_params(model)
  storage.save(converted, model)
  del model
  lap("convert")
  pipeline = pipeline_lib.ParallelPipeline.from_pretrained(
    str(converted), picture_size=picture_size
  )
  lap("load")
  task = pipeline.variant.task("edit", "edit_picture")
  output = pipeline.edit(
    prompt,
    picture,
    text_len=text_len,
    config=change(task.sampler or pipeline.variant.sampler),
  )
  lap("edit")
  exported = folder / "exported"
  publish.export(exported, storage.load(converted))
  lap("export")
  names = {
    path.relative_to(root).as_posix()
    for root in (source, exported)
    for path in root.rglob("*")
    if path.is_file()
  }
  differing = [
    name
    for name in sorted(names)
    if not (source / name).is_file()
    or not (exported / name).is_file()
    or not filecmp.cmp(source / name, exported / name, shallow=False)
  ]
  return Report(
    text=output.text,
    picture=output.picture,
    num_params=num_params,
    differing=tuple(differing),
    num_files=len(names),
    secs=secs,
  )


def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)  # Orbax tells of every file
  values = flags.FLAGS
  folder = pathlib.Path(values.output)
  if folder.exists():
    sys.exit(f"error: --output must not exist, got {folder}")
  if values.image:
    picture: images.Source = values.image
  else:
    import skimage.data

    picture = skimage.data.coffee()
  report = run(
    folder,
    family=values.family,
    sizes=sizes(
      values.family,
      width=values.width,
      num_layers=values.layers,
      num_heads=values.heads,
      mlp_width=3 * values.width,
    ),
    picture=picture,
    prompt=values.prompt,
    picture_size=values.picture_size,
  )
  images.save_picture(report.picture, folder / "output.png")
  print(f"{report.num_params:,} parameters")
  for name, secs in report.secs.items():
    print(f"{name:8} {secs:8.1f} s")
  print(f"picture  {report.picture.shape}, {folder / 'output.png'}")
  print(
    f"{report.num_files} exported files, "
    f"{len(report.differing)} differ from the source's"
  )


if __name__ == "__main__":
  flags.DEFINE_enum("family", "parallel_a", sorted(_KINDS), "Which format.")
  flags.DEFINE_string("output", None, "New folder.", required=True)
  flags.DEFINE_string("image", None, "A photograph; default: scikit-image's.")
  flags.DEFINE_string("prompt", "Make the sky red.", "What to do with it.")
  flags.DEFINE_integer("width", 128, "Residual width.")
  flags.DEFINE_integer("layers", 4, "Blocks.")
  flags.DEFINE_integer("heads", 4, "Attention heads.")
  flags.DEFINE_integer("picture_size", 512, "Side of a square of that area.")
  app.run(main)
