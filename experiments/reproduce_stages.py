"""The stages of `experiments.reproduce`: train, answer, score; each only once.

  DIR/cache/                       token rows
  DIR/{training}_{seed}/           a training; done once it holds model/
  DIR/scores/{training}_{seed}_{decoding}.npz

A stage whose result is there is skipped, so a run that was killed goes on
where it was; a result of other settings is refused, never mixed in.
"""

import dataclasses
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import ml_collections
import numpy as np
from etils import epath

from experiments import common
from experiments import reproduce_parts as parts_lib
from experiments import reproduce_prompts as prompts_lib
from experiments import reproduce_runs as runs
from experiments import rl
from experiments import sft
from paradiff import checkpoints
from paradiff import metrics
from paradiff import outputs as outputs_lib
from paradiff import pipeline as pipeline_lib
from paradiff.data import caching
from paradiff.data import images
from paradiff.evaluate import scenes as evaluate_lib
from paradiff.scenes import rules
from paradiff.scenes import score


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
  """What one model, decoded in one way, made of all prompts.

  Attributes:
    scores: float64[N, M], by prompt, in the order of `score.METRICS`.
    texts: str[N].
    pictures: uint8[n, H, W, 3], those of `reproduce_prompts.shown`.
    secs: that the answers took.
  """

  scores: np.ndarray
  texts: np.ndarray
  pictures: np.ndarray
  secs: float


Answer = Callable[..., list[outputs_lib.Output]]


def answer(
  model: str,
  decoding: runs.Decoding,
  examples: Sequence[rules.Example],
  *,
  decode_steps: int,
  on_progress: Callable[[int, int], None],
) -> list[outputs_lib.Output]:
  """Answer all prompts with a shipped model or one in a folder."""
  pipeline = pipeline_lib.ParallelPipeline.from_pretrained(model)
  sampler = decoding.sampler(
    pipeline.variant.sampler, decode_steps=decode_steps
  )
  return evaluate_lib.answer(
    pipeline, examples, config=sampler, on_progress=on_progress
  )


@dataclasses.dataclass(frozen=True)
class Work:
  """The functions that cost time.

  Attributes:
    train_sft: as `sft.train_and_evaluate`.
    train_rl: as `rl.train_and_evaluate`.
    answer: as `answer`.
  """

  train_sft: Callable[..., Any] = sft.train_and_evaluate
  train_rl: Callable[..., Any] = rl.train_and_evaluate
  answer: Answer = answer


WORK = Work()


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """Everything that the stages share.

  Attributes:
    root: DIR.
    scale: how much is spent.
    examples: N, the held-out prompts.
    stream: where progress is shown.
    clip: folder of the CLIP of part f.
    work: what costs time.
  """

  root: epath.Path
  scale: runs.Scale
  examples: tuple[rules.Example, ...]
  stream: TextIO
  clip: str | None = None
  work: Work = WORK

  def folder(self, name: str, seed: int) -> epath.Path:
    """Return the workdir of a training."""
    return self.root / f"{name}_{seed}"

  def config(self, name: str, seed: int) -> ml_collections.ConfigDict:
    """Return the config of a training."""
    cache = str(self.root / "cache")
    return runs.make_config(
      name, seed=seed, scale=self.scale, cache=cache, clip=self.clip
    )

  def scores_path(self, system: parts_lib.System, seed: int) -> epath.Path:
    """Return the file of a system's answers."""
    return self.root / "scores" / f"{system.model}_{seed}_{system.decoding}.npz"


def jobs(
  part: parts_lib.Part, scale: runs.Scale
) -> Iterator[tuple[str, int, tuple[parts_lib.System, ...]]]:
  """Yield model, seed and its systems, all of one seed before the next."""
  models = dict.fromkeys(system.model for system in part.systems)
  for seed in range(1 if part.is_single_seed else scale.num_seeds):
    for model in models:
      systems = tuple(s for s in part.systems if s.model == model)
      if seed in part.seeds_of(systems[0], scale):
        yield model, seed, systems


def do_part(run: Run, part: parts_lib.Part) -> None:
  """Train and score what a part needs and what is not there yet.

  Raises:
    ValueError: if a folder or file is of other settings.
  """
  for model, seed, systems in jobs(part, run.scale):
    source = model
    if model == runs.SHIPPED:
      source = runs.SHIPPED_NAME
    else:
      source = str(train(run, model, seed) / "model")
    for system in systems:
      do_answers(run, system, seed, model=source)


def train(run: Run, name: str, seed: int) -> epath.Path:
  """Train what is not trained yet; return the workdir.

  Raises:
    ValueError: if the workdir is of another config.
  """
  folder, config = run.folder(name, seed), run.config(name, seed)
  # The tokenizer is the last thing that is written of a model.
  if (folder / "model" / "tokenizer.json").exists():
    check_config(folder, config)
    return folder
  run.stream.write(f"training {folder.name}\n")
  is_sft = runs.TRAININGS[name].kind == "sft"
  work = run.work.train_sft if is_sft else run.work.train_rl
  work(config, folder, stream=run.stream)
  return folder


def check_config(folder: epath.Path, config: ml_collections.ConfigDict) -> None:
  """Check that a finished training is the one that is asked for.

  Raises:
    ValueError: naming the fields that differ.
  """
  path = folder / "config.json"
  if not path.exists():
    return
  found = ml_collections.ConfigDict(json.loads(path.read_text()))
  lines = checkpoints.differences(
    common.identity(config), common.identity(found)
  )
  if lines:
    raise ValueError(
      f"{folder} must hold a training with the config of this run, got\n"
      + "\n".join(lines[:8])
      + "\nUse another workdir, or the numbers that began this one."
    )


def do_answers(
  run: Run, system: parts_lib.System, seed: int, *, model: str
) -> None:
  """Answer and score all prompts, unless that is done.

  Raises:
    ValueError: if the file of answers is of other settings.
  """
  path = run.scores_path(system, seed)
  if path.exists():
    load(run, system, seed)  # is it of this run?
    return
  run.stream.write(f"scoring {path.stem}\n")
  progress = metrics.Progress(
    len(run.examples), stream=run.stream, what="answer"
  )
  started = time.monotonic()
  outputs = run.work.answer(
    model,
    runs.DECODINGS[system.decoding],
    run.examples,
    decode_steps=run.scale.decode_steps,
    on_progress=lambda done, _: progress.update(done),
  )
  secs = time.monotonic() - started
  progress.close()
  scores = evaluate_lib.score_outputs(run.examples, outputs)
  buffer = io.BytesIO()
  np.savez_compressed(
    buffer,
    identity=np.asarray(_identity(run, system, seed)),
    scores=np.asarray([[one[n] for n in score.METRICS] for one in scores]),
    texts=np.asarray([output.text for output in outputs], str),
    pictures=np.stack(
      [outputs[i].picture for i in prompts_lib.shown(len(outputs))]
    ),
    secs=np.float64(secs),
  )
  images.write_atomically(path, buffer.getvalue())


def _identity(run: Run, system: parts_lib.System, seed: int) -> str:
  """Return what answers must share with the run that reads them, as JSON."""
  decoding = dataclasses.asdict(runs.DECODINGS[system.decoding])
  del decoding["label"]
  decoding["num_steps"] = decoding["num_steps"] or run.scale.decode_steps
  training = {}
  if system.model != runs.SHIPPED:
    training = common.identity(run.config(system.model, seed))["config"]
  prompts = caching.digest([repr(example) for example in run.examples])
  return json.dumps(
    dict(
      decoding=decoding,
      training=training,
      num_prompts=len(run.examples),
      prompts=prompts,
      metrics=list(score.METRICS),
    ),
    sort_keys=True,
  )


def load(run: Run, system: parts_lib.System, seed: int) -> Answers:
  """Read the answers of a system.

  Raises:
    ValueError: if the file is damaged or of other settings.
  """
  path = run.scores_path(system, seed)
  try:
    with np.load(io.BytesIO(path.read_bytes())) as file:
      arrays = {name: file[name] for name in file.files}
  except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(
      f"{path} must be a complete npz file; delete it to have it made anew, "
      f"got {error}"
    ) from error
  lines = checkpoints.differences(
    json.loads(_identity(run, system, seed)),
    json.loads(str(arrays.pop("identity"))),
  )
  if lines:
    raise ValueError(
      f"{path} must hold answers with the settings of this run, got\n"
      + "\n".join(lines[:8])
      + "\nUse another workdir, or the numbers that began this one."
    )
  return Answers(**{**arrays, "secs": float(arrays["secs"])})


def is_done(run: Run, part: parts_lib.Part) -> bool:
  """Return whether all answers of a part are there."""
  return all(
    run.scores_path(system, seed).exists()
    for system in part.systems
    for seed in part.seeds_of(system, run.scale)
  )


def load_part(
  run: Run, part: parts_lib.Part
) -> dict[parts_lib.System, list[Answers]]:
  """Read all answers of a part, a list by seed for each system."""
  return {
    system: [
      load(run, system, seed) for seed in part.seeds_of(system, run.scale)
    ]
    for system in part.systems
  }
