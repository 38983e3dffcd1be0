"""Where the time of a ParaRL iteration goes, beside its arithmetic.

  python -m benchmarks.rl_step [--config=experiments/configs/rl_micro.py]

Times rollout, decoding, reward, scoring and update of one config, and counts
the floating-point operations of rollout and update from shapes. The figure that
matters is (scoring + update) / rollout, in seconds over in operations: 1 means
that learning is as efficient as sampling.
"""

import dataclasses
import io
import statistics
import sys
import tempfile

import jax
import numpy as np
from absl import app
from absl import flags
from absl import logging
from etils import epath
from ml_collections import config_flags

from experiments import common
from experiments import rl
from experiments import rl_setup
from experiments import rl_watch
from paradiff.data import pipeline as data_lib
from paradiff.diffusion import sampler
from paradiff.models import counts as counts_lib
from paradiff.rl import iteration

PHASES = ("rollout", "decode", "reward", "scoring", "update")


@dataclasses.dataclass(frozen=True)
class Counts:
  """Floating-point operations of one iteration.

  Attributes:
    rollout: of all steps of all rollouts.
    update: of all updates: forward, twice that backward, and the anchor's
      forward where there is one.
  """

  rollout: float
  update: float


def count(run: rl_setup.Run) -> Counts:
  """Count an iteration of a run that is set up."""
  settings, layout = run.settings, run.prompts.layout
  vocab, config = run.variant.vocab, run.variant.transformer
  seq_len = layout.prefix_len + layout.answer_len
  schedule = sampler.schedule_of(settings.sampler, layout)
  num_rollouts = run.experiment.num_prompts * settings.group_size
  text = layout.text_len * vocab.text_size
  image = layout.image_len * vocab.codebook_size
  rollout = sum(
    counts_lib.forward_flops(config, seq_len, text + image * bool(is_due))
    for is_due in schedule.image_step
  )
  scored = sum(
    span.capacity * (span.columns[1] - span.columns[0])
    for span in iteration.modalities(settings, run.model)
  )
  passes = 3 + (settings.objective.kl_anchor == "ref")
  rows = num_rollouts * settings.units.num
  return Counts(
    rollout=num_rollouts * rollout,
    update=settings.num_updates
    * rows
    * passes
    * counts_lib.forward_flops(config, seq_len, scored),
  )


def measure(run: rl_setup.Run, *, num: int) -> dict[str, list[float]]:
  """Return the seconds of each phase of `num` iterations after the first."""
  batches = data_lib.Batches(
    run.prompts.rows,
    batch_size=run.experiment.num_prompts,
    seed=0,
    mesh=run.mesh,
  )
  state, guard = run.state, common.Guard()
  secs: dict[str, list[float]] = {name: [] for name in PHASES}
  for number in range(num + 1):
    keys = jax.random.split(jax.random.fold_in(state.key, number))
    batch, clock = next(batches), rl_watch.Clock()
    with jax.set_mesh(run.mesh):
      seen = rl.see(run, state, batch, key=keys[0], clock=clock)
      state, _ = rl.learn(
        run,
        state,
        seen,
        number=number,
        key=keys[1],
        guard=guard,
        clock=clock,
      )
    if number:  # the first compiles
      for name in PHASES:
        secs[name].append(clock.metrics()[f"perf/{name}_secs"])
  batches.close()
  return secs


def table(secs: dict[str, list[float]], counts: Counts) -> str:
  """Return a Markdown table of medians with the lowest and highest."""
  lines = [
    "| phase | median s | lowest | highest | GFLOP |",
    "|---|---|---|---|---|",
  ]
  flops = {"rollout": counts.rollout, "update": counts.update}
  for name, values in secs.items():
    operations = f"{flops[name] / 1e9:.1f}" if name in flops else ""
    lines.append(
      f"| {name} | {statistics.median(values):.3f} | {min(values):.3f} | "
      f"{max(values):.3f} | {operations} |"
    )
  ratios = (np.array(secs["scoring"]) + np.array(secs["update"])) / np.array(
    secs["rollout"]
  )
  share = counts.update / counts.rollout
  excess = ratios / share
  lines.append(
    f"\n(scoring + update) / rollout: {np.median(ratios):.2f} of the time, "
    f"{share:.2f} of the operations: {np.median(excess):.2f} times its share "
    f"[{excess.min():.2f}, {excess.max():.2f}]"
  )
  return "\n".join(lines)


def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)  # jax tells of devices it lacks
  values = flags.FLAGS
  with tempfile.TemporaryDirectory() as folder:
    config = values.config
    with config.unlocked():
      config.data.size = min(config.data.size, 256)
    run = rl_setup.set_up(
      config, folder=epath.Path(folder), stream=io.StringIO()
    )
    print(f"{jax.devices()[0].device_kind}, {jax.device_count()} device(s)")
    print(table(measure(run, num=values.num), count(run)), file=sys.stdout)


if __name__ == "__main__":
  config_flags.DEFINE_config_file(
    "config", "experiments/configs/rl_micro.py", "The config file."
  )
  flags.DEFINE_integer("num", 5, "Iterations after the first.")
  app.run(main)
