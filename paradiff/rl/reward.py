"""What a reward is: any function of a `Context` that returns float[B, R].

A user's own function needs no wrapper; of B rollouts at R points each

  def short(context):
    return [[1.0 / (1 + len(text)) for text in row] for row in context.texts]

is a reward. `evaluate` calls several of them and says which one is at fault
when something is wrong; `terms.combine` makes one number of them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

TEXT_VIEWS = ("committed", "predicted")


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
  """What a reward sees: B rollouts, each at R points of its way.

  The last point is always the finished answer. In a run of several processes
  each sees its own share of a batch: all rollouts of a prompt, or none.

  Attributes:
    prompts: B instructions.
    texts: B rows of R, what is committed so far, masks left out.
    predicted_texts: B rows of R, with the proposals at masked positions.
    pictures: uint8[B, R, H, W, 3], the predicted clean pictures.
    sources: B input pictures uint8[H, W, 3]; None where there is none.
    steps: int32[R], denoising steps done, in [1, S].
    num_steps: S.
    examples: B, the data's own record of each prompt, such as a
      `rules.Example`; None where there is none.

  Raises:
    ValueError: if the sizes do not agree or the last point is not step S.
  """

  prompts: tuple[str, ...]
  texts: tuple[tuple[str, ...], ...]
  predicted_texts: tuple[tuple[str, ...], ...]
  pictures: np.ndarray
  sources: tuple[np.ndarray | None, ...]
  steps: np.ndarray
  num_steps: int
  examples: tuple[Any, ...]

  def __post_init__(self) -> None:
    num_rows, num_points = self.shape
    for name in ("texts", "predicted_texts", "sources", "examples"):
      if len(getattr(self, name)) != num_rows:
        raise ValueError(
          f"{name} must have one row a prompt, {num_rows}, got "
          f"{len(getattr(self, name))}"
        )
    for name in ("texts", "predicted_texts"):
      counts = {len(row) for row in getattr(self, name)}
      if counts - {num_points}:
        raise ValueError(
          f"{name} must have one text a step, {num_points}, got "
          f"{sorted(counts)}"
        )
    shape, dtype = self.pictures.shape, self.pictures.dtype
    is_rgb = len(shape) == 5 and shape[-1] == 3 and dtype == np.uint8
    if not is_rgb or shape[:2] != self.shape:
      raise ValueError(
        f"pictures must be uint8[{num_rows}, {num_points}, H, W, 3], got "
        f"{dtype}{list(shape)}"
      )
    if num_points == 0 or self.steps[-1] != self.num_steps:
      raise ValueError(
        f"the last of steps must be num_steps={self.num_steps}, got "
        f"{list(self.steps)}"
      )

  @property
  def shape(self) -> tuple[int, int]:
    """B and R."""
    return len(self.prompts), len(self.steps)

  def viewed(self, text_view: str) -> tuple[tuple[str, ...], ...]:
    """Return the texts to score, B rows of R; `text_view` of TEXT_VIEWS."""
    return self.texts if text_view == "committed" else self.predicted_texts


def distinct(pictures: np.ndarray) -> tuple[np.ndarray, list[int]]:
  """Find equal pictures, so that each is looked at once.

  Args:
    pictures: uint8[M, H, W, 3].

  Returns:
    Places of the first of each, ascending, and for every picture its number
    among those.
  """
  places: dict[bytes, int] = {}
  index = [places.setdefault(p.tobytes(), len(places)) for p in pictures]
  return np.unique(index, return_index=True)[1], index


class Reward(Protocol):
  """How good B rollouts are at R points: more is better."""

  def __call__(self, context: Context, /) -> np.ndarray:
    """Return float[B, R], all finite."""
    ...


class RewardError(RuntimeError):
  """A reward raised, or returned what cannot be used."""


def evaluate(
  rewards: Mapping[str, Reward],
  context: Context,
  *,
  names: Sequence[str] | None = None,
) -> np.ndarray:
  """Call every reward, on the host.

  Args:
    rewards: by name.
    context: what they see.
    names: which K of them, in which order, as in `terms.combine`;
      default: all, in the order of `rewards`.

  Returns:
    float32[B, R, K].

  Raises:
    ValueError: if a name is unknown or there is none.
    RewardError: names the first reward that raised, from what it raised, or
      did not return finite numbers of the right shape.
  """
  names = tuple(rewards) if names is None else tuple(names)
  unknown = [name for name in names if name not in rewards]
  if unknown or not names:
    raise ValueError(
      f"names must be some of {tuple(rewards)}, got {unknown or names}"
    )
  return np.stack([_call(name, rewards[name], context) for name in names], -1)


def _call(name: str, reward: Reward, context: Context) -> np.ndarray:
  """Return the checked float32[B, R] of one reward."""
  try:
    # Conversion stands inside: a device array can raise only here.
    found = np.asarray(reward(context))
  except Exception as error:
    raise RewardError(
      f"reward {name!r} must return float{list(context.shape)}, got "
      f"{type(error).__name__}: {error}"
    ) from error
  # jax's bfloat16 is no subtype of np.floating.
  is_float = jnp.issubdtype(found.dtype, jnp.floating)
  is_real = is_float or found.dtype.kind in "biu"
  if found.shape != context.shape or not is_real:
    raise RewardError(
      f"reward {name!r} must return float{list(context.shape)}, got "
      f"{found.dtype}{list(found.shape)}"
    )
  with np.errstate(over="ignore"):  # becomes inf, which is refused below
    values = found.astype(np.float32)
  wrong = np.argwhere(~np.isfinite(values))
  if len(wrong):
    row, point = wrong[0].tolist()
    raise RewardError(
      f"reward {name!r} must be finite, got {found[row, point]} at row {row}, "
      f"point {point} (step {context.steps[point]}, prompt "
      f"{context.prompts[row]!r}) and {len(wrong) - 1} more"
    )
  return values
