"""A sweep: the runs that a config file declares, checked, and started.

Beneath `get_config` stands what varies:

  def sweep(add):
    for rate in (1e-3, 2e-3):
      add({"optim.learning_rate": rate})

  SWEEP="python -m launch.sweep --experiment=sft --config=FILE --workdir=ROOT"
  $SWEEP                       check every run and print it
  $SWEEP --local --parallel=2  run them here, two at a time
  $SWEEP --index=3             run one; its workdir is ROOT/003
  $SWEEP --config.seed=1       any of these with a field set in every run

Without --index the number comes from the engine that runs the jobs: Slurm's
SLURM_ARRAY_TASK_ID, SkyPilot's SKYPILOT_JOB_RANK, Kubernetes's
JOB_COMPLETION_INDEX. Every run is re-startable, so the same command again does
what is left.
"""

import importlib.util
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

import ml_collections
from absl import app
from absl import flags
from ml_collections import config_flags

from experiments import clip
from experiments import common
from experiments import rl_config
from experiments import sft_config
from launch import runs as runs_lib

# What a config is built into; that of the tokenizer is checked by its loop.
EXPERIMENTS: Mapping[str, type | None] = {
  "clip": clip.Experiment,
  "rl": rl_config.Experiment,
  "sft": sft_config.Experiment,
  "tokenizer": None,
}
INDEX_VARIABLES = (
  "SLURM_ARRAY_TASK_ID",
  "SKYPILOT_JOB_RANK",
  "JOB_COMPLETION_INDEX",
)
_OVERRIDES = ("--config.", "--noconfig.")


def _load(path: str) -> ModuleType:
  if not os.path.exists(path):
    raise FileNotFoundError(f"config must be a Python file, got {path!r}")
  spec = importlib.util.spec_from_file_location("swept_config", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _parsed(config: str, overrides: Sequence[str]) -> runs_lib.Changes:
  """Return the fields that overrides set, parsed as a run will parse them.

  Raises:
    ValueError: if one is no override, or no field of the config takes it.
  """
  if not overrides:
    return {}
  argv = ["sweep", f"--config={config}", *overrides]
  values = flags.FlagValues()
  try:
    config_flags.DEFINE_config_file(
      "config", lock_config=True, flag_values=values, sys_argv=argv
    )
    rest = values(argv)[1:]
  except (flags.Error, KeyError, AttributeError, TypeError) as error:
    raise ValueError(error.args[0] if error.args else str(error)) from error
  if rest:
    raise ValueError(f"overrides must be --config.x=y, got {rest}")
  return config_flags.get_override_values(values["config"])


def _check_apart(
  fixed: runs_lib.Changes, runs: Sequence[runs_lib.Changes], path: str
) -> None:
  """Refuse overrides of what the sweep itself varies.

  Raises:
    ValueError: naming the fields.
  """
  varied = sorted(set(fixed) & set().union(*runs))
  if varied:
    raise ValueError(
      f"an override must be of a field that the sweep of {path} does not vary, "
      f"got {varied}"
    )


def _checked(
  config: ml_collections.ConfigDict,
  changes: runs_lib.Changes,
  *,
  fixed: runs_lib.Changes,
  experiment: str,
) -> None:
  """Apply the changes as flags would, and build what the loop builds.

  Raises:
    ValueError: if a field is unknown or has another type or range.
  """
  wrong = {
    name: value
    for name, value in changes.items()
    if not isinstance(value, bool | int | float | str)
  }
  if wrong:
    raise ValueError(f"values must be numbers, words or bools, got {wrong}")
  try:
    config.lock().update_from_flattened_dict({**fixed, **changes})
  except (KeyError, AttributeError, TypeError) as error:
    raise ValueError(error.args[0] if error.args else str(error)) from error
  built = EXPERIMENTS[experiment]
  if built is not None:
    common.build(built, config)


def read(
  experiment: str, config: str, workdir: str, overrides: Sequence[str] = ()
) -> runs_lib.Sweep:
  """Read and check the sweep of a config file.

  Args:
    experiment: a name in EXPERIMENTS.
    config: the config file, with `:argument` if it takes one.
    workdir: ROOT.
    overrides: flags `--config.x=y` of every run.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the experiment is unknown, the file declares no runs, or
      one of them is wrong, or an override; naming it.
  """
  if experiment not in EXPERIMENTS:
    raise ValueError(
      f"experiment must be one of {tuple(EXPERIMENTS)}, got {experiment!r}"
    )
  path, _, argument = config.partition(":")
  module = _load(path)
  if not hasattr(module, "sweep"):
    raise ValueError(f"{path} must define sweep(add), got no such function")
  runs: list[runs_lib.Changes] = []
  module.sweep(lambda changes: runs.append(dict(changes)))
  if not runs:
    raise ValueError(f"sweep(add) of {path} must add a run, got none")
  fixed = _parsed(config, overrides)
  _check_apart(fixed, runs, path)
  for index, changes in enumerate(runs):
    made = module.get_config(argument) if argument else module.get_config()
    try:
      _checked(made, changes, fixed=fixed, experiment=experiment)
    except ValueError as error:
      raise ValueError(f"run {index} of {path}, {changes}: {error}") from error
    if changes in runs[:index]:
      raise ValueError(f"runs must differ, got {changes} twice in {path}")
  return runs_lib.Sweep(
    experiment, config, workdir, tuple(runs), tuple(overrides)
  )


def index_of(environment: Mapping[str, str]) -> int | None:
  """Return the number that an engine gives to its job; None without one.

  Raises:
    ValueError: if two engines disagree.
  """
  found = {n: int(environment[n]) for n in INDEX_VARIABLES if n in environment}
  if len(set(found.values())) > 1:
    raise ValueError(f"a job must have one number, got {found}; give --index")
  return next(iter(found.values()), None)


def define_flags() -> None:
  """Define the flags: late, for modules may share names."""
  names = ", ".join(EXPERIMENTS)
  flags.DEFINE_string("experiment", None, f"One of {names}.")
  flags.DEFINE_string("config", None, "The config file, with sweep(add).")
  flags.DEFINE_string("workdir", None, "ROOT: run i writes into ROOT/00i.")
  flags.DEFINE_integer("index", None, "Run this one; default: the engine's.")
  flags.DEFINE_bool("local", False, "Run all of them on this machine.")
  flags.DEFINE_integer("parallel", 1, "How many at a time, with --local.")
  flags.mark_flags_as_required(["experiment", "config", "workdir"])


def parse(argv: Sequence[str]) -> list[str]:
  """Parse all flags but the overrides, which are of the runs; return those."""
  overrides = [word for word in argv if word.startswith(_OVERRIDES)]
  others = [word for word in argv if not word.startswith(_OVERRIDES)]
  return [*app.parse_flags_with_usage(others), *overrides]


def main(argv: Sequence[str]) -> None:
  values = flags.FLAGS
  try:
    sweep = read(values.experiment, values.config, values.workdir, argv[1:])
    index = values.index
    if index is None and not values.local:
      index = index_of(os.environ)
    if index is None and not values.local:
      for number in range(len(sweep.runs)):
        print(f"{number:3}  {shlex.join(sweep.command(number)[1:])}")
      return
    runs_lib.write(sweep)
    if index is not None:
      command = sweep.command(index)
      # In its place, so that signals and exit codes are the run's own.
      os.execv(command[0], command)
    codes = runs_lib.Local(sweep, values.parallel, sys.stderr).run()
  except (ValueError, OSError, IndexError) as error:
    sys.exit(f"error: {error}")
  sys.exit(max((code % 256 for code in codes.values()), default=0))


if __name__ == "__main__":
  define_flags()
  app.run(main, flags_parser=parse)
