"""Score a model on the scenes benchmark, beside its baselines.

  python -m experiments.benchmark --model=micro --output=DIR

Writes summary.md (the main scores), report.md (every score), scores.json (every
task) and samples.png (input, answer and an allowed target, with the words).
Scores stand with their 95 % intervals, beside copying the input and beside the
same model untrained.
"""

import json
import sys
import time

import numpy as np
from absl import app
from absl import flags
from absl import logging
from etils import epath

from paradiff import display
from paradiff import metrics
from paradiff import outputs as outputs_lib
from paradiff import pipeline as pipeline_lib
from paradiff.data import images
from paradiff.evaluate import scenes as evaluate
from paradiff.scenes import benchmark
from paradiff.scenes import render
from paradiff.scenes import rules
from paradiff.scenes import score

_NUM_SHOWN = 12
_WHOLES = ("edit: unambiguous", "edit: free choice", "generate")


def means(
  tasks: tuple[rules.Example, ...], scores: list[dict[str, float]]
) -> str:
  """Return a Markdown table of the main metrics, one row a group of tasks."""
  shown = (*score.SIX_METRICS, "image_alignment_changed", "solved")
  rows = [["group", "n", *shown], ["---"] * (len(shown) + 2)]
  for group, row in benchmark.summarise(tasks, scores).items():
    cells = [
      f"{row[name].mean:.3f}" if row[name].num else "-" for name in shown
    ]
    rows.append([group, str(row["solved"].num), *cells])
  return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def summary(
  tasks: tuple[rules.Example, ...],
  scores: list[dict[str, float]],
  *,
  untrained: list[dict[str, float]],
  name: str,
) -> str:
  """Return the main scores with their intervals and baselines."""

  def table(metrics: tuple[str, ...], groups: tuple[str, ...]) -> str:
    return benchmark.table(
      tasks,
      scores,
      baselines={"untrained": untrained},
      name=name,
      metrics=metrics,
      only=groups,
    )

  return "\n\n".join(
    [
      "Means, one row a group of tasks:",
      means(tasks, scores),
      "The six metrics, with 95 % bootstrap intervals:",
      table((*score.SIX_METRICS, "solved"), _WHOLES),
      "F1 of what the picture changed; copying the input changes nothing:",
      table(("image_alignment_changed",), rules.CATEGORIES),
    ]
  )


def contact_sheet(
  tasks: tuple[rules.Example, ...], outputs: list[outputs_lib.Output]
) -> np.ndarray:
  """Return a picture of input, answer and target for some of the tasks."""
  picked = np.linspace(0, len(tasks) - 1, _NUM_SHOWN).round().astype(int)
  pictures, captions = [], []
  blank = np.full_like(outputs[0].picture, 255)
  for i in picked:
    task, output = tasks[i], outputs[i]
    source = blank if task.source is None else render.render(task.source)
    pictures += [source, output.picture, render.render(task.target)]
    captions += [task.prompt, output.text, f"({task.reasoning})"]
  return np.asarray(display.grid(pictures, captions, columns=6))


def run(model: str, folder: epath.Path, *, seed: int) -> str:
  """Score a model, write everything about it and return the summary."""
  started = time.perf_counter()
  pipeline = pipeline_lib.ParallelPipeline.from_pretrained(model)
  tasks = benchmark.build()
  progress = metrics.Progress(2 * len(tasks), stream=sys.stderr, what="answers")
  outputs = evaluate.answer(
    pipeline, tasks, seed=seed, on_progress=lambda n, _: progress.update(n)
  )
  scores = evaluate.score_outputs(tasks, outputs)
  blind = evaluate.answer(
    evaluate.untrained(pipeline),
    tasks,
    seed=seed,
    on_progress=lambda n, total: progress.update(total + n),
  )
  progress.close()
  untrained = evaluate.score_outputs(tasks, blind)
  name = pipeline.variant.name
  short = "\n\n".join(
    [
      f"# {name} on the scenes benchmark",
      f"{len(tasks)} held-out tasks, sampler seed {seed}.",
      summary(tasks, scores, untrained=untrained, name=name),
    ]
  )
  whole = benchmark.table(
    tasks, scores, baselines={"untrained": untrained}, name=name
  )
  report = f"{short}\n\nEvery score:\n\n{whole}"
  for file, text in (("summary.md", short), ("report.md", report)):
    images.write_atomically(folder / file, f"{text}\n".encode())
  rows = [
    {"prompt": t.prompt, "text": o.text, "category": t.category, **s}
    for t, o, s in zip(tasks, outputs, scores, strict=True)
  ]
  images.write_atomically(
    folder / "scores.json", json.dumps(rows, indent=1).encode()
  )
  images.save_picture(contact_sheet(tasks, outputs), folder / "samples.png")
  secs = time.perf_counter() - started
  print(f"{secs:.1f} s for twice {len(tasks)} answers", file=sys.stderr)
  return short


def define_flags() -> None:
  """Define the flags: late, for modules may share names."""
  flags.DEFINE_string(
    "model", "micro", "A shipped model, or a folder with one."
  )
  flags.DEFINE_string("output", None, "Folder to write to.")
  flags.DEFINE_integer("seed", 0, "Seed of the sampler.")


def main(argv: list[str]) -> None:
  logging.set_verbosity(logging.WARNING)  # jax tells of devices it lacks
  if len(argv) > 1:
    raise app.UsageError(f"there must be no further arguments, got {argv[1:]}")
  folder = epath.Path(flags.FLAGS.output or f"benchmark_{flags.FLAGS.model}")
  try:
    print(run(flags.FLAGS.model, folder, seed=flags.FLAGS.seed))
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f"error: {error}")


if __name__ == "__main__":
  define_flags()
  app.run(main)
