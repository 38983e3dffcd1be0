"""The stages and the report of `experiments.reproduce`, on stand-ins.

Trainings are folders that are written at once, answers are targets or wrong.
"""
# mypy: disallow-untyped-defs=False

import collections
import dataclasses
import io
import json
import re
import sys

import numpy as np
import pytest
from etils import epath

from experiments import common
from experiments import curves
from experiments import reproduce
from experiments import reproduce_parts as parts_lib
from experiments import reproduce_prompts as prompts_lib
from experiments import reproduce_report as report_lib
from experiments import reproduce_runs as runs
from experiments import reproduce_stages as stages
from experiments import reproduce_tables as tables_lib
from experiments import rewards as rewards_lib
from experiments import rl_config
from experiments import rl_setup
from experiments import sft_config
from experiments.configs import rl_micro
from paradiff import outputs as outputs_lib
from paradiff import variants
from paradiff.scenes import benchmark
from paradiff.scenes import render
from paradiff.scenes import rules
from paradiff.scenes import score
from paradiff.scenes import world

SCALE = runs.Scale(num_seeds=2, num_prompts=18, sft_steps=40, rl_iterations=4)
EXAMPLES = prompts_lib.held_out(SCALE.num_prompts)
# Of 18 prompts in turn, how many are answered rightly.
RIGHT = {
  ("sft_parallel", "parallel"): 6,
  ("sft_sequential", "sequential"): 9,
  ("micro", "parallel"): 3,
  ("rl_pararl", "parallel"): 12,
}


class Killed(BaseException):
  """What a kill looks like from inside."""


class Stub:
  """Trainers and answers that cost nothing and count what they are asked."""

  def __init__(self, *, killed_at=None):
    self.asked = collections.Counter()
    self.killed_at = killed_at

  def _count(self, what):
    if sum(self.asked.values()) == self.killed_at:
      raise Killed
    self.asked[what] += 1

  def train(self, config, folder, *, stream):
    del stream
    self._count(folder.name)
    common.write_config(config, folder)
    row = {"step": 2, "train/loss_text": 0.5, "train/loss_image": 0.25}
    row |= {"reward/total": 0.5, "rl/dead_groups": 0.1}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "tokenizer.json").write_text("{}")

  def answer(self, model, decoding, examples, *, decode_steps, on_progress):
    assert decode_steps == SCALE.decode_steps
    name = epath.Path(model).parent.name or model
    (kind,) = [k for k, d in runs.DECODINGS.items() if d == decoding]
    self._count((name, kind))
    num = RIGHT.get((re.sub(r"_\d$", "", name), kind), 0)
    on_progress(len(examples), len(examples))
    empty = outputs_lib.Output("", render.render(world.Scene()))
    return [
      outputs_lib.Output(example.reasoning, render.render(example.target))
      if i < num
      else empty
      for i, example in enumerate(examples)
    ]

  @property
  def work(self):
    return stages.Work(self.train, self.train, self.answer)


def run_of(root, work=stages.WORK, **changes):
  fields = dict(
    root=epath.Path(root),
    scale=SCALE,
    examples=EXAMPLES,
    stream=io.StringIO(),
    work=work,
  )
  return stages.Run(**{**fields, **changes})


def go(root, stub, letters=("a",), **changes):
  scale = changes.pop("scale", SCALE)
  return reproduce.reproduce(
    root,
    scale=scale,
    letters=letters,
    work=stub.work,
    stream=io.StringIO(),
    **changes,
  )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """Parts a and b of a run that nothing disturbed: folder and stand-in."""
  root, stub = tmp_path_factory.mktemp("run"), Stub()
  assert go(root, stub, ("a", "b")) == epath.Path(root) / "report.html"
  return root, stub


def test_each_training_and_each_answer_is_done_once(finished):
  _, stub = finished
  assert set(stub.asked.values()) == {1}
  trained = {name for name in stub.asked if isinstance(name, str)}
  names = ("sft_parallel", "sft_sequential", "rl_pararl")
  names += ("rl_output_level", "rl_final_on_states")
  assert trained == {f"{name}_{seed}" for name in names for seed in (0, 1)}
  answered = set(stub.asked) - trained
  # 6 systems of part a and 3 of b from two seeds each, the shipped one once.
  assert len(answered) == 2 * (6 + 3) + 1
  assert {d for n, d in answered if n == "micro"} == {"parallel"}


@pytest.mark.parametrize("killed_at", [1, 5])
def test_a_killed_run_goes_on_where_it_was(tmp_path, finished, killed_at):
  first = Stub(killed_at=killed_at)
  with pytest.raises(Killed):
    go(tmp_path, first)
  assert not (tmp_path / "report.html").exists()
  second = Stub()
  go(tmp_path, second)
  assert not set(first.asked) & set(second.asked)
  of_part_a = {
    what
    for what in finished[1].asked
    if str(what if isinstance(what, str) else what[0]).startswith("sft")
  }
  assert set(first.asked) | set(second.asked) == of_part_a
  system = parts_lib.System("sft_parallel", "parallel")
  here = stages.load(run_of(tmp_path), system, 1)
  there = stages.load(run_of(finished[0]), system, 1)
  np.testing.assert_array_equal(here.scores, there.scores)


def test_a_finished_run_does_nothing_again(finished):
  stub = Stub(killed_at=0)
  go(finished[0], stub, ("a", "b"))
  assert not stub.asked


def test_a_model_whose_writing_was_cut_short_is_trained_again(tmp_path):
  (tmp_path / "sft_parallel_0" / "model").mkdir(parents=True)
  stub = Stub()
  run = run_of(tmp_path, stub.work)
  stages.train(run, "sft_parallel", 0)
  assert stub.asked == {"sft_parallel_0": 1}
  stages.train(run, "sft_parallel", 0)
  assert stub.asked == {"sft_parallel_0": 1}


def test_results_of_other_settings_are_refused(tmp_path, finished):
  root, _ = finished
  longer = dataclasses.replace(SCALE, sft_steps=41)
  with pytest.raises(ValueError, match=r"num_steps: 40, here 41"):
    stages.train(run_of(root, scale=longer), "sft_parallel", 0)
  system = parts_lib.System("sft_parallel", "parallel")
  with pytest.raises(ValueError, match="num_prompts: 18, here 17"):
    stages.load(run_of(root, examples=EXAMPLES[:17]), system, 0)
  slower = dataclasses.replace(SCALE, decode_steps=20)
  with pytest.raises(ValueError, match="decoding/num_steps: 16, here 20"):
    stages.load(run_of(root, scale=slower), system, 0)
  # A decoding with steps of its own is as it was.
  own = parts_lib.System("sft_parallel", "parallel_64")
  answering = run_of(tmp_path, Stub().work)
  stages.do_answers(answering, own, 0, model="micro")
  stages.load(run_of(tmp_path, scale=slower), own, 0)


def test_damaged_answers_are_named(tmp_path):
  system = parts_lib.System("sft_parallel", "parallel")
  run = run_of(tmp_path)
  path = run.scores_path(system, 0)
  path.parent.mkdir()
  path.write_bytes(b"PK\x03\x04")
  with pytest.raises(ValueError, match="sft_parallel_0_parallel.npz"):
    stages.load(run, system, 0)


def test_scores_and_shown_pictures_are_those_of_the_answers(finished):
  root, _ = finished
  system = parts_lib.System("rl_pararl", "parallel")
  found = stages.load(run_of(root), system, 0)
  solved = found.scores[:, score.METRICS.index("solved")]
  np.testing.assert_array_equal(solved, [1.0] * 12 + [0.0] * 6)
  assert found.texts[0] == EXAMPLES[0].reasoning
  assert found.texts[-1] == ""
  places = prompts_lib.shown(18)
  assert len(places) == len(found.pictures) == 12
  np.testing.assert_array_equal(
    found.pictures[1], render.render(EXAMPLES[places[1]].target)
  )


def _row(text, *starts):
  """Return the cells of the one Markdown row that starts with `starts`."""
  head = "| " + " | ".join(starts) + " | "
  (line,) = [one for one in text.splitlines() if one.startswith(head)]
  return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_report_has_every_table_and_difference(finished):
  root, _ = finished
  text = (root / "report.md").read_text()
  page = (root / "report.html").read_text()
  num_groups = len(tables_lib.members(EXAMPLES))
  assert num_groups == 4
  for letter in ("a", "b"):
    part = parts_lib.PARTS[letter]
    assert part.title in text and part.title in page
    for group in tables_lib.GROUPS:
      for system in part.systems:
        assert _row(text, group, system.label)
      for ours, theirs in part.pairs:
        label = f"{ours.label}{tables_lib.MINUS}{theirs.label}"
        assert _row(text, group, label)
        assert label in page
    for row in part.paper[1:]:
      assert _row(text, *row[:1])[1:] == list(row[1:])
    for claim in part.claims:
      assert claim.text in text
  # Rows of pictures: every system, and twice the input and an answer.
  assert len(re.findall("<tr><th>[^<]", page)) == 6 + 4 + 2 * 2
  assert "| num prompts | 18 |" in text


def test_the_report_says_what_was_scored(finished):
  text = (finished[0] / "report.md").read_text()
  solved = 2 + tables_lib.METRICS.index("solved")
  parallel = "parallel training; parallel decoding"
  sequential = "sequential training; sequential decoding"
  assert _row(text, "all", parallel)[solved].startswith("33.3 [")
  assert _row(text, "all", sequential)[solved].startswith("50.0 [")
  difference = _row(text, "all", f"{parallel} minus {sequential}")[solved]
  assert difference.startswith("-16.7 [")
  # Nine prompts against three.
  lead = _row(
    text,
    "all",
    "ParaRL; parallel decoding minus SFT (shipped); parallel decoding",
  )[solved]
  assert lead.startswith("**+50.0 [")
  assert "**met**: ParaRL lifts output alignment by 5 points over SFT." in text


def test_the_page_needs_nothing_else_and_shows_the_pictures(finished):
  page = (finished[0] / "report.html").read_text()
  urls = re.findall(r'(?:src|href)="([^"]{0,40})', page)
  assert all(url.startswith("data:image/") for url in urls)
  assert sum(url.startswith("data:image/svg") for url in urls) == 2
  assert "<script" not in page
  target = render.render(EXAMPLES[0].target)
  assert report_lib._png(target) in page
  assert page.count('class="solved"') > 0


def test_one_seed_is_said_to_be_one(tmp_path):
  one = dataclasses.replace(SCALE, num_seeds=1)
  go(tmp_path, Stub(), ("d",), scale=one)
  text = (tmp_path / "report.md").read_text()
  assert "say nothing of the luck of a seed" in text


def test_the_report_keeps_the_parts_that_were_done_before(tmp_path):
  go(tmp_path, Stub(), ("d",))
  go(tmp_path, Stub(), ("a",))
  text = (tmp_path / "report.md").read_text()
  titles = [parts_lib.PARTS[letter].title for letter in ("a", "d")]
  assert [text.count(f"## {title}") for title in titles] == [1, 1]
  assert parts_lib.PARTS["b"].title not in text


def test_a_part_of_one_seed_shares_trainings_with_the_others(
  tmp_path, finished
):
  stub = Stub()
  done = tmp_path / "run"
  done.mkdir()
  (done / "scores").mkdir()
  for name in ("sft_parallel_0", "scores/sft_parallel_0_parallel.npz"):
    (done / name).symlink_to(finished[0] / name)
  go(done, stub, ("d",))
  assert {n for n in stub.asked if isinstance(n, str)} == {
    "sft_both_inv_t_0",
    "sft_both_one_0",
  }


@pytest.mark.parametrize(
  ("mean", "low", "high", "plain", "goal", "no_loss"),
  [
    (7.0, 1.0, 9.0, "holds", "met", "met"),
    (4.0, 1.0, 9.0, "holds", "not met", "met"),
    (7.0, -1.0, 9.0, "not clear", "not met", "met"),
    (-3.0, -5.0, 1.0, "not clear", "not met", "met"),
    (-3.0, -5.0, -1.0, "reversed", "not met", "not met"),
    (0.0, 0.0, 0.0, "not clear", "not met", "met"),
  ],
)
def test_a_verdict_follows_from_the_interval(
  mean, low, high, plain, goal, no_loss
):
  pair = parts_lib.PARTS["b"].pairs[0]
  lead = benchmark.Interval(mean, low, high, 18)
  for expected, options in (
    (plain, {}),
    (goal, {"least": 5.0}),
    (no_loss, {"is_no_loss": True}),
  ):
    part = dataclasses.replace(
      parts_lib.PARTS["b"],
      claims=(parts_lib.Claim("So it is.", pair, **options),),
    )
    row = dict.fromkeys(tables_lib.METRICS, lead)
    measured = tables_lib.Measured(
      means={"all": dict.fromkeys(part.systems, row)},
      leads={"all": dict.fromkeys(part.pairs, row)},
    )
    (finding,) = tables_lib.findings(part, measured)
    assert finding.verdict == expected
    assert f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" in finding.text
    (cells, *_) = tables_lib.tables(part, measured)[0].rows
    mark = "up" if low > 0 else "down" if high < 0 else ""
    assert {cell.mark for cell in cells[2:]} == {mark}


def test_every_claim_rests_on_a_difference_that_is_shown():
  for part in parts_lib.PARTS.values():
    assert {claim.pair for claim in part.claims} <= set(part.pairs)
    assert {s for pair in part.pairs for s in pair} <= set(part.systems)
    assert set(part.curves) <= {system.model for system in part.systems}


def test_edits_are_told_apart_by_category_where_a_part_asks_for_it():
  part = parts_lib.PARTS["e"]
  rng = np.random.default_rng(0)
  shape = (1, len(EXAMPLES), len(score.METRICS))
  scores = {system: rng.uniform(size=shape) for system in part.systems}
  measured = tables_lib.measure(part, scores, EXAMPLES, num_resamples=50)
  assert tuple(measured.means) == (tables_lib.ALL, *rules.EDIT_CATEGORIES)
  column = score.METRICS.index("image_alignment")
  for name in rules.EDIT_CATEGORIES:
    which = [i for i, e in enumerate(EXAMPLES) if e.category == name]
    for system in part.systems:
      mean = measured.means[name][system]["image_alignment"].mean
      assert mean == pytest.approx(
        100 * scores[system][0, which, column].mean()
      )
  finding = tables_lib.findings(part, measured)[0]
  assert all(f"on {name}" in finding.text for name in rules.EDIT_CATEGORIES)


def test_thinking_and_not_thinking_are_one_model_in_two_orders():
  part = parts_lib.PARTS["e"]
  (pair,) = {claim.pair for claim in part.claims}
  assert [s.model for s in pair] == ["sft_both_ways"] * 2
  thinking, not_thinking = (
    runs.DECODINGS[s.decoding].sampler(variants.MICRO.sampler, decode_steps=16)
    for s in pair
  )
  # As many steps for the picture, after all of the text or before any of it.
  assert thinking.text_steps == thinking.image_start == 8
  assert not_thinking.image_end == not_thinking.text_start == 8
  rows = runs.TRAININGS["sft_both_ways"].changes["loss.rows"]
  assert rows["clean_text"] == rows["absent_text"]


def test_held_out_prompts_are_new_and_in_proportion():
  examples = prompts_lib.held_out(600)
  assert examples == prompts_lib.held_out(600)
  assert examples[:5] != benchmark.build()[:5]
  assert len({(e.prompt, e.source) for e in examples}) == 600
  assert all(rules.split_of(e.category, e.prompt) == "test" for e in examples)
  numbers = collections.Counter(e.category for e in examples)
  assert numbers == {
    **dict.fromkeys(rules.EDIT_CATEGORIES, 80),
    **dict.fromkeys(rules.GENERATION_CATEGORIES, 50),
  }


def test_a_category_without_more_prompts_leaves_its_share_to_its_kind():
  examples = prompts_lib.held_out(960)
  numbers = collections.Counter(e.category for e in examples)
  assert sum(numbers.values()) == 960
  assert sum(numbers[c] for c in rules.EDIT_CATEGORIES) == 640
  assert numbers["counts"] < 75 < numbers["attributes"]
  assert len({(e.prompt, e.source) for e in examples}) == 960


def test_what_is_wrong_is_refused_before_anything_is_spent(tmp_path):
  stub = Stub(killed_at=0)
  with pytest.raises(ValueError, match=r"parts must be of .*'a', 'b'.*'x'"):
    go(tmp_path, stub, ("a", "x"))
  with pytest.raises(ValueError, match="parts must be of"):
    go(tmp_path, stub, ())
  with pytest.raises(ValueError, match="must be given --clip"):
    go(tmp_path, stub, ("a", "f"))
  with pytest.raises(FileNotFoundError, match="clip_stats"):
    go(tmp_path, stub, ("f",), clip=str(tmp_path))
  with pytest.raises(ValueError, match="'full', 'reduced'.*'huge'"):
    reproduce.make_scale("huge")
  with pytest.raises(ValueError, match="num_prompts must be at least 18"):
    reproduce.make_scale("reduced", num_prompts=3)
  assert not list(tmp_path.iterdir())


def test_a_flag_overrides_one_number_of_a_scale():
  scale = reproduce.make_scale("reduced", num_prompts=20, sft_steps=None)
  expected = dataclasses.replace(runs.SCALES["reduced"], num_prompts=20)
  assert scale == expected


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
  with pytest.raises(ImportError, match=r"paradiff\[report\]"):
    go(tmp_path, Stub(killed_at=0))


def test_decodings_change_the_sampler_of_the_variant_alone():
  base = variants.MICRO.sampler
  found = {
    name: decoding.sampler(base, decode_steps=16)
    for name, decoding in runs.DECODINGS.items()
  }
  sixteen = dataclasses.replace(base, num_steps=16, num_image_steps=8)
  assert found == {
    "parallel": sixteen,
    "semi_parallel": sixteen.decoded("semi_parallel"),
    "sequential": sixteen.decoded("sequential"),
    "picture_first": sixteen.decoded("picture_first"),
    "parallel_32": dataclasses.replace(base, num_steps=32),
    "parallel_64": base,
    "text_first": dataclasses.replace(sixteen, text_end_rate=0.5),
  }


def test_every_training_is_a_run_that_can_begin():
  configs = {
    name: runs.make_config(name, seed=5, scale=SCALE, cache="cache", clip="c")
    for name in runs.TRAININGS
  }
  for name, config in configs.items():
    assert (config.seed, config.evaluate.every) == (5, 0)
    if runs.TRAININGS[name].kind == "sft":
      common.build(sft_config.Experiment, config)
      continue
    experiment = common.build(rl_config.Experiment, config)
    sampler = common.override(variants.MICRO.sampler, experiment.sampler)
    variant = dataclasses.replace(variants.MICRO, sampler=sampler)
    exact = configs["rl_pararl"].rewards
    terms, _ = rewards_lib.build(exact)
    settings = rl_setup.make_config(experiment, variant, terms)
    settings.check(variant.layout)
    # Equal rollouts for all.
    rollouts = (config.num_iterations, config.num_prompts, config.group_size)
    assert rollouts == (4, 8, 8)
    # Equally many rows at a time.
    parts = config.num_microbatches / config.units.num
    assert parts == rl_micro.get_config().num_microbatches / 3
  assert configs["rl_clip"].rewards.to_dict() == {
    "clip": {"weight": 1.0, "normalise": "paper_clip", "folder": "c"}
  }
  assert configs["rl_output_level"].units.kind == "masked"
  assert configs["rl_output_level"].credit == "final"
  final = configs["rl_final_on_states"]
  assert (final.credit, final.units.kind) == ("final", "slices")
  final.credit = configs["rl_pararl"].credit
  assert final.to_dict() == configs["rl_pararl"].to_dict()


def test_the_two_supervised_trainings_differ_in_their_rows_alone():
  full = runs.SCALES["full"]
  parallel, sequential = (
    runs.make_config(name, seed=1, scale=full, cache="cache")
    for name in ("sft_parallel", "sft_sequential")
  )
  assert parallel.loss.rows.to_dict() == {}
  assert sequential.loss.rows.to_dict() == {
    "clean_text": 0.5,
    "absent_image": 0.5,
  }
  assert (parallel.num_steps, parallel.optim.warmup_steps) == (1500, 200)
  sequential.loss.rows = {}
  assert parallel.to_dict() == sequential.to_dict()


def _write_metrics(folder, rows):
  folder.mkdir()
  lines = [json.dumps(row) + "\n" for row in rows]
  (folder / "metrics.jsonl").write_text("".join(lines))
  return epath.Path(folder)


def test_curves_have_the_steps_that_all_seeds_have(tmp_path):
  one = _write_metrics(
    tmp_path / "one", [{"step": s, "x": s / 2, "y": 0} for s in (1, 2, 3)]
  )
  two = _write_metrics(
    tmp_path / "two", [{"step": 1, "x": 5.0}, {"step": 3, "x": 7.0}]
  )
  found = curves.curve([one, two], "x")
  assert found is not None
  assert found.steps.tolist() == [1, 3]
  assert found.values.tolist() == [[0.5, 1.5], [5.0, 7.0]]
  assert curves.curve([one, two], "y") is None
  assert curves.plot({"z": "nothing"}, {"one": [one]}, what="step") is None


def test_long_curves_are_running_means():
  values = np.random.default_rng(0).normal(size=(2, 24))
  found = curves.smoothed(values)
  for i in range(24):
    expected = values[:, max(0, i - 4) : i + 1].mean(axis=1)
    np.testing.assert_allclose(found[:, i], expected)
  np.testing.assert_array_equal(curves.smoothed(values[:, :7]), values[:, :7])


def test_seconds_come_from_either_kind_of_metrics(tmp_path):
  supervised = _write_metrics(
    tmp_path / "sft",
    [
      {"step": 100, "perf/steps_per_sec": 2.0},
      {"step": 150, "perf/steps_per_sec": 5.0},
    ],
  )
  assert curves.secs_of(supervised) == 60.0
  reinforced = _write_metrics(
    tmp_path / "rl",
    [{"step": s, "perf/a_secs": 1.5, "perf/b_secs": 2.0} for s in (1, 2)],
  )
  assert curves.secs_of(reinforced) == 7.0
