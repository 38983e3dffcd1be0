"""Own data to token rows, once: no encoder runs inside a train step.

  python -m paradiff.data.pretokenize --source=DIR/train.jsonl --out=NEW \
    --image_tokenizer=DIR

A source is JSON lines, JSON, Parquet or Arrow, a folder of such files, or
`hf://datasets/owner/name`, with an input picture, an instruction, a reasoning
and an output picture a record (see `records` for their names); also the output
of the published pre-tokenizer, or `scenes`. A record that cannot be used is
left out and told of in `skipped.jsonl`. The same command goes on where it was
stopped; several may share the work, each with its --worker of --num_workers.
"""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import PIL.Image
from absl import app
from absl import flags
from etils import epath

from paradiff import sharding
from paradiff import shipped
from paradiff.data import caching
from paradiff.data import coding
from paradiff.data import encoding
from paradiff.data import pipeline as pipeline_lib
from paradiff.data import tables
from paradiff.scenes import render
from paradiff.scenes import world

SCENES = "scenes"


def _image(scene: world.Scene) -> PIL.Image.Image:
  return PIL.Image.fromarray(render.render(scene))


def scenes_table(*, size: int, seed: int) -> tables.Table:
  """Return examples of the scenes world as records."""
  examples = pipeline_lib.ScenesSource(seed=seed, size=size)

  def get(index: int) -> Mapping[str, Any]:
    example = examples[index]
    source = example.source and _image(example.source)
    return {
      "id": str(index),
      "input_image": source,
      "instruction": example.prompt,
      "reasoning": example.reasoning,
      "output_image": _image(example.target),
    }

  # A change to the world itself shows in its first examples.
  first = [repr(examples[i]) for i in range(min(100, size))]
  digest = caching.digest(size, seed, first)
  return tables.Table(epath.Path("."), size, digest, get)


def make_job(
  *,
  source: str,
  out: str,
  image_tokenizer: str,
  options: Mapping[str, Any],
  scenes: tuple[int, int] = (1_000, 0),
  batch_size: int = 64,
  num_threads: int = 4,
) -> coding.Job:
  """Open everything that a job needs.

  Args:
    source: see above.
    out: folder to fill.
    image_tokenizer: a shipped model or a folder with one.
    options: of `coding.Options`, without `picture_size` for the tokenizer's.
    scenes: how many examples of the scenes world, and their seed.
    batch_size: pictures that are encoded at once; rounded up to a multiple of
      the devices.
    num_threads: that read and cut pictures.

  Raises:
    FileNotFoundError: if the source or the tokenizer is not there.
    ValueError: if one of them is damaged or an option is wrong.
  """
  config, params = encoding.load_tokenizer(image_tokenizer)
  chosen = coding.Options(**{"picture_size": config.picture_size, **options})
  wrong = [
    size for size in chosen.sizes if any(s % config.factor for s in size)
  ]
  if wrong:
    raise ValueError(
      f"sides of pictures must be multiples of {config.factor}, got {wrong[0]}"
    )
  size, seed = scenes
  table = (
    scenes_table(size=size, seed=seed)
    if source == SCENES
    else tables.open_table(source, split=chosen.split)
  )
  num_devices = len(jax.local_devices())
  return coding.Job(
    out=epath.Path(out),
    table=table,
    options=chosen,
    encode=encoding.make_encode(
      config,
      params,
      mesh=sharding.make_mesh(data=num_devices, devices=jax.local_devices()),
    ),
    codebook_size=config.codebook_size,
    identity=dict(
      source=source,
      records=table.digest,
      num_records=table.length,
      options=dataclasses.asdict(chosen),
      image_tokenizer=caching.digest(jax.device_get(params)),
      codebook_size=config.codebook_size,
      factor=config.factor,
    ),
    batch_size=-(-batch_size // num_devices) * num_devices,
    num_threads=num_threads,
  )


def define_flags() -> None:
  """Define the flags: late, for modules may share names."""
  text, number = flags.DEFINE_string, flags.DEFINE_integer
  text("source", None, "The records; see above.", required=True)
  text("out", None, "Folder to fill; re-startable.", required=True)
  text(
    "image_tokenizer",
    None,
    f"One of {', '.join(shipped.SHIPPED)}, or a folder with one.",
    required=True,
  )
  number("picture_size", None, "Side in pixels; default: the tokenizer's.")
  flags.DEFINE_enum("fit", "square", coding.FITS, "How pictures are cut.")
  flags.DEFINE_bool("random_crop", False, "Cut anywhere, not the centre.")
  flags.DEFINE_list(
    "fields", [], "Names of a record's parts: target=after,source=before."
  )
  text("split", "train", "What the dataset calls these examples.")
  number("shard_size", 512, "Records of a shard.")
  number("code_offset", 126_356, "Of published records: token of code 0.")
  number("seed", 0, "Of random crops, and of the scenes.")
  number("size", 1_000, f"Examples of --source={SCENES}.")
  number("batch_size", 64, "Pictures encoded at once.")
  number("num_threads", os.cpu_count() or 1, "That read and cut pictures.")
  number("worker", 0, "Which of the workers this is.")
  number("num_workers", 1, "That share the job.")


def parse_fields(pairs: Sequence[str]) -> dict[str, str]:
  """Read `part=name` pairs.

  Raises:
    ValueError: if one is not such a pair.
  """
  split = [pair.partition("=") for pair in pairs]
  wrong = [pair for pair in split if not all(pair)]
  if wrong:
    raise ValueError(f"fields must read part=name, got {''.join(wrong[0])!r}")
  return {part: name for part, _, name in split}


def main(argv: Sequence[str]) -> None:
  """Do as the flags say."""
  if len(argv) > 1:
    raise app.UsageError(f"arguments must be flags, got {argv[1:]}")
  values = flags.FLAGS
  if not values["verbosity"].present:
    values["verbosity"].value = -1  # warnings only: tfds tells of every file
  names = ("fit", "random_crop", "split", "shard_size", "code_offset", "seed")
  try:
    options = {name: getattr(values, name) for name in names}
    options["fields"] = parse_fields(values.fields)
    if values.picture_size is not None:
      options["picture_size"] = values.picture_size
    job = make_job(
      source=values.source,
      out=values.out,
      image_tokenizer=values.image_tokenizer,
      options=options,
      scenes=(values.size, values.seed),
      batch_size=values.batch_size,
      num_threads=values.num_threads,
    )
    reports = coding.run(
      job,
      worker=values.worker,
      num_workers=values.num_workers,
      stream=sys.stderr,
    )
  except (ValueError, OSError) as error:
    sys.exit(f"error: {error}")
  if reports is None:
    sys.stderr.write("done; other workers are at their shards\n")
    return
  sys.stderr.write("\n".join(coding.summary(reports)) + "\n")
  sys.stdout.write(f"{values.out}\n")


if __name__ == "__main__":
  define_flags()
  app.run(main)
