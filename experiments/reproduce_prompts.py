"""The held-out prompts that `experiments.reproduce` scores every system on."""

from typing import Any

import numpy as np

from experiments import watch
from paradiff.scenes import rules

PROMPTS_SEED = 20_260_202  # not that of the benchmark
NUM_SHOWN = 12
_MAX_DRAWS = 400  # without a new prompt: the category has no more
_EDIT_RATE = 2 / 3  # the benchmark's 200 of 300


def held_out(
  num: int, *, seed: int = PROMPTS_SEED
) -> tuple[rules.Example, ...]:
  """Return held-out prompts, two edits to one picture from words.

  The categories of each kind have equal shares. One that has not as many
  different prompts gives the rest of its share to the others of its kind.

  Args:
    num: how many, no two alike.
    seed: another seed gives other prompts.

  Returns:
    The prompts, by category.

  Raises:
    ValueError: if there are not as many.
  """
  rng = np.random.default_rng(seed)
  num_edits = round(num * _EDIT_RATE)
  examples: list[rules.Example] = []
  for categories, wanted in (
    (rules.EDIT_CATEGORIES, num_edits),
    (rules.GENERATION_CATEGORIES, num - num_edits),
  ):
    found: dict[str, dict[Any, rules.Example]] = {c: {} for c in categories}
    is_open = list(categories)
    for i in range(wanted):
      while is_open:
        category = is_open[i % len(is_open)]
        if _add_new(rng, category, found[category]):
          break
        is_open.remove(category)
      else:
        raise ValueError(
          f"there must be {wanted} different held-out prompts of "
          f"{categories}, found {i}"
        )
    examples += [e for one in found.values() for e in one.values()]
  return tuple(examples)


def _add_new(
  rng: np.random.Generator, category: str, found: dict[Any, rules.Example]
) -> bool:
  """Draw until a prompt is not in `found`; return whether there was one."""
  for _ in range(_MAX_DRAWS):
    example = rules.sample(rng, split="test", category=category)
    task = (example.prompt, example.source)
    if task not in found:
      found[task] = example
      return True
  return False


def shown(num: int) -> tuple[int, ...]:
  """Return which of `num` prompts are shown with their pictures."""
  return watch.spread(range(num), NUM_SHOWN)
