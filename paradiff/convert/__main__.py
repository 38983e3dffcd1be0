"""Convert a published checkpoint, or write a converted one as published.

  python -m paradiff.convert --variant=parallel_a --source=DIR --out=NEW
  python -m paradiff.convert --to=safetensors --source=CONVERTED --out=NEW

Parameters pass through host memory unless `--mesh` says where they go. There
must be room for all of them; a model of 8 billion weights in bfloat16 takes
16 GB.
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import app
from absl import flags

from paradiff import checkpoints
from paradiff import sharding
from paradiff.convert import families
from paradiff.convert import folders
from paradiff.convert import model as model_lib
from paradiff.convert import publish
from paradiff.convert import storage

_VARIANT = flags.DEFINE_enum(
  "variant",
  None,
  list(families.FAMILIES),
  "Which family the source is of; a converted folder knows it.",
)
_SOURCE = flags.DEFINE_string(
  "source", None, "Local folder or hf://owner/name.", required=True
)
_OUT = flags.DEFINE_string(
  "out", None, "Folder to write; must not exist or be empty.", required=True
)
_IMAGE_TOKENIZER = flags.DEFINE_string(
  "image_tokenizer",
  None,
  "Folder or hf:// of the image tokenizer, if the source has none inside.",
)
_TOKENIZER = flags.DEFINE_string(
  "tokenizer",
  None,
  "Folder or hf:// of the text tokenizer, if the source has none.",
)
_TO = flags.DEFINE_enum(
  "to",
  "paradiff",
  ["paradiff", "safetensors"],
  "Convert to parameters of ours, or back to published files.",
)
_MESH = flags.DEFINE_list(
  "mesh", None, "Sizes data,fsdp,tensor; default: the host's memory."
)
_QUIET_SECS = 2.0  # before progress is shown
_BETWEEN_SECS = 0.5


def _progress(
  verb: str, write: Callable[[str], Any]
) -> Callable[[int, int], None]:
  """Return a callback that tells how far a slow conversion is."""
  start = last = time.monotonic()

  def report(done: int, total: int) -> None:
    nonlocal last
    now = time.monotonic()
    if now - start < _QUIET_SECS or (
      now - last < _BETWEEN_SECS and done < total
    ):
      return
    last = now
    gigabytes = f"{done / 1e9:.1f} of {total / 1e9:.1f} GB"
    write(f"\r{verb} {gigabytes} ({done / max(total, 1):.0%})")
    if done >= total:
      write("\n")

  return report


def _mesh(sizes: Sequence[str] | None) -> jax.sharding.Mesh | None:
  if not sizes:
    return None
  if len(sizes) != 3 or not all(size.isdigit() for size in sizes):
    raise ValueError(f"mesh must be data,fsdp,tensor, got {','.join(sizes)}")
  data, fsdp, tensor = map(int, sizes)
  return sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor)


def report(model: model_lib.Model, out: str, seconds: float) -> str:
  """Return what a user wants to know about a finished conversion."""
  num_params, num_bytes = model_lib.num_params(model)
  leaves = checkpoints.flatten(
    {"transformer": model.params, "image_tokenizer": model.image_params or {}}
  ).values()
  dtypes = sorted({np.dtype(leaf.dtype).name for leaf in leaves})
  origin = model.origin
  lines = [
    f"{model.facts.family} -> {out}",
    f"  parameters  {num_params:,}",
    f"  bytes       {num_bytes:,}",
    f"  dtype       {', '.join(dtypes)}",
    f"  seconds     {seconds:.1f}",
    "  unmatched   none",
    "  unfilled    none",
  ]
  if origin is not None:
    ignored = ", ".join(sorted(origin.ignored)) or "none"
    lines.append(f"  ignored     {ignored}")
    lines.append(f"  left out    {', '.join(origin.left_out) or 'none'}")
  return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> None:
  """Convert as the flags say."""
  if len(argv) > 1:
    raise app.UsageError(f"arguments must be flags, got {argv[1:]}")
  if not flags.FLAGS["verbosity"].present:
    # Warnings only: Orbax tells of every file.
    flags.FLAGS["verbosity"].value = -1
  if _MESH.value is None:
    jax.config.update("jax_platforms", "cpu")
  start = time.monotonic()
  try:
    folders.check_new(_OUT.value)
    mesh = _mesh(_MESH.value)
    is_converted = storage.is_converted(_SOURCE.value)
    if is_converted != (_TO.value == "safetensors"):
      raise ValueError(
        "source must be a converted folder with --to=safetensors and a "
        f"published one without, got {_SOURCE.value}, which is "
        + ("converted" if is_converted else "not converted")
      )
    if _TO.value == "safetensors":
      model = storage.load(_SOURCE.value, mesh=mesh)
      publish.export(
        _OUT.value, model, on_tensor=_progress("wrote", sys.stderr.write)
      )
    else:
      if _VARIANT.value is None:
        raise ValueError(f"variant must be in {list(families.FAMILIES)}")
      model = model_lib.read(
        _SOURCE.value,
        _VARIANT.value,
        image_tokenizer=_IMAGE_TOKENIZER.value,
        tokenizer=_TOKENIZER.value,
        mesh=mesh,
        on_tensor=_progress("read", sys.stderr.write),
      )
      if time.monotonic() - start > _QUIET_SECS:
        sys.stderr.write(f"writing {_OUT.value}\n")
      storage.save(_OUT.value, model)
  except (OSError, ValueError) as error:
    sys.stderr.write(f"error: {error}\n")
    sys.exit(1)
  sys.stdout.write(report(model, _OUT.value, time.monotonic() - start))


if __name__ == "__main__":
  app.run(main)
