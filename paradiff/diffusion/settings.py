"""Settings of a sampler run: data, static, hashable, one program for each.

The defaults are right where the published code is not. What it does instead
is a field of `Quirks`, so that its runs can be reproduced and each departure
be looked at alone.
"""

import dataclasses
from typing import Self

from paradiff.diffusion import guidance
from paradiff.diffusion import schedule

CONFIDENCES = ("probability", "margin", "entropy", "random")
LEFTOVERS = ("none", "random", "proposed")
DECODINGS = ("parallel", "semi_parallel", "sequential", "picture_first")


@dataclasses.dataclass(frozen=True)
class Quirks:
  """What the published samplers do otherwise; all off by default.

  Attributes:
    overwrite_prefix: an unconditional sequence is made by writing the short
      unconditional prefix over the first tokens of the whole sequence, so the
      input picture, or the end of it, stays behind it (A). It needs prompts
      without padding.
    late_unconditional: the picture's unconditional passes see the text that
      this step has just committed, the conditional pass does not (A).
    idle_image_branches: branches that run with every guided picture step,
      also at scale 0 (A). A compiled program leaves them out again.
    idle_text_branches: branches that run on every step at any scale (M).
    idle_steps: steps without a commit run too (A, M).
    image_counts: "initial" or "all", whether the mask ratio of the picture is
      a share of its initial masks or of all positions (A, M).
    text_counts: "exact", "float" or "first": remaining text by exact
      fractions, by float64 rounding (A), or even shares with the remainder
      in the first steps (M).
    open_end: the last step need not update the picture (A, M).
    leftover: "none": nothing stays masked. Otherwise at least one picture
      token does, and gets a uniformly random code in the end ("random", A) or
      the whole picture is that of the last proposals ("proposed", M).
    remask_known: where no picture token is masked, the last in order is
      masked again (A, M).
    any_text_id: text may hold codes, marks and the mask token (A, M).
    text_behind_end: text behind a committed end goes on (A, M).
    unscaled_image_temperature: the temperature of the picture only chooses
      between argmax (0) and a draw at temperature 1 (A).
    normal_image_noise: normal instead of Gumbel noise on the confidence of
      the picture (A).
    constant_image_noise: the noise on the confidence of the picture does not
      fall (Lumina-DiMOO).
    confidence_floor: added to the picture's probability before its log (A).
    gumbel_draws: tokens are drawn with one Gumbel number a column; the same
      distribution from other random numbers (A, M).
    attended_padding: a dropped prompt is padded to the length of the prompt,
      and the padding takes part (M).
    bfloat16_noise: the text's Gumbel numbers are bfloat16, some 500 values
      (A). Of those of `gumbel_draws`.

  Source: tyfeld/MMaDA-Parallel, `generate_ti2ti` (A), `interleave_generate`
  (M); Alpha-VLLM/Lumina-DiMOO, `image_generation_generator.py`.
  """

  overwrite_prefix: bool = False
  late_unconditional: bool = False
  idle_image_branches: tuple[str, ...] = ()
  idle_text_branches: tuple[str, ...] = ()
  idle_steps: bool = False
  image_counts: str = "initial"
  text_counts: str = "exact"
  open_end: bool = False
  leftover: str = "none"
  remask_known: bool = False
  any_text_id: bool = False
  text_behind_end: bool = False
  unscaled_image_temperature: bool = False
  normal_image_noise: bool = False
  constant_image_noise: bool = False
  confidence_floor: float = 0.0
  gumbel_draws: bool = False
  attended_padding: bool = False
  bfloat16_noise: bool = False

  def __post_init__(self) -> None:
    for name in ("idle_image_branches", "idle_text_branches"):
      object.__setattr__(self, name, tuple(getattr(self, name)))
      _check_all(name, getattr(self, name), guidance.BRANCHES)
    _check_all("image_counts", (self.image_counts,), schedule.IMAGE_COUNTS)
    _check_all("text_counts", (self.text_counts,), schedule.TEXT_COUNTS)
    _check_all("leftover", (self.leftover,), LEFTOVERS)

  @property
  def commits_are_final(self) -> bool:
    """Whether commit steps and final tokens describe the whole run."""
    return not (
      self.leftover != "none"
      or self.open_end
      or self.remask_known
      or self.any_text_id
    )


def _check_all(
  name: str, values: tuple[str, ...], allowed: tuple[str, ...]
) -> None:
  for value in values:
    if value not in allowed:
      raise ValueError(f"{name} must be of {allowed}, got {value!r}")


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
  """Settings of a sampler run; static, so each value compiles once.

  Attributes:
    num_steps: S, steps of the shared clock.
    decoding: "parallel": text and picture fall on one clock. Otherwise the
      picture's schedule runs over the steps from `image_start_rate` on, and
      the text is alone before it: "sequential" completes it there,
      "semi_parallel" goes on beside the picture. "picture_first" draws
      without having thought: the picture is complete at `text_start_rate`,
      and the text begins there.
    num_image_steps: steps at which the picture is updated.
    image_start_rate: share of the clock before the first of them.
    text_start_rate: share of the clock before the first word, of
      "picture_first" alone.
    text_end_rate: share of the clock by which the text is complete; below 1
      the last picture steps see all of it, which settles free choices.
    text_schedule: how the masked share of the text falls, one of
      `schedule.MASK_RATES`.
    image_schedule: how that of the picture falls.
    schedule_power: exponent of a schedule "pow".
    text_block_len: tokens a block of text; earlier blocks are committed
      first (semi-autoregressive). 0 makes one block of the text.
    text_confidence: what makes a text token sure, one of CONFIDENCES: its
      probability, the margin of the two largest probabilities, the negative
      entropy, or chance.
    image_confidence: what makes a picture token sure.
    text_temperature: divides text logits; 0 is greedy.
    image_temperature: divides picture logits; 0 is greedy.
    text_noise: Gumbel noise on text confidence, annealed to 0.
    image_noise: Gumbel noise on picture confidence, annealed to 0.
    end_penalty: subtracted from the confidence of an end of text; the surest
      tokens of an unwritten text are those behind its end, and committing
      them first settles the length before the words.
    text_guidance: guidance of the text logits.
    image_guidance: guidance of the picture logits.
    quirks: published behaviour to reproduce.
  """

  num_steps: int = 32
  decoding: str = "parallel"
  num_image_steps: int = 16
  image_start_rate: float = 0.25
  text_start_rate: float = 0.0
  text_end_rate: float = 1.0
  text_schedule: str = "linear"
  image_schedule: str = "cosine"
  schedule_power: float = 2.0
  text_block_len: int = 0
  text_confidence: str = "probability"
  image_confidence: str = "probability"
  text_temperature: float = 0.0
  image_temperature: float = 0.0
  text_noise: float = 0.0
  image_noise: float = 0.0
  end_penalty: float = 0.0
  text_guidance: guidance.Guidance = guidance.Guidance()
  image_guidance: guidance.Guidance = guidance.Guidance()
  quirks: Quirks = Quirks()

  def __post_init__(self) -> None:
    for modality in ("text", "image"):
      for name in (f"{modality}_temperature", f"{modality}_noise"):
        value = getattr(self, name)
        if not value >= 0.0:  # not a number neither
          raise ValueError(f"{name} must be at least 0, got {value}")
      for kind, allowed in (
        ("schedule", schedule.MASK_RATES),
        ("confidence", CONFIDENCES),
      ):
        name = f"{modality}_{kind}"
        _check_all(name, (getattr(self, name),), allowed)
    if self.text_block_len < 0 or self.schedule_power <= 0.0:
      raise ValueError(
        "text_block_len must be at least 0 and schedule_power positive, got "
        f"{self.text_block_len=} {self.schedule_power=}"
      )
    if self.quirks.text_counts != "exact" and self.text_schedule != "linear":
      raise ValueError(
        "text_counts other than exact need a linear text_schedule, got "
        f"{self.text_schedule!r}"
      )
    schedule.image_steps(
      num_steps=self.num_steps,
      num_image_steps=self.num_image_steps,
      start_rate=self.image_start_rate,
    )
    last = schedule.num_text_steps(
      num_steps=self.num_steps, text_end_rate=self.text_end_rate
    )
    _check_all("decoding", (self.decoding,), DECODINGS)
    if self.decoding == "picture_first":
      if not self.image_start < self.text_start < last:
        raise ValueError(
          "picture_first must begin the picture, then the text, then end it, "
          f"got {self.image_start_rate=} {self.text_start_rate=} "
          f"{self.text_end_rate=} of {self.num_steps=}"
        )
    elif self.text_start_rate != 0.0:
      raise ValueError(
        "text_start_rate must be 0 unless the decoding is picture_first, got "
        f"{self.text_start_rate=} {self.decoding=}"
      )
    if self.decoding == "sequential" and self.image_start == 0:
      raise ValueError(
        "sequential decoding must leave the text a step before the picture, "
        f"got {self.image_start_rate=} of {self.num_steps=}"
      )

  @property
  def image_start(self) -> int:
    """The first step at which the picture may be updated."""
    return int(self.image_start_rate * self.num_steps)

  @property
  def image_end(self) -> int:
    """The step by which the picture is complete."""
    is_first = self.decoding == "picture_first"
    return self.text_start if is_first else self.num_steps

  @property
  def text_start(self) -> int:
    """The first step at which text may be committed."""
    return int(self.text_start_rate * self.num_steps)

  @property
  def text_steps(self) -> int:
    """The steps that the text takes."""
    if self.decoding == "sequential":
      return self.image_start
    end = schedule.num_text_steps(
      num_steps=self.num_steps, text_end_rate=self.text_end_rate
    )
    return end - self.text_start

  def decoded(self, decoding: str, *, start_rate: float = 0.5) -> Self:
    """Return these settings with another decoding, as in table 10 of the paper.

    What comes first is alone up to `start_rate` of the clock. Parallel
    decoding keeps the rates that it has.
    """
    image_start_rate, text_start_rate = start_rate, 0.0
    if decoding == "parallel":
      image_start_rate = self.image_start_rate
    elif decoding == "picture_first":
      image_start_rate, text_start_rate = 0.0, start_rate
    return dataclasses.replace(
      self,
      decoding=decoding,
      image_start_rate=image_start_rate,
      text_start_rate=text_start_rate,
    )
