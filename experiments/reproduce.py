"""The paper's claims in miniature: train, decode, score, and write a report.

  python -m experiments.reproduce --workdir=DIR

Part a trains and decodes in parallel and in sequence (tables 3 and 10), part b
reinforces along the trajectory and its end alone (table 4); --parts adds c, the
units of credit (table 5), d, the weights of the loss (table 9), e, thinking and
not thinking (table 1), f, a CLIP as the reward, which --clip names, g, what
else brings text and picture together, and h, part b decoded with more steps.
DIR/report.html is the result, and DIR/report.md its tables. The same command
goes on where it was killed.

--scale=reduced takes four minutes on two CPU cores; its models have learned
next to nothing, so it shows the way, not the result.

Source: arXiv 2511.09611 sections 4.2 to 4.4.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import TextIO

from absl import app
from absl import flags
from absl import logging
from etils import epath

from experiments import clip_stats
from experiments import common
from experiments import curves
from experiments import reproduce_parts as parts_lib
from experiments import reproduce_prompts as prompts_lib
from experiments import reproduce_report as report_lib
from experiments import reproduce_runs as runs
from experiments import reproduce_stages as stages
from experiments import rewards as rewards_lib
from experiments import rl_config
from experiments import sft_config

CLIP_PART = "f"
_NUMBERS = (
  "num_seeds",
  "sft_steps",
  "rl_iterations",
  "num_prompts",
  "decode_steps",
)


def make_scale(name: str, **numbers: int | None) -> runs.Scale:
  """Return a scale by name, with the numbers that are not None.

  Raises:
    ValueError: if there is no such scale, or a number is too small.
  """
  if name not in runs.SCALES:
    raise ValueError(f"scale must be one of {tuple(runs.SCALES)}, got {name!r}")
  given = {key: value for key, value in numbers.items() if value is not None}
  return dataclasses.replace(runs.SCALES[name], **given)


def check(run: stages.Run, letters: Sequence[str]) -> None:
  """Refuse all that can be wrong before anything is spent.

  Raises:
    ValueError: if a part is unknown or a config is wrong.
    FileNotFoundError: if the CLIP is missing.
    ImportError: if matplotlib is missing.
  """
  unknown = [letter for letter in letters if letter not in parts_lib.PARTS]
  if unknown or not letters:
    raise ValueError(
      f"parts must be of {tuple(parts_lib.PARTS)}, got {list(letters)}"
    )
  curves.require()
  if CLIP_PART in letters:
    check_clip(run)
  for letter in letters:
    part = parts_lib.PARTS[letter]
    for model, seed, _ in stages.jobs(part, run.scale):
      if model != runs.SHIPPED:
        is_sft = runs.TRAININGS[model].kind == "sft"
        experiment = sft_config.Experiment if is_sft else rl_config.Experiment
        common.build(experiment, run.config(model, seed))


def check_clip(run: stages.Run) -> None:
  """Refuse a CLIP that cannot reward.

  Raises:
    ValueError: if there is none, or no statistics of its scores.
    FileNotFoundError: if its files are missing.
  """
  if run.clip is None:
    raise ValueError(
      f"part {CLIP_PART} must be given --clip, a folder with a CLIP that "
      "experiments.clip has trained, got none"
    )
  if not (epath.Path(run.clip) / clip_stats.FILE_NAME).exists():
    raise FileNotFoundError(
      f"{run.clip} must hold {clip_stats.FILE_NAME}, which `python -m "
      "experiments.clip_stats` writes, got none"
    )
  rewards_lib.build(run.config("rl_clip", 0).rewards)


def done(run: stages.Run, letters: Sequence[str]) -> tuple[str, ...]:
  """Return the parts to report: all that are done, now or by a run before.

  That of the CLIP only if it is asked for: without it, it cannot be checked.
  """
  return tuple(
    letter
    for letter, part in parts_lib.PARTS.items()
    if stages.is_done(run, part) and (letter != CLIP_PART or letter in letters)
  )


def reproduce(
  workdir: epath.PathLike,
  *,
  scale: runs.Scale,
  letters: Sequence[str],
  clip: str | None = None,
  work: stages.Work = stages.WORK,
  stream: TextIO = sys.stderr,
) -> epath.Path:
  """Do what is not done yet and write the report; return its path.

  Args:
    workdir: everything that is written.
    scale: how much is spent.
    letters: parts, done in this order; after each the report is written, of
      all parts that are done.
    clip: folder of a CLIP, for part f.
    work: what trains and answers.
    stream: where progress is shown.

  Raises:
    ValueError: if the input is wrong or the workdir is of another run.
    FileNotFoundError: if the CLIP is missing.
    ImportError: if matplotlib is missing.
    common.NonFinite: if a loss or a gradient is not finite.
  """
  root, letters = epath.Path(workdir), tuple(dict.fromkeys(letters))
  run = stages.Run(
    root=root,
    scale=scale,
    examples=prompts_lib.held_out(scale.num_prompts),
    stream=stream,
    clip=clip,
    work=work,
  )
  check(run, letters)
  root.mkdir(parents=True, exist_ok=True)
  for number, letter in enumerate(letters, start=1):
    title = parts_lib.PARTS[letter].title
    stream.write(f"part {letter}, {number} of {len(letters)}: {title}\n")
    stages.do_part(run, parts_lib.PARTS[letter])
    report_lib.write(run, done(run, letters))
  return root / "report.html"


def define_flags() -> None:
  """Define the flags: late, for modules may share names."""
  flags.DEFINE_string("workdir", None, "Everything that is written.")
  flags.DEFINE_string("scale", "full", f"One of {', '.join(runs.SCALES)}.")
  flags.DEFINE_list("parts", ["a", "b"], f"Of {', '.join(parts_lib.PARTS)}.")
  flags.DEFINE_string("clip", None, "Folder of the CLIP of part f.")
  for name in _NUMBERS:
    about = name.replace("_", " ")
    flags.DEFINE_integer(name, None, f"Overrides the scale's {about}.")
  flags.mark_flag_as_required("workdir")


def main(argv: list[str]) -> None:
  logging.set_verbosity(logging.WARNING)  # Orbax tells every file it writes
  if len(argv) > 1:
    raise app.UsageError(f"there must be no further arguments, got {argv[1:]}")
  values = flags.FLAGS
  try:
    numbers = {name: getattr(values, name) for name in _NUMBERS}
    path = reproduce(
      values.workdir,
      scale=make_scale(values.scale, **numbers),
      letters=values.parts,
      clip=values.clip,
    )
  except (
    ValueError,
    FileNotFoundError,
    ImportError,
    common.NonFinite,
  ) as error:
    sys.exit(f"error: {error}")
  print(path)


if __name__ == "__main__":
  define_flags()
  app.run(main)
