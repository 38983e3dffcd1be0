"""What `experiments.reproduce` compares, as data.

A system is a training and a decoding; a part of the report is a list of systems
and of the pairs whose difference matters, beside the paper's own figures.

Source: arXiv 2511.09611 tables 3, 4, 5, 9 and 10.
"""

import dataclasses
from collections.abc import Sequence

from experiments import reproduce_runs as runs


@dataclasses.dataclass(frozen=True)
class System:
  """A training, or runs.SHIPPED, and a decoding, by name."""

  model: str
  decoding: str

  @property
  def label(self) -> str:
    """What tables call it."""
    model = "SFT (shipped)"
    if self.model != runs.SHIPPED:
      model = runs.TRAININGS[self.model].label
    return f"{model}; {runs.DECODINGS[self.decoding].label}"


Pair = tuple[System, System]


@dataclasses.dataclass(frozen=True)
class Claim:
  """Something that a difference of two systems bears out or not.

  Attributes:
    text: what is claimed, a sentence.
    pair: first minus second.
    metric: one of `score.METRICS`.
    least: points of 100 that the lead is to have; 0 for any clear lead.
    is_no_loss: whether it is enough that the first does not clearly lag.
    paper: the paper's own difference in points; None if it has none.
  """

  text: str
  pair: Pair
  metric: str = "output_alignment"
  least: float = 0.0
  is_no_loss: bool = False
  paper: float | None = None


@dataclasses.dataclass(frozen=True)
class Part:
  """A part of the report.

  Attributes:
    title: its heading.
    systems: what is compared; each one's first appearance trains it.
    pairs: differences that matter, first minus second.
    claims: what they are held against.
    curves: trainings whose curves are shown.
    paper: the paper's own figures: a header and rows; may be empty.
    paper_note: what they are of.
    is_single_seed: whether one seed is all it gets at any scale.
    by_category: whether edits are told apart by category, not by choice.
  """

  title: str
  systems: tuple[System, ...]
  pairs: tuple[Pair, ...]
  claims: tuple[Claim, ...]
  curves: tuple[str, ...]
  paper: tuple[tuple[str, ...], ...] = ()
  paper_note: str = ""
  is_single_seed: bool = False
  by_category: bool = False

  def seeds_of(self, system: System, scale: runs.Scale) -> tuple[int, ...]:
    """Return the seeds that a system is trained from; one if shipped."""
    if self.is_single_seed or system.model == runs.SHIPPED:
      return (0,)
    return tuple(range(scale.num_seeds))


def _systems(models: Sequence[str], *decodings: str) -> tuple[System, ...]:
  return tuple(System(m, d) for m in models for d in decodings)


def _against(others: Sequence[System], baseline: System) -> tuple[Pair, ...]:
  return tuple((s, baseline) for s in others if s != baseline)


_PARALLEL = System("sft_parallel", "parallel")
_SEMI_PARALLEL = System("sft_parallel", "semi_parallel")
_SEQUENTIAL = System("sft_parallel", "sequential")
_ALL_SEQUENTIAL = System("sft_sequential", "sequential")
_CURES = (
  *_systems(("sft_parallel",), "parallel_32", "parallel_64", "text_first"),
  System("sft_mixed", "parallel"),
)
_THINKING = System("sft_both_ways", "sequential")
_NOT_THINKING = System("sft_both_ways", "picture_first")
_RL = ("rl_pararl", "rl_output_level", "rl_final_on_states")
_UNITS = (
  *(f"rl_stratified_{num}" for num in (1, 2, 3, 4)),
  *("rl_slices_1", "rl_slices_2", "rl_pararl", "rl_slices_4", "rl_slices_8"),
)
_WEIGHTS = ("sft_both_inv_t", "sft_both_one", "sft_parallel")
_PARARL = System("rl_pararl", "parallel")
_TWO_STEPS = System("rl_stratified_2", "parallel")
_THREE_STEPS = System("rl_stratified_3", "parallel")
_SHORT = ("", "text alignment", "image alignment", "output alignment")


def _lift(decoding: str, where: str) -> tuple[Claim, ...]:
  """Return the goals of ParaRL over SFT, for one decoding."""
  pair = (System("rl_pararl", decoding), System(runs.SHIPPED, decoding))
  return (
    Claim(
      f"ParaRL lifts output alignment by 5 points over SFT{where}.",
      pair,
      least=5.0,
      paper=8.3,
    ),
    Claim(
      f"ParaRL loses no image consistency against SFT{where}.",
      pair,
      metric="image_consistency",
      is_no_loss=True,
    ),
  )


def _rl_claims() -> tuple[Claim, ...]:
  """Return the goals of ParaRL."""
  return (
    *_lift("parallel", ""),
    Claim(
      "ParaRL is 2 points ahead of output-level RL.",
      (_PARARL, System("rl_output_level", "parallel")),
      least=2.0,
      paper=6.2,
    ),
    Claim(
      "A reward at every state teaches more than the final one on the same "
      "states.",
      (_PARARL, System("rl_final_on_states", "parallel")),
    ),
  )


PARTS = {
  "a": Part(
    title="Parallel against sequential: training and decoding",
    systems=(
      *_systems(
        ("sft_parallel", "sft_sequential"),
        *("parallel", "semi_parallel", "sequential"),
      ),
    ),
    pairs=(
      (_PARALLEL, _ALL_SEQUENTIAL),
      (_PARALLEL, _SEMI_PARALLEL),
      (_PARALLEL, _SEQUENTIAL),
      (_SEMI_PARALLEL, _SEQUENTIAL),
    ),
    claims=(
      Claim(
        "Trained and decoded in parallel, text and picture agree better than "
        "trained and decoded one after the other (table 3).",
        (_PARALLEL, _ALL_SEQUENTIAL),
        paper=2.6,
      ),
      Claim(
        "One model agrees better with itself when it is decoded in parallel "
        "than in sequence (table 10).",
        (_PARALLEL, _SEQUENTIAL),
        paper=5.7,
      ),
      *(
        Claim(
          f"Semi-parallel decoding lies between: {what} (table 10).",
          pair,
          paper=lead,
        )
        for what, pair, lead in (
          ("parallel is ahead of it", (_PARALLEL, _SEMI_PARALLEL), 2.3),
          ("it is ahead of sequential", (_SEMI_PARALLEL, _SEQUENTIAL), 3.4),
        )
      ),
    ),
    curves=("sft_parallel", "sft_sequential"),
    paper=(
      _SHORT,
      ("table 3: sequential training", "70.6", "56.1", "48.9"),
      ("table 3: parallel training", "70.4", "58.2", "51.5"),
      ("table 10: sequential decoding", "64.2", "56.5", "54.1"),
      ("table 10: semi-parallel decoding", "68.3", "60.7", "57.5"),
      ("table 10: parallel decoding", "71.0", "63.2", "59.8"),
    ),
    paper_note="ParaBench, 8B, judged by GPT-4.1; table 3 before ParaRL, "
    "table 10 after it.",
  ),
  "b": Part(
    title="Reinforcement along the trajectory and of its end",
    systems=_systems((runs.SHIPPED, *_RL), "parallel"),
    pairs=tuple(
      (_PARARL, System(other, "parallel"))
      for other in (runs.SHIPPED, "rl_output_level", "rl_final_on_states")
    ),
    claims=_rl_claims(),
    curves=_RL,
    paper=(
      _SHORT,
      ("table 4: before RL", "70.4", "58.2", "51.5"),
      ("table 4: output-level RL", "70.7", "62.3", "53.6"),
      ("table 4: ParaRL", "71.0", "63.2", "59.8"),
    ),
    paper_note="ParaBench, 8B, judged by GPT-4.1.",
  ),
  "c": Part(
    title="How many units are scored, and which",
    systems=_systems((runs.SHIPPED, *_UNITS), "parallel"),
    pairs=(
      (_THREE_STEPS, _TWO_STEPS),
      *_against(_systems(_UNITS, "parallel"), _PARARL),
    ),
    claims=(
      Claim(
        "Three isolated steps teach more than two (table 5).",
        (_THREE_STEPS, _TWO_STEPS),
        paper=6.2,
      ),
    ),
    curves=_UNITS,
    paper=(
      _SHORT,
      ("table 5: 2 steps", "70.3", "62.8", "53.6"),
      ("table 5: 3 steps", "71.0", "63.2", "59.8"),
      ("table 5: 4 steps", "70.8", "63.5", "58.7"),
    ),
    paper_note="ParaBench, 8B, judged by GPT-4.1; isolated steps.",
    is_single_seed=True,
  ),
  "d": Part(
    title="Weights of the supervised loss over time",
    systems=_systems(_WEIGHTS, "parallel"),
    pairs=(
      (_PARALLEL, System("sft_both_inv_t", "parallel")),
      (_PARALLEL, System("sft_both_one", "parallel")),
    ),
    claims=tuple(
      Claim(
        f"Text 1/t and image 1 is better than both {weight} (table 9).",
        (_PARALLEL, System(model, "parallel")),
        paper=lead,
      )
      for weight, model, lead in (
        ("1/t", "sft_both_inv_t", 3.5),
        ("1", "sft_both_one", 2.8),
      )
    ),
    curves=_WEIGHTS,
    paper=(
      _SHORT,
      ("table 9: both 1/t", "69.5", "58.1", "56.3"),
      ("table 9: both 1", "65.7", "61.9", "57.0"),
      ("table 9: text 1/t, image 1", "71.0", "63.2", "59.8"),
    ),
    paper_note="ParaBench, 8B, judged by GPT-4.1. Parallel training has the "
    "weights of the last row.",
    is_single_seed=True,
  ),
  "e": Part(
    title="Thinking first against drawing at once, one model",
    systems=(_THINKING, _NOT_THINKING, _PARALLEL),
    pairs=((_THINKING, _NOT_THINKING), (_PARALLEL, _NOT_THINKING)),
    claims=tuple(
      Claim(
        f"Thinking first makes the pictures of one model better: {what}.",
        (_THINKING, _NOT_THINKING),
        metric=metric,
      )
      for what, metric in (
        ("more of what was asked for is in them", "image_alignment"),
        ("more of them are right in all", "solved"),
        ("more of the input is kept", "image_consistency"),
      )
    ),
    curves=("sft_both_ways",),
    paper=(
      ("table 1", "without thinking", "thinking", "difference"),
      ("temporal", "72.3", "75.6", "+3.3"),
      ("general", "68.9", "71.4", "+2.5"),
      ("causal", "70.1", "67.2", "-2.9"),
      ("knowledge", "74.5", "76.8", "+2.3"),
      ("spatial", "69.8", "65.0", "-4.8"),
    ),
    paper_note="Bagel, 14B, which thinks first and then draws; pictures judged "
    "by GPT-4.1.",
    is_single_seed=True,
    by_category=True,
  ),
  "g": Part(
    title="What brings text and picture together without reinforcement",
    systems=(_PARALLEL, _ALL_SEQUENTIAL, *_CURES),
    pairs=(*_against(_CURES, _PARALLEL), *_against(_CURES, _ALL_SEQUENTIAL)),
    claims=tuple(
      Claim(f"A cure: {cure.label}, is {what}.", (cure, other))
      for cure in _CURES
      for what, other in (
        ("better than parallel training and decoding", _PARALLEL),
        ("ahead of sequential training and decoding", _ALL_SEQUENTIAL),
      )
    ),
    curves=("sft_parallel", "sft_sequential", "sft_mixed"),
    is_single_seed=True,
  ),
  "h": Part(
    title="Reinforced with 16 steps, decoded one token a step",
    systems=_systems((runs.SHIPPED, "rl_pararl"), "parallel_64"),
    pairs=(
      (System("rl_pararl", "parallel_64"), System(runs.SHIPPED, "parallel_64")),
    ),
    claims=_lift("parallel_64", ", decoded in 64 steps"),
    curves=("rl_pararl",),
    is_single_seed=True,
  ),
  "f": Part(
    title="A CLIP as the reward, against the exact one",
    systems=_systems((runs.SHIPPED, "rl_pararl", "rl_clip"), "parallel"),
    pairs=(
      (System("rl_clip", "parallel"), _PARARL),
      (System("rl_clip", "parallel"), System(runs.SHIPPED, "parallel")),
    ),
    claims=(
      Claim(
        "A CLIP as the only reward brings text and picture together.",
        (System("rl_clip", "parallel"), System(runs.SHIPPED, "parallel")),
      ),
    ),
    curves=("rl_pararl", "rl_clip"),
    is_single_seed=True,
  ),
}
