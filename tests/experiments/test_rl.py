"""Laws of the ParaRL loop."""
# mypy: disallow-untyped-defs=False

import io

import jax
import launched
import mini_rl
import numpy as np
import pytest

from experiments import rl
from experiments import rl_setup
from paradiff import checkpoints
from paradiff import metrics
from paradiff import pipeline as pipeline_lib
from paradiff.rl import reward as reward_lib

pytestmark = pytest.mark.usefixtures("cache_of_compiled_programs")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  return mini_rl.write_model(tmp_path_factory.mktemp("model"))


def _config(model, preset="recommended", **changes):
  config = mini_rl.get_config(preset)
  config.model = model
  with config.unlocked():
    for name, value in changes.items():
      config[name] = value
  return config


def _train(config, workdir):
  stream = io.StringIO()
  return rl.train_and_evaluate(config, workdir, stream=stream), stream


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("finished")
  policy, stream = _train(_config(model), workdir)
  return policy, workdir, stream.getvalue()


def test_a_run_moves_the_policy_and_writes_everything(finished, model):
  policy, workdir, shown = finished
  before = pipeline_lib.ParallelPipeline.from_pretrained(model)
  moved = jax.tree.map(
    lambda a, b: float(np.abs(a - b).max()), policy.params, before.params
  )
  assert max(jax.tree.leaves(moved)) > 0
  rows = metrics.read(workdir)
  assert [row["step"] for row in rows] == [1, 2, 3, 4]
  for phase in ("rollout", "decode", "reward", "scoring", "update"):
    assert all(row[f"perf/{phase}_secs"] > 0 for row in rows)
    assert f"{phase}_s" in shown
  for name in ("reward/total", "reward/red", "rl/dead_groups", "rl/kl"):
    assert name in rows[0]
  assert rows[0]["rl/ratio_text"] == pytest.approx(1.0, abs=1e-5)
  assert rows[0]["rl/clip_fraction_text"] == 0
  assert rows[0]["train/grad_norm"] > 0
  names = {path.name for path in (workdir / "samples").iterdir()}
  assert {"rollouts_0000002.png", "rollouts_0000004.txt"} <= names
  text = (workdir / "samples" / "rollouts_0000004.txt").read_text()
  assert "committed:" in text and "red 0." in text
  again = pipeline_lib.ParallelPipeline.from_pretrained(str(workdir / "model"))
  jax.tree.map(np.testing.assert_array_equal, again.params, policy.params)
  assert again.variant == before.variant  # not the settings of the run


def _fickle(model, **changes):
  reward = dict(function="mini_rl:fickle", normalise="zscore")
  return _config(model, rewards=dict(red=reward), **changes)


def _break_after(calls, workdir, config, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(mini_rl, "CALLS_LEFT", [calls])
    with pytest.raises(reward_lib.RewardError, match=r"red.*judge is away"):
      _train(config, workdir)


def test_a_resumed_run_ends_with_the_same_bits(model, tmp_path, monkeypatch):
  config = _fickle(model)
  whole, _ = _train(config, tmp_path / "whole")
  stopped = tmp_path / "stopped"
  # Saved by its failure, between two checkpoints: the third is odd.
  _break_after(3, stopped, config, monkeypatch)
  with launched.told_to_stop(4):
    _train(config, stopped)
  rest, stream = _train(config, stopped)
  assert "resuming at iteration 4" in stream.getvalue()
  jax.tree.map(np.testing.assert_array_equal, rest.params, whole.params)
  rows = [metrics.read(folder) for folder in (tmp_path / "whole", stopped)]
  for name in ("reward/total", "rl/kl", "train/loss"):
    assert [r[name] for r in rows[0]] == [r[name] for r in rows[1]]
  # Running statistics matter: from the fourth batch alone they are others.
  assert rows[0][3]["reward/total"] != 0.0


def test_adapters_alone_are_trained_and_merged(model, tmp_path):
  config = _config(model, lora=dict(rank=2, alpha=4.0), num_microbatches=2)
  run = rl_setup.set_up(config, folder=tmp_path, stream=io.StringIO())
  assert run.reference is None  # the frozen weights are it
  names = checkpoints.flatten(run.state.params)
  assert all(name.endswith(("/a", "/b")) for name in names)
  policy, _ = _train(config, tmp_path)
  before = pipeline_lib.ParallelPipeline.from_pretrained(model).params
  np.testing.assert_array_equal(policy.params["embed"], before["embed"])
  assert (policy.params["blocks"]["q_proj"] != before["blocks"]["q_proj"]).any()
  kl = [row["rl/kl"] for row in metrics.read(tmp_path)]
  assert abs(kl[0]) < 1e-6 < kl[-1]


def test_several_updates_move_the_ratio(model, tmp_path):
  config = _config(model, "paper", num_updates=2, num_iterations=2)
  config.optim.learning_rate = 1e-2
  _train(config, tmp_path)
  rows = metrics.read(tmp_path)
  # Metrics are those of the last update of an iteration.
  assert abs(rows[-1]["rl/ratio_text"] - 1.0) > 1e-5
  assert rows[-1]["rl/kl"] > 0


def test_an_adaptive_weight_of_the_kl_moves_and_is_kept(model, tmp_path):
  config = _config(model, kl=dict(coef=0.1, target=1e3, rate=1.0))
  _train(config, tmp_path)
  coefs = [row["rl/kl_coef"] for row in metrics.read(tmp_path)]
  # Far below the target it falls by a fifth each time.
  np.testing.assert_allclose(coefs, 0.1 * 0.8 ** np.arange(4), rtol=1e-5)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(group_size=1), "group_size must be at least 2"),
    (dict(units=dict(kind="all", num=99)), "num must be at most"),
    (dict(units=dict(kind="masked"), credit="mix"), 'have the credit "final"'),
    (dict(temperature=0.0), "temperature must be positive"),
    (dict(sampler=dict(quirks=dict(any_text_id=True))), "without quirks"),
    (dict(num_microbatches=5), "num_microbatches must divide"),
    (dict(rewards=dict(judge=dict())), "kind of the reward 'judge' must be"),
    (dict(rewards=dict(x=dict(function="no.such:thing"))), "importable"),
    (dict(rewards=dict(clip=dict())), "folder must name a CLIP"),
    (dict(rewards=dict()), "at least one reward"),
    (dict(reference="micro"), "must be of the policy's variant"),
    (
      dict(objective=dict(score_set="candidates")),
      "candidates must be scored at isolated steps",
    ),
  ],
  ids=str,
)
def test_bad_input_is_refused_before_a_rollout(
  changes, message, model, tmp_path
):
  with pytest.raises(ValueError, match=message):
    _train(_config(model, **changes), tmp_path)
  assert not (tmp_path / "metrics.jsonl").exists()


def test_a_missing_clip_is_named(model, tmp_path):
  config = _config(model, rewards=dict(clip=dict(folder=str(tmp_path))))
  with pytest.raises(FileNotFoundError, match="a folder with a CLIP must hold"):
    _train(config, tmp_path)
