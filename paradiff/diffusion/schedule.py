"""How many tokens stay masked at each step: numpy tables made before jit.

One clock runs over S steps for both modalities. After step s the time left is
u = 1 - (s + 1) / S. Text keeps the share u of its masks (linear); the picture
is touched at J of the steps only and keeps the share sin(pi u / 2), which is
cos(pi r / 2) at r = 1 - u (cosine). Training corrupts with the same two
functions of one shared u, so it sees what sampling will show.

Source: arXiv 2511.09611 section 3; MaskGIT, arXiv 2202.04200 section 3.3.
"""

import dataclasses
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

MASK_RATES = ("cosine", "linear", "pow", "sigmoid")
TEXT_COUNTS = ("exact", "float", "first")
IMAGE_COUNTS = ("initial", "all")
_SIGMOID_END = 3.0  # the published sigmoid schedule runs from -3 to 3


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The active steps of a sampler run, S' <= S of them.

  Attributes:
    num_steps: S, the length of the clock.
    step: int32[S'], the clock of each active step, ascending.
    image_step: bool[S'], whether the picture is updated.
    text_commits: int32[S', T + 1], text tokens to commit, by the number that
      were masked at the start.
    image_left: int32[S', N + 1], picture tokens to leave masked, by the
      number that were masked at the start.
  """

  num_steps: int
  step: np.ndarray
  image_step: np.ndarray
  text_commits: np.ndarray
  image_left: np.ndarray


def mask_rate(name: str, u: Any, *, power: float = 2.0) -> np.ndarray:
  """Return the share of tokens masked at time left u, float64[...].

  cosine sin(pi u / 2); linear u; pow 1 - (1 - u)^power; sigmoid: that of
  6 u - 3, scaled to begin at 0 and end at 1.

  Args:
    name: one of MASK_RATES.
    u: float[...] in [0, 1].
    power: exponent of "pow".

  Raises:
    ValueError: if the name is unknown.

  Source: MaskGIT, arXiv 2202.04200 section 3.3; MMaDA `sampling.py`.
  """
  u = np.asarray(u, np.float64)
  match name:
    case "cosine":
      return np.sin(0.5 * np.pi * u)
    case "linear":
      return u
    case "pow":
      return 1.0 - (1.0 - u) ** power
    case "sigmoid":
      low = 1.0 / (1.0 + math.exp(_SIGMOID_END))
      rising = 1.0 / (1.0 + np.exp(_SIGMOID_END * (1.0 - 2.0 * u)))
      return (rising - low) / (1.0 - 2.0 * low)
    case _:
      raise ValueError(f"mask rate must be one of {MASK_RATES}, got {name!r}")


def text_remaining(num_masked: Any, *, step: Any, num_steps: int) -> Any:
  """Text tokens that stay masked after `step`: floor(num_masked * u), u >= 0.

  Exact in integers: of 5 tokens in 4 steps 3, 2, 1, 0 stay, and none from
  then on.

  Args:
    num_masked: int64[...] or int, masks at the start.
    step: int64[...] or int, the clock, in [0, S).
    num_steps: steps that the text takes, at most S.
  """
  ahead = num_steps - 1 - step
  return num_masked * (ahead * (ahead > 0)) // num_steps


def num_text_steps(*, num_steps: int, text_end_rate: float) -> int:
  """Return the steps that the text takes: ceil(text_end_rate * S).

  Raises:
    ValueError: if the rate is not in (0, 1].
  """
  if not 0 < text_end_rate <= 1:
    raise ValueError(f"text_end_rate must lie in (0, 1], got {text_end_rate}")
  return math.ceil(text_end_rate * num_steps)


def text_table(
  *,
  num_steps: int,
  text_steps: int,
  text_len: int,
  rate: str = "linear",
  power: float = 2.0,
  counts: str = "exact",
  start: int = 0,
) -> np.ndarray:
  """Return int64[S, T + 1]: text that stays masked after each step.

  Args:
    num_steps: S.
    text_steps: steps that the text takes, at most S.
    text_len: T.
    rate: one of MASK_RATES.
    power: exponent of "pow".
    counts: one of TEXT_COUNTS; how a linear schedule is rounded.
    start: the step, below S, at which the text's clock begins.

  Raises:
    ValueError: if `rate` or `counts` is unknown.
  """
  step = np.maximum(np.arange(num_steps)[:, None] - start, -1)
  total = np.arange(text_len + 1)[None, :]
  done = np.minimum(step + 1, text_steps)
  match counts:
    case "exact" if rate == "linear":
      return np.asarray(text_remaining(total, step=step, num_steps=text_steps))
    case "exact":
      share = mask_rate(rate, 1.0 - done / text_steps, power=power)
      return np.floor(total * share + 1e-9).astype(np.int64)
    case "float":
      return np.floor(total * (1.0 - done / text_steps)).astype(np.int64)
    case "first":
      each, more = total // text_steps, total % text_steps
      return total - done * each - np.minimum(done, more)
    case _:
      raise ValueError(f"counts must be one of {TEXT_COUNTS}, got {counts!r}")


def image_table(
  *,
  num_steps: int,
  image_len: int,
  rate: str = "cosine",
  power: float = 2.0,
  counts: str = "initial",
  start: int = 0,
  end: int | None = None,
) -> np.ndarray:
  """Return int64[S, N + 1]: picture tokens that stay masked after each step.

  Args:
    num_steps: S.
    image_len: N.
    rate: one of MASK_RATES.
    power: exponent of "pow".
    counts: one of IMAGE_COUNTS, what the rate is a share of.
    start: the step, below S, at which the picture's clock begins.
    end: the step by which it is complete; None for S.

  Raises:
    ValueError: if `rate` or `counts` is unknown.
  """
  own_steps = (num_steps if end is None else end) - start
  done = np.arange(1, num_steps + 1)[:, None] - start
  done = np.clip(done, 0, own_steps)
  total = np.arange(image_len + 1)[None, :]
  if counts == "initial":
    share = mask_rate(rate, 1.0 - done / own_steps, power=power)
    return np.floor(total * share + 1e-9).astype(np.int64)
  if counts != "all":
    raise ValueError(f"counts must be one of {IMAGE_COUNTS}, got {counts!r}")
  # As published, in float32: an integer may be missed by one rounding.
  if rate == "cosine":
    quarter = np.float32(math.pi) * np.float32(0.5)
    share = np.cos((done / own_steps).astype(np.float32) * quarter)
  else:
    share = mask_rate(rate, 1.0 - done / own_steps, power=power)
  left = np.floor(np.float32(image_len) * share.astype(np.float32))
  return np.broadcast_to(left, (num_steps, image_len + 1)).astype(np.int64)


def image_steps(
  *,
  num_steps: int,
  num_image_steps: int,
  start_rate: float,
  open_end: bool = False,
  end: int | None = None,
) -> np.ndarray:
  """Return the steps at which the picture is updated, ascending int64[J'].

  J evenly spaced points from `int(start_rate * S)` to `end` - 1, rounded;
  duplicates collapse, so J' <= J. The last step is always one of them, unless
  `open_end` leaves a single point where it is, at the start. `end` is S if it
  is None.

  Raises:
    ValueError: if a count is not positive or a rate leaves [0, 1).
  """
  if num_steps < 1 or num_image_steps < 1 or not 0 <= start_rate < 1:
    raise ValueError(
      "num_steps and num_image_steps must be positive and start_rate in "
      f"[0, 1), got {num_steps=} {num_image_steps=} {start_rate=}"
    )
  last = (num_steps if end is None else end) - 1
  points = np.linspace(int(start_rate * num_steps), last, num_image_steps)
  if not open_end:
    points[-1] = last  # also where one point is all there is
  return np.unique(np.rint(points).astype(np.int64))


def make_schedule(
  *,
  image_steps: np.ndarray,
  text_left: np.ndarray,
  image_left: np.ndarray,
  idle_steps: bool = False,
) -> Schedule:
  """Make the tables, leaving out steps on which nothing is committed.

  A step is idle when the picture is not due and not even a fully masked text
  would commit a token: more steps than text tokens cost no extra passes.

  Args:
    image_steps: int64[J'], as `image_steps` gives them.
    text_left: int64[S, T + 1], as `text_table` gives it.
    image_left: int64[S, N + 1], as `image_table` gives it.
    idle_steps: whether idle steps stay.
  """
  num_steps, columns = text_left.shape
  step, total = np.arange(num_steps), np.arange(columns)
  falls = np.diff(text_left[:, -1], prepend=columns - 1) < 0
  is_image = np.isin(step, image_steps)
  if image_left.shape[1] == 1:  # no picture
    is_image[:] = False
  active = is_image | falls | idle_steps
  before = np.concatenate([total[None], text_left[active][:-1]])
  return Schedule(
    num_steps=num_steps,
    step=step[active].astype(np.int32),
    image_step=is_image[active],
    text_commits=(before - text_left[active]).astype(np.int32),
    image_left=image_left[active].astype(np.int32),
  )


@flax.struct.dataclass
class Step:
  """One row of the schedule, or several when scanned over.

  Attributes:
    clock: int32[], the step s.
    is_image_step: bool[], whether the picture is updated.
    text_commits: int32[T + 1], text tokens to commit, by initial masks.
    image_left: int32[N + 1], picture tokens to leave, by initial masks.
  """

  clock: jax.Array
  is_image_step: jax.Array
  text_commits: jax.Array
  image_left: jax.Array


def rows(schedule: Schedule, which: slice) -> Step:
  """Return rows of the tables as the arrays that a scan runs over."""
  return Step(
    clock=jnp.asarray(schedule.step[which]),
    is_image_step=jnp.asarray(schedule.image_step[which]),
    text_commits=jnp.asarray(schedule.text_commits[which]),
    image_left=jnp.asarray(schedule.image_left[which]),
  )
