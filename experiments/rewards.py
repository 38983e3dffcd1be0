"""Rewards of a config: built-in ones by kind, or a function of one's own.

config.rewards = dict(
  scenes=dict(weight=1.0, options=dict(weights=dict(output_alignment=1.0))),
  clip=dict(weight=0.5, folder="runs/clip/model", normalise="paper_clip"),
  mine=dict(weight=0.1, function="my_package.my_module:neatness"),
)
"""

import dataclasses
import importlib
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from experiments import clip_stats
from experiments import common
from paradiff.convert import clip
from paradiff.rl import clip_reward
from paradiff.rl import reward as reward_lib
from paradiff.rl import rewards as rewards_lib
from paradiff.rl import terms as terms_lib

KINDS = ("scenes", "format", "length", "preservation", "clip", "function")


@dataclasses.dataclass(frozen=True)
class RewardConfig:
  """One reward.

  Attributes:
    weight: what it counts in the sum.
    kind: one of KINDS; default: its name in the config.
    options: fields of the kind's own record.
    folder: of a CLIP.
    function: "module:name" of a `Reward` of one's own.
    normalise: one of `reward.NORMALISATIONS`.
    mean: of the scores, for "paper_clip"; for a CLIP, default: as estimated
      by `experiments.clip_stats` in its folder.
    std: likewise.
    clip_at: standard deviations, for "paper_clip".
    output_only: whether the finished answer's reward stands at every point.
  """

  weight: float = 1.0
  kind: str = ""
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  folder: str | None = None
  function: str | None = None
  normalise: str = "none"
  mean: float | None = None
  std: float | None = None
  clip_at: float | None = 1.0
  output_only: bool = False


def build(
  config: Mapping[str, Any],
) -> tuple[tuple[terms_lib.Term, ...], dict[str, reward_lib.Reward]]:
  """Return the terms and the rewards that a config names, in its order.

  Raises:
    ValueError: if a reward is unknown or its options are wrong.
    FileNotFoundError: if the weights of a CLIP are missing.
  """
  terms, rewards = [], {}
  for name in sorted(config):
    entry = common.build(RewardConfig, config[name])
    kind = entry.kind or ("function" if entry.function else name)
    if kind not in KINDS:
      raise ValueError(
        f"kind of the reward {name!r} must be one of {KINDS}, got {kind!r}"
      )
    try:
      rewards[name] = _reward(kind, entry)
      mean, std = _statistics(kind, entry)
      terms.append(
        terms_lib.Term(
          name=name,
          weight=entry.weight,
          normalise=entry.normalise,
          mean=mean,
          std=std,
          clip_at=entry.clip_at,
          output_only=entry.output_only,
        )
      )
    except (ValueError, TypeError) as error:
      raise ValueError(f"the reward {name!r}: {error}") from error
  return tuple(terms), rewards


def _reward(kind: str, entry: RewardConfig) -> reward_lib.Reward:
  options = entry.options
  match kind:
    case "clip":
      if entry.folder is None:
        raise ValueError("folder must name a CLIP, got none")
      return clip.load_reward(
        entry.folder, options=common.build(clip_reward.Options, options)
      )
    case "function":
      return _imported(entry.function or "")
    case "scenes":
      return common.build(rewards_lib.SceneReward, options)
    case "format":
      return common.build(rewards_lib.FormatReward, options)
    case "length":
      return common.build(rewards_lib.LengthReward, options)
    case _:
      return common.build(rewards_lib.PreservationReward, options)


def _statistics(
  kind: str, entry: RewardConfig
) -> tuple[float | None, float | None]:
  """Return mean and std: as given, or those in the folder of a CLIP."""
  wanted = entry.normalise == "paper_clip" and entry.mean is None
  if kind != "clip" or not wanted:
    return entry.mean, entry.std
  path = epath.Path(entry.folder or "") / clip_stats.FILE_NAME
  if not path.exists():
    raise ValueError(
      "paper_clip must be given mean and std, or find them in "
      f"{path}, which `python -m experiments.clip_stats` writes; got neither"
    )
  found = json.loads(path.read_text())
  return float(found["mean"]), float(found["std"])


def _imported(name: str) -> reward_lib.Reward:
  """Import a user's own reward from "module:name"."""
  module, _, attribute = name.partition(":")
  if not module or not attribute:
    raise ValueError(f'function must be "module:name", got {name!r}')
  try:
    found = getattr(importlib.import_module(module), attribute)
  except (ImportError, AttributeError) as error:
    raise ValueError(f"function must be importable, got {error}") from error
  if not callable(found):
    raise ValueError(f"function must be callable, got {found!r}")
  return found
