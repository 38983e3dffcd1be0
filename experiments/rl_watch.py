"""What a ParaRL loop shows: contexts to reward, times, metrics, rollouts."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments import prompts as prompts_lib
from paradiff import display
from paradiff import layout as layout_lib
from paradiff import metrics
from paradiff import pipeline as pipeline_lib
from paradiff.data import images
from paradiff.rl import iteration as iteration_lib
from paradiff.rl import reward as reward_lib
from paradiff.rl import rows as rows_lib

_NUM_PROMPTS, _NUM_ROLLOUTS = 2, 3  # shown


def context_of(
  policy: pipeline_lib.ParallelPipeline,
  predicted: np.ndarray,
  committed: np.ndarray,
  points: np.ndarray,
  *,
  layout: layout_lib.Layout,
  prompts: Sequence[prompts_lib.Prompt],
  group_size: int,
  num_steps: int,
) -> reward_lib.Context:
  """Read rollouts back to words and pictures.

  Args:
    policy: the model, for its tokenizers.
    predicted: int32[P G, R', A], as in `iteration.Rolled`.
    committed: int32[P G, R', A], likewise.
    points: int32[R'], likewise.
    layout: of the sequences.
    prompts: P of them.
    group_size: G.
    num_steps: S.
  """
  num_rows, num_points, answer_len = predicted.shape

  def texts(tokens: np.ndarray) -> tuple[tuple[str, ...], ...]:
    flat = policy.reader.texts(tokens.reshape(-1, answer_len), layout)
    return tuple(
      tuple(flat[i : i + num_points]) for i in range(0, len(flat), num_points)
    )

  pictures = policy.reader.pictures(predicted.reshape(-1, answer_len), layout)
  repeated = [prompt for prompt in prompts for _ in range(group_size)]
  return reward_lib.Context(
    prompts=tuple(prompt.text for prompt in repeated),
    texts=texts(committed),
    predicted_texts=texts(predicted),
    pictures=pictures.reshape(num_rows, num_points, *pictures.shape[1:]),
    sources=tuple(prompt.source for prompt in repeated),
    steps=points,
    num_steps=num_steps,
    examples=tuple(prompt.record for prompt in repeated),
  )


class Clock:
  """Seconds of each phase of an iteration."""

  def __init__(self) -> None:
    self._last = time.monotonic()
    self._secs: dict[str, float] = {}

  def lap(self, name: str, waits_for: Any = None) -> None:
    """End a phase, once the arrays that it makes are there."""
    jax.block_until_ready(waits_for)
    now = time.monotonic()
    self._secs[name] = now - self._last
    self._last = now

  def metrics(self) -> dict[str, float]:
    """Return the seconds as metrics."""
    return {f"perf/{name}_secs": secs for name, secs in self._secs.items()}

  def shares(self, *, digits: int) -> dict[str, float]:
    """Return the seconds, rounded, for a line of progress."""
    return {f"{n}_s": round(s, digits) for n, s in self._secs.items()}


def scalars(
  values: Mapping[str, Any], rolled: iteration_lib.Rolled
) -> dict[str, float]:
  """Return metrics as numbers, without those of thirds that hold no unit."""
  starts = jax.device_get(rolled.units.start)
  num_steps = rolled.rollout.trajectory.num_steps
  used = {
    rows_lib.BUCKETS[len(rows_lib.BUCKETS) * int(start) // num_steps]
    for start in starts
  }
  empty = tuple(f"_{name}" for name in rows_lib.BUCKETS if name not in used)
  return {
    name: float(value)
    for name, value in jax.device_get(dict(values)).items()
    if not (empty and name.endswith(empty))
  }


def show(
  context: reward_lib.Context,
  raw: np.ndarray,
  *,
  names: Sequence[str],
  group_size: int,
  step: int,
  writer: metrics.Writer | metrics.Silent,
) -> None:
  """Write some rollouts: a row each, the input and what was predicted on.

  Args:
    context: what was rewarded, of the first prompts at least.
    raw: float32[B, R', K], the rewards.
    names: of the rewards.
    group_size: G.
    step: iterations done.
    writer: gets picture and texts; files go into its workdir.
  """
  pictures, captions, lines = [], [], []
  num_prompts = min(_NUM_PROMPTS, len(context.prompts) // group_size)
  for prompt in range(num_prompts):
    for member in range(min(_NUM_ROLLOUTS, group_size)):
      row = prompt * group_size + member
      source = context.sources[row]
      blank = np.full(context.pictures.shape[2:], 255, np.uint8)
      pictures.append(blank if source is None else source)
      captions.append(context.prompts[row])
      lines.append(f"{context.prompts[row]}")
      for point, done in enumerate(context.steps.tolist()):
        scores = ", ".join(
          f"{name} {raw[row, point, k]:.3f}" for k, name in enumerate(names)
        )
        pictures.append(context.pictures[row, point])
        captions.append(f"step {done}/{context.num_steps}: {scores}")
        lines.append(
          f"  step {done}/{context.num_steps}  {scores}\n"
          f"    committed: {context.texts[row][point]}\n"
          f"    predicted: {context.predicted_texts[row][point]}"
        )
  grid = np.asarray(
    display.grid(pictures, captions, columns=len(context.steps) + 1)
  )
  text = "\n".join(lines)
  writer.write_images(step, {"samples/rollouts": grid})
  writer.write_texts(step, {"samples/rollouts": text})
  folder = writer.workdir / "samples"
  folder.mkdir(parents=True, exist_ok=True)
  images.save_picture(grid, folder / f"rollouts_{step:07d}.png")
  (folder / f"rollouts_{step:07d}.txt").write_text(text + "\n")
