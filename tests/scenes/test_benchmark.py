"""Laws of the fixed benchmark, its intervals and its table."""

import hashlib

import numpy as np
import pytest

from paradiff.scenes import benchmark
from paradiff.scenes import render
from paradiff.scenes import rules
from paradiff.scenes import score


@pytest.fixture(scope="module")
def examples():
  return benchmark.build()


@pytest.fixture(scope="module")
def truth(examples):
  return [
    score.score(e, e.reasoning, render.render(e.target)) for e in examples
  ]


def test_benchmark_is_fixed_and_held_out(examples):
  assert examples == benchmark.build()
  assert examples != benchmark.build(seed=1)
  numbers = {name: 0 for name in rules.CATEGORIES}
  for example in examples:
    numbers[example.category] += 1
    assert rules.split_of(example.category, example.prompt) == "test"
  assert all(numbers[name] == 40 for name in rules.EDIT_CATEGORIES)
  assert all(numbers[name] == 25 for name in rules.GENERATION_CATEGORIES)
  assert len({(e.prompt, e.source) for e in examples}) == 300


def test_a_third_of_the_edits_leave_a_choice(examples):
  free = [e.is_free for e in examples if e.kind == "edit"]
  assert np.mean(free) >= 1 / 3


def test_benchmark_has_not_changed(examples):
  # Made by this file's own `build`: a change of any template, weight or of
  # the order of draws makes another benchmark, and old figures void.
  text = "\n".join(f"{e.prompt}|{e.source}|{e.reasoning}" for e in examples)
  digest = hashlib.sha256(text.encode()).hexdigest()
  assert digest[:16] == "a05eb0a55e84dc2b"


def test_truth_is_one_and_copying_nothing_on_changes(examples, truth):
  names = ("text_alignment_changed", "image_alignment_changed")
  copied = benchmark.copy_scores(examples)
  summary = benchmark.summarise(examples, truth)
  base = benchmark.summarise(examples, copied)
  for name in names:
    assert summary["edit"][name].mean == 1.0
    assert summary["edit"][name].low == 1.0
    assert base["edit"][name].mean < 0.05
    assert base["generate"][name].mean == 0.0
  assert base["edit"]["image_consistency"].mean == 1.0


def test_groups_partition_the_tasks(examples):
  found = benchmark.groups(examples)
  both = found["edit: unambiguous"] ^ found["edit: free choice"]
  np.testing.assert_array_equal(both, found["edit"])
  np.testing.assert_array_equal(found["generate"], ~found["edit"])
  assert sum(found[name].sum() for name in rules.CATEGORIES) == 300


def _made_up(examples, *, shift, seed):
  rng = np.random.default_rng(seed)
  base = np.random.default_rng(0).random(len(examples))
  rows = []
  for value in base:
    noisy = value + shift + 0.01 * rng.normal()
    rows.append(dict.fromkeys(score.METRICS, float(noisy)))
  return rows


def test_intervals_hold_the_mean_and_have_the_normal_width(examples):
  scores = _made_up(examples, shift=0.0, seed=1)
  interval = benchmark.summarise(examples, scores)["edit"]["text_exact"]
  values = [s["text_exact"] for s in scores[:200]]
  assert interval.num == 200
  assert interval.mean == pytest.approx(np.mean(values))
  half = 1.96 * np.std(values) / np.sqrt(200)
  assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)
  assert interval.low < interval.mean < interval.high


def test_paired_differences_are_far_tighter_than_the_scores(examples):
  one = _made_up(examples, shift=0.05, seed=1)
  other = _made_up(examples, shift=0.0, seed=2)
  lead = benchmark.summarise(examples, one, baseline=other)["edit"]["solved"]
  alone = benchmark.summarise(examples, one)["edit"]["solved"]
  assert lead.mean == pytest.approx(0.05, abs=0.005)
  assert lead.low > 0.04
  assert (lead.high - lead.low) < 0.2 * (alone.high - alone.low)


def test_scores_without_a_value_are_left_out(examples, truth):
  summary = benchmark.summarise(examples, truth)
  assert summary["generate"]["image_consistency"].num == 0
  assert summary["edit"]["image_consistency"].num == 200


def test_table_shows_every_system_in_every_row(examples, truth):
  untrained = [dict.fromkeys(score.METRICS, 0.0)] * len(examples)
  text = benchmark.table(
    examples, truth, baselines={"untrained": untrained}, name="micro"
  )
  lines = text.splitlines()
  assert lines[0] == (
    "| group | metric | n | micro | copy input | untrained "
    "| micro - copy input |"
  )
  num_groups = len(benchmark.groups(examples))
  assert len(lines) == 2 + num_groups * len(score.METRICS)
  assert all(line.count("|") == 8 for line in lines)
  assert (
    "| edit | image_consistency | 200 | 1.000 [1.000, 1.000] "
    "| 1.000 [1.000, 1.000] | 0.000 [0.000, 0.000] "
    "| +0.000 [+0.000, +0.000] |"
  ) in lines


def test_table_shows_only_what_is_asked_for(examples, truth):
  text = benchmark.table(
    examples, truth, metrics=("solved",), only=("generate", "spatial")
  )
  cells = [line.split(" | ")[:3] for line in text.splitlines()[2:]]
  assert cells == [
    ["| spatial", "solved", "40"],
    ["| generate", "solved", "100"],
  ]


def test_missing_scores_are_refused(examples, truth):
  with pytest.raises(ValueError, match="one score an example"):
    benchmark.summarise(examples, truth[:-1])
