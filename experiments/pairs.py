"""Score a model on own held-out pairs, by distance to the true pictures.

  python -m experiments.pairs --model=DIR/model --source=DATA/held_out.jsonl \
    --output=NEW

Beside the model stand the same model with random weights, the input itself,
and what the image tokenizer alone makes of input and truth: no edit can come
nearer than the last. The folder gets summary.md, scores.json and samples.png.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np
from absl import app
from absl import flags
from absl import logging
from etils import epath

from paradiff import display
from paradiff import metrics
from paradiff import outputs as outputs_lib
from paradiff import pipeline as pipeline_lib
from paradiff import variants
from paradiff.data import coding
from paradiff.data import encoding
from paradiff.data import images
from paradiff.data import pretokenize
from paradiff.data import records
from paradiff.data import tables
from paradiff.evaluate import asking
from paradiff.evaluate import bootstrap
from paradiff.evaluate import pixels
from paradiff.evaluate import scenes as evaluate_lib

MODEL, UNTRAINED, COPY = "model", "untrained", "the input"
CODED_COPY, CODED_TRUTH = "the input, coded", "the truth, coded"
_NUM_SHOWN = 8
_BATCH = 25


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
  """A held-out example with its pictures as the model sees them.

  Attributes:
    instruction: what is asked for.
    reasoning: what the truth says.
    source: uint8[H, W, 3]; None to draw from words.
    target: uint8[H, W, 3], the truth.
  """

  instruction: str
  reasoning: str
  source: np.ndarray | None
  target: np.ndarray


def options_of(
  variant: variants.Variant, fields: Mapping[str, str]
) -> coding.Options:
  """Return how a model's pictures are cut, as for its training."""
  fit = "square"
  if variant.tasks:
    reads = variant.task("edit").reads
    fit = {"crop": "near"}.get(reads, reads)
  return coding.Options(variant.pictures.picture_size, fit=fit, fields=fields)


def read_pairs(
  source: str, options: coding.Options, *, limit: int | None
) -> tuple[list[Pair], int]:
  """Return the pairs that can be used, cut to size, and how many cannot.

  Raises:
    FileNotFoundError: if there is no such source.
    ValueError: if no record of it can be used.
  """
  table = tables.open_table(source)
  pairs: list[Pair] = []
  num_bad = 0
  for index in range(table.length):
    if limit is not None and len(pairs) == limit:
      break
    try:
      found = coding.load(table, options, 0, index)
    except records.BadRecord:
      num_bad += 1
      continue
    if isinstance(found, coding.Draft):  # records of codes have no pictures
      _, instruction, reasoning = found.words
      pairs.append(Pair(instruction, reasoning, found.source, found.target))
    else:
      num_bad += 1
  if not pairs:
    raise ValueError(f"source must have a usable pair, got none in {source}")
  return pairs, num_bad


def through_tokenizer(
  pipeline: pipeline_lib.ParallelPipeline, pictures: Sequence[np.ndarray]
) -> list[np.ndarray]:
  """Return what is left of pictures once they were codes."""
  factor = pipeline.variant.pictures.factor

  def encode(batch: np.ndarray) -> np.ndarray:
    grid = batch.shape[1] // factor, batch.shape[2] // factor
    return pipeline.encode_pictures(batch).reshape(len(batch), *grid)

  batcher = encoding.Batcher(encode, batch_size=min(_BATCH, len(pictures)))
  for number, picture in enumerate(pictures):
    batcher.add(number, picture)
  codes = batcher.take()
  return [
    pipeline.decode_codes(codes[i].reshape(1, -1), grid=codes[i].shape)[0]
    for i in range(len(pictures))
  ]


def answers(
  pipeline: pipeline_lib.ParallelPipeline,
  pairs: Sequence[Pair],
  *,
  seed: int,
  what: str,
) -> list[outputs_lib.Output]:
  """Return what a model makes of all pairs, with progress."""
  progress = metrics.Progress(len(pairs), stream=sys.stderr, what=what)
  made = asking.ask(
    pipeline,
    [pair.instruction for pair in pairs],
    [pair.source for pair in pairs],
    seed=seed,
    batch_size=_BATCH,
    on_progress=lambda done, _: progress.update(done),
  )
  progress.close()
  return made


def score(
  pairs: Sequence[Pair], pictures: Mapping[str, Sequence[np.ndarray | None]]
) -> dict[str, np.ndarray]:
  """Return float64[N, M], the `pixels.METRICS` of each system's pictures.

  What a system has no picture for is not a number.
  """
  nothing = (float("nan"),) * len(pixels.METRICS)
  return {
    name: np.asarray(
      [
        nothing if made is None else pixels.errors(made, p.target, p.source)
        for p, made in zip(pairs, found, strict=True)
      ]
    )
    for name, found in pictures.items()
  }


def summary(scores: Mapping[str, np.ndarray], *, num_bad: int) -> str:
  """Return the table of means and of the model's lead, with intervals."""
  num = len(next(iter(scores.values())))
  resamples = bootstrap.draw(1, num)
  header = ["", "error", "where it changes", "where it stays"]
  lines = [
    f"{num} held-out pairs ({num_bad} records could not be used). Mean "
    "absolute error in percent of the range, less is better; 95 % bootstrap "
    "over pairs.",
    "",
    f"| {' | '.join(header)} |",
    f"|{' --- |' * len(header)}",
  ]

  def row(name: str, values: np.ndarray) -> str:
    cells = [
      f"{x.mean:.2f} [{x.low:.2f}, {x.high:.2f}]"
      for x in bootstrap.intervals(values[None], resamples)
    ]
    return f"| {' | '.join([name, *cells])} |"

  lines += [row(name, values) for name, values in scores.items()]
  for other in (UNTRAINED, COPY, CODED_COPY):
    lines.append(row(f"model - {other}", scores[MODEL] - scores[other]))
  return "\n".join(lines)


def contact_sheet(
  pairs: Sequence[Pair], made: Sequence[outputs_lib.Output]
) -> np.ndarray:
  """Return input, answer and truth of some pairs."""
  pictures, captions = [], []
  for i in np.linspace(0, len(pairs) - 1, _NUM_SHOWN).round().astype(int):
    pair = pairs[i]
    blank = np.full_like(pair.target, 255)
    source = blank if pair.source is None else pair.source
    pictures += [source, made[i].picture, pair.target]
    captions += [pair.instruction, made[i].text, f"({pair.reasoning})"]
  return np.asarray(display.grid(pictures, captions, columns=6))


def run(
  model: str,
  source: str,
  folder: epath.Path,
  *,
  seed: int = 0,
  fields: Mapping[str, str] | None = None,
  limit: int | None = None,
) -> str:
  """Score a model, write everything about it and return the summary.

  Raises:
    FileNotFoundError: if there is no such model or source.
    ValueError: if no record can be used, or an instruction does not fit.
  """
  started = time.perf_counter()
  pipeline = pipeline_lib.ParallelPipeline.from_pretrained(model)
  pairs, num_bad = read_pairs(
    source, options_of(pipeline.variant, fields or {}), limit=limit
  )
  made = answers(pipeline, pairs, seed=seed, what="answer")
  blind = answers(
    evaluate_lib.untrained(pipeline), pairs, seed=seed, what="blind answer"
  )
  sources = [pair.source for pair in pairs]
  present = [picture for picture in sources if picture is not None]
  coded = iter(through_tokenizer(pipeline, present))
  scores = score(
    pairs,
    {
      MODEL: [output.picture for output in made],
      UNTRAINED: [output.picture for output in blind],
      COPY: sources,
      CODED_COPY: [s if s is None else next(coded) for s in sources],
      CODED_TRUTH: through_tokenizer(pipeline, [p.target for p in pairs]),
    },
  )
  text = summary(scores, num_bad=num_bad)
  images.write_atomically(folder / "summary.md", f"{text}\n".encode())
  rows = [
    {
      "instruction": pair.instruction,
      "reasoning": pair.reasoning,
      "text": output.text,
      **{name: values[i].tolist() for name, values in scores.items()},
    }
    for i, (pair, output) in enumerate(zip(pairs, made, strict=True))
  ]
  images.write_atomically(
    folder / "scores.json", json.dumps(rows, indent=1).encode()
  )
  images.save_picture(contact_sheet(pairs, made), folder / "samples.png")
  secs = time.perf_counter() - started
  sys.stderr.write(f"{secs:.1f} s for {len(pairs)} pairs\n")
  return text


def define_flags() -> None:
  """Define the flags: late, for modules may share names."""
  flags.DEFINE_string("model", None, "A folder with a model.", required=True)
  flags.DEFINE_string("source", None, "The held-out records.", required=True)
  flags.DEFINE_string("output", None, "Folder to write to.", required=True)
  flags.DEFINE_list("fields", [], "Names of a record's parts: target=after.")
  flags.DEFINE_integer("limit", None, "The most pairs.")
  flags.DEFINE_integer("seed", 0, "Seed of the sampler.")


def main(argv: list[str]) -> None:
  logging.set_verbosity(logging.WARNING)
  if len(argv) > 1:
    raise app.UsageError(f"there must be no further arguments, got {argv[1:]}")
  values = flags.FLAGS
  try:
    text = run(
      values.model,
      values.source,
      epath.Path(values.output),
      seed=values.seed,
      fields=pretokenize.parse_fields(values.fields),
      limit=values.limit,
    )
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f"error: {error}")
  print(text)


if __name__ == "__main__":
  define_flags()
  app.run(main)
