"""Two-level bootstrap intervals: over training seeds and over prompts.

A score depends on the seed that a model was trained from and on the prompt, so
both are resampled, independently of each other (Davison and Hinkley 1997,
section 3.8, crossed factors; Bouthillier et al., arXiv 2103.03098, on why seeds
belong into the interval). All systems share seeds and prompts and are held
against each other on the same resamples: differences are paired.

With 2 seeds that score 0 and 1 on every prompt, a resample holds the same seed
twice with probability 1/2, so the interval of the mean 0.5 is [0, 1]. Few seeds
give intervals that are somewhat too short; one seed says nothing of seeds.
"""

import dataclasses

import numpy as np

from paradiff.scenes import benchmark

NUM_RESAMPLES = 2000
_PERCENTILES = (2.5, 97.5)


@dataclasses.dataclass(frozen=True, eq=False)
class Resamples:
  """How often each seed and each prompt is in each of K resamples.

  Attributes:
    seeds: float64[K, S], rows add up to S.
    prompts: float64[K, N], rows add up to N.
  """

  seeds: np.ndarray
  prompts: np.ndarray


def draw(
  num_seeds: int,
  num_prompts: int,
  *,
  seed: int = 0,
  num_resamples: int = NUM_RESAMPLES,
) -> Resamples:
  """Draw resamples of seeds and prompts with replacement.

  Args:
    num_seeds: S; with one, only prompts are resampled.
    num_prompts: N.
    seed: of the resamples; those of the prompts do not depend on S.
    num_resamples: K.

  Raises:
    ValueError: if a number is not positive.
  """
  if min(num_seeds, num_prompts, num_resamples) < 1:
    raise ValueError(
      "there must be at least one seed, prompt and resample, got "
      f"{num_seeds=} {num_prompts=} {num_resamples=}"
    )

  def counts(rng: np.random.Generator, num: int) -> np.ndarray:
    shares = np.full(num, 1 / num)
    drawn = rng.multinomial(num, shares, size=num_resamples)
    return drawn.astype(np.float64)

  of_seeds, of_prompts = np.random.default_rng(seed).spawn(2)
  return Resamples(
    seeds=counts(of_seeds, num_seeds),
    prompts=counts(of_prompts, num_prompts),
  )


def intervals(
  values: np.ndarray, resamples: Resamples
) -> list[benchmark.Interval]:
  """Return mean and 95 % interval of every column.

  Args:
    values: float64[S, N, M]; what is not a number is left out.
    resamples: of S seeds and N prompts.

  Returns:
    M intervals; `num` is how many of the N prompts have a value at all, and
    with none of them the others are nan.

  Raises:
    ValueError: if the resamples are of other numbers of seeds or prompts.
  """
  expected = (resamples.seeds.shape[1], resamples.prompts.shape[1])
  if values.ndim != 3 or values.shape[:2] != expected:
    raise ValueError(
      f"values must be of {expected} seeds and prompts and have three axes, "
      f"got {values.shape}"
    )
  known = np.isfinite(values)
  filled = np.where(known, values, 0.0)

  def totals(array: np.ndarray) -> np.ndarray:
    """Return float64[K, M], the sums over both levels in each resample."""
    by_seed = np.einsum("kn,snm->ksm", resamples.prompts, array, optimize=True)
    return np.einsum("ks,ksm->km", resamples.seeds, by_seed)

  # A sum over the values that count, by how many of them there are.
  sums, counts = totals(filled), totals(known.astype(np.float64))
  means = np.divide(
    sums, counts, out=np.full_like(sums, np.nan), where=counts > 0
  )
  found = []
  for column in range(values.shape[2]):
    here = known[..., column]
    num = int(here.any(axis=0).sum())
    if num == 0:
      found.append(benchmark.Interval(np.nan, np.nan, np.nan, 0))
      continue
    mean = filled[..., column].sum() / here.sum()
    low, high = np.nanpercentile(means[:, column], _PERCENTILES)
    found.append(benchmark.Interval(float(mean), float(low), float(high), num))
  return found


def differences(
  ours: np.ndarray, theirs: np.ndarray, resamples: Resamples
) -> list[benchmark.Interval]:
  """Return mean and 95 % interval of `ours - theirs`, paired.

  Args:
    ours: float64[S, N, M], or [1, N, M] for a system without seeds.
    theirs: likewise; seed s of one is held against seed s of the other.
    resamples: of S seeds and N prompts.

  Raises:
    ValueError: as `intervals`.
  """
  paired = ours - theirs
  num_seeds = resamples.seeds.shape[1]
  if paired.ndim == 3 and len(paired) == 1:  # both without seeds
    paired = np.repeat(paired, num_seeds, axis=0)
  return intervals(paired, resamples)


def is_clear(interval: benchmark.Interval) -> bool:
  """Return whether an interval leaves out zero."""
  return interval.low > 0.0 or interval.high < 0.0
