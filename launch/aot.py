"""Compile a config's programs for TPUs on a machine that has none.

  python -m launch.aot --experiment=sft --variant=parallel_a \
    --config=experiments/configs/sft_parallel_a.py --topology=v5e:4x4 \
    [--meshes=1x16x1,1x8x2] [--config.batch_size=32] [--output=FILE.json]

The real TPU compiler runs, so what does not fit into a chip's memory is known
before it is paid for. Needs libtpu (`pip install 'paradiff[tpu]'`) and minutes
for each program of an 8B model. For `--experiment=sft` the train step and the
sampler, for `rl` the step that scores and learns.

Printed for each: memory of a chip, what the chips send each other, and the
least time of a step: the longest of its arithmetic, its memory traffic and its
messages, each at the chip's best rate. No program reaches that; MFU is the
share of the chips' arithmetic that the results need, if one did.
"""

import dataclasses
import json
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

from launch import chips
from launch import hlo
from launch import programs as programs_lib
from paradiff import sharding
from paradiff.models import counts

_COLUMNS = (
  "program",
  "mesh",
  "rows",
  "arguments",
  "temporary",
  "free",
  "sent",
  "arithmetic",
  "memory",
  "messages",
  "MFU at most",
)


@dataclasses.dataclass(frozen=True)
class Report:
  """What one program needs of each chip.

  Attributes:
    program: what it does.
    mesh: data x fsdp x tensor.
    rows: of a batch.
    error: why it does not compile; None if it does.
    argument_bytes: of state and batch.
    temporary_bytes: of what stands in memory besides.
    hbm_bytes: that the chip has.
    traffic: count and bytes of what is sent, by kind.
    model_secs: least time of the arithmetic that its results need.
    flops_secs: that of all its arithmetic.
    hbm_secs: least time to read and write its state, and to read its weights
      in each pass.
    ici_secs: least time of its messages.
    mfu: share of the arithmetic that the results need, at the longest of the
      three.
    compile_secs: that it took here.
  """

  program: str
  mesh: str
  rows: int
  error: str | None = None
  argument_bytes: int = 0
  temporary_bytes: int = 0
  hbm_bytes: float = 0.0
  traffic: dict[str, hlo.Traffic] = dataclasses.field(default_factory=dict)
  model_secs: float = 0.0
  flops_secs: float = 0.0
  hbm_secs: float = 0.0
  ici_secs: float = 0.0
  mfu: float = 0.0
  compile_secs: float = 0.0

  @property
  def secs(self) -> float:
    """The least time of the program."""
    return max(self.flops_secs, self.hbm_secs, self.ici_secs)


def parse_mesh(text: str) -> tuple[int, int, int]:
  """Return data, fsdp and tensor of a text such as 1x8x2.

  Raises:
    ValueError: if it is no such text.
  """
  parts = text.split("x")
  if len(parts) != 3 or not all(re.fullmatch(r"[1-9]\d*", p) for p in parts):
    raise ValueError(
      f"a mesh must be data x fsdp x tensor, as 1x8x2, got {text!r}"
    )
  data, fsdp, tensor = map(int, parts)
  return data, fsdp, tensor


def compile_one(
  program: Any, *, mesh: Any, name: str, chip: chips.Chip, num_weights: int
) -> Report:
  """Compile one program for a mesh and read what it needs.

  Args:
    program: of `programs.of_config`.
    mesh: where it is to run.
    name: of the mesh.
    chip: of its devices.
    num_weights: of the network.
  """
  started = time.monotonic()
  try:
    with jax.set_mesh(mesh):
      compiled = program.lower().compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return Report(program.name, name, program.rows, error=_shortage(str(error)))
  found = compiled.memory_analysis()
  sent = hlo.traffic(compiled.as_text())
  tensor = mesh.shape["tensor"]
  # Weights that other chips hold are read as they arrive, in bfloat16.
  weight_bytes = 2 * num_weights / tensor
  touched = (
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    + program.num_passes * weight_bytes
  )
  report = Report(
    program=program.name,
    mesh=name,
    rows=program.rows,
    argument_bytes=found.argument_size_in_bytes,
    temporary_bytes=found.temp_size_in_bytes
    + found.output_size_in_bytes
    - found.alias_size_in_bytes,
    hbm_bytes=chip.hbm_bytes,
    traffic=sent,
    model_secs=program.model_flops / mesh.size / chip.flops,
    flops_secs=program.count_flops() / mesh.size / chip.flops,
    hbm_secs=touched / chip.hbm_rate,
    ici_secs=sum(t.num_bytes for t in sent.values()) / chip.ici_rate,
    compile_secs=time.monotonic() - started,
  )
  return dataclasses.replace(report, mfu=report.model_secs / report.secs)


def _shortage(message: str) -> str:
  """Return what the compiler says of the memory that is missing."""
  first = message.partition("\n")[0].removeprefix("RESOURCE_EXHAUSTED: ")
  return first[:200]


def row(report: Report) -> str:
  """Return a report as a row of the table."""
  start = [report.program, report.mesh, str(report.rows)]
  if report.error is not None:
    return f"| {' | '.join(start)} | does not fit: {report.error} |"
  gib = lambda n: f"{n / chips.GIB:.2f}"  # noqa: E731
  used = report.argument_bytes + report.temporary_bytes
  cells = [
    *start,
    gib(report.argument_bytes),
    gib(report.temporary_bytes),
    gib(report.hbm_bytes - used),
    gib(sum(t.num_bytes for t in report.traffic.values())),
    f"{report.flops_secs:.3f}",
    f"{report.hbm_secs:.3f}",
    f"{report.ici_secs:.3f}",
    f"{100 * report.mfu:.0f} %",
  ]
  return f"| {' | '.join(cells)} |"


def kinds(report: Report) -> str:
  """Return what a program sends, by kind."""
  each = [
    f"{kind} {t.count:,} times, {t.num_bytes / chips.GIB:.2f} GiB"
    for kind, t in report.traffic.items()
  ]
  return "; ".join(each) or "nothing"


def define_flags() -> None:
  """Define the flags: late, for modules may share names."""
  config_flags.DEFINE_config_file("config", None, "The config.")
  flags.DEFINE_string("experiment", "sft", "sft or rl.")
  flags.DEFINE_string("variant", None, "The model, as parallel_a.")
  flags.DEFINE_string("topology", None, "Chip and shape, as v5e:4x4.")
  flags.DEFINE_list("meshes", [], "As 1x16x1; default: the config's.")
  flags.DEFINE_list("programs", [], "Of train, sample and learn; default: all.")
  flags.DEFINE_integer("prompt_len", None, "Tokens of a prompt.")
  flags.DEFINE_string("output", None, "A file for the reports as JSON.")
  flags.mark_flags_as_required(["config", "variant", "topology"])


def run(
  config: Any,
  *,
  experiment: str,
  variant: str,
  topology: str,
  meshes: Sequence[str] = (),
  only: Sequence[str] = (),
  prompt_len: int | None = None,
) -> list[Report]:
  """Compile all programs for all meshes, with a line for each.

  Raises:
    ValueError: if a name, a mesh or the config is wrong.
    ImportError: if there is no libtpu.
  """
  chip, devices = chips.chip_of(topology), chips.find_devices(topology)
  own = "x".join(str(config.mesh[axis]) for axis in sharding.AXES)
  reports = []
  for name in meshes or [own]:
    data, fsdp, tensor = parse_mesh(name)
    mesh = sharding.make_mesh(
      data=data, fsdp=fsdp, tensor=tensor, devices=devices
    )
    if mesh.size != len(devices):
      raise ValueError(
        f"a mesh must have all {len(devices)} chips of {topology}, got {name}"
      )
    for program in programs_lib.of_config(
      experiment,
      config,
      variant=variant,
      mesh=mesh,
      only=only,
      prompt_len=prompt_len,
    ):
      sys.stderr.write(f"compiling {program.name} for {topology}, {name}\n")
      reports.append(
        compile_one(
          program,
          mesh=mesh,
          name=name,
          chip=chip,
          num_weights=counts.num_weights(
            programs_lib.VARIANTS[variant].transformer
          ),
        )
      )
      print(row(reports[-1]), flush=True)
      if reports[-1].error is None:
        print(
          f"  sends {kinds(reports[-1])}; compiled in "
          f"{reports[-1].compile_secs:.0f} s",
          flush=True,
        )
  return reports


def main(argv: list[str]) -> None:
  logging.set_verbosity(logging.WARNING)
  if len(argv) > 1:
    raise app.UsageError(f"there must be no further arguments, got {argv[1:]}")
  values = flags.FLAGS
  jax.config.update("jax_platforms", "cpu")  # takes no TPU that is there
  print(f"{values.topology}, {values.variant}: GiB and seconds a chip")
  print(f"| {' | '.join(_COLUMNS)} |\n|{' --- |' * len(_COLUMNS)}", flush=True)
  try:
    reports = run(
      values.config,
      experiment=values.experiment,
      variant=values.variant,
      topology=values.topology,
      meshes=values.meshes,
      only=values.programs,
      prompt_len=values.prompt_len,
    )
  except (ValueError, ImportError) as error:
    sys.exit(f"error: {error}")
  if values.output is not None:
    with open(values.output, "w") as file:
      json.dump([dataclasses.asdict(r) for r in reports], file, indent=1)


if __name__ == "__main__":
  define_flags()
  app.run(main)
