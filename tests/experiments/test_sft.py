"""Laws of the supervised loop that need no kill."""
# mypy: disallow-untyped-defs=False

import io

import jax
import jax.numpy as jnp
import mini_sft
import numpy as np
import pytest

from experiments import common
from experiments import sft
from experiments import start
from paradiff import metrics
from paradiff import pipeline
from paradiff import pretrained
from paradiff import step as step_lib

pytestmark = pytest.mark.usefixtures("cache_of_compiled_programs")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokenizer")
  mini_sft.write_image_tokenizer(folder)
  return str(folder)


def _config(tokenizer, **sections):
  config = mini_sft.get_config()
  config.image_tokenizer = tokenizer
  config.num_steps = 16
  for name, value in sections.items():
    if isinstance(value, dict) and name in config:
      config[name].update(value)
    else:
      config[name] = value
  return config


def _train(config, workdir):
  return sft.train_and_evaluate(config, workdir, stream=io.StringIO())


@pytest.fixture(scope="module")
def finished(tokenizer, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("finished")
  model = _train(_config(tokenizer, evaluate=dict(every=8)), workdir)
  return model, workdir


def test_the_loss_falls_and_all_is_written(finished):
  _, workdir = finished
  rows = metrics.read(workdir)
  losses = [row["train/loss"] for row in rows]
  assert losses[-1] < losses[0]
  assert [row["step"] for row in rows] == [4, 8, 12, 16]
  assert all(row["train/tokens_text"] > 0 for row in rows)
  assert {p.name for p in workdir.iterdir()} >= {
    "best",
    "cache",
    "checkpoints",
    "config.json",
    "metrics.jsonl",
    "model",
    "samples",
    "tensorboard",
  }


def test_scores_and_samples_come_at_intervals(finished):
  _, workdir = finished
  scored = [
    row["step"]
    for row in metrics.read(workdir)
    if any(name.startswith("eval/") for name in row)
  ]
  assert scored == [8, 16]
  names = sorted(p.name for p in (workdir / "samples").iterdir())
  assert names == [
    "0000008.png",
    "0000008.txt",
    "0000016.png",
    "0000016.txt",
  ]
  assert len(list((workdir / "best").glob("[0-9]*"))) == 1


def test_the_written_model_is_the_trained_one(finished):
  model, workdir = finished
  loaded = pipeline.ParallelPipeline.from_pretrained(str(workdir / "model"))
  assert loaded.variant == model.variant
  jax.tree.map(
    np.testing.assert_array_equal,
    jax.device_get(loaded.params),
    jax.device_get(model.params),
  )


def test_a_finished_run_is_left_as_it_is(finished, tokenizer):
  _, workdir = finished
  before = (workdir / "metrics.jsonl").read_bytes()
  _train(_config(tokenizer, evaluate=dict(every=8)), workdir)
  assert (workdir / "metrics.jsonl").read_bytes() == before


def test_another_variant_is_refused_naming_both(finished, tokenizer):
  _, workdir = finished
  other = _config(tokenizer)
  other.model.name = "another"
  with pytest.raises(ValueError, match="variant: 'micro', here 'another'"):
    _train(other, workdir)


def test_a_mesh_trains_as_one_device_does(finished, tokenizer, tmp_path):
  _, workdir = finished
  mesh = dict(data=2, fsdp=2, tensor=2)
  _train(_config(tokenizer, num_steps=8, mesh=mesh), tmp_path)
  one, many = metrics.read(workdir)[0], metrics.read(tmp_path)[0]
  for name in ("train/loss", "train/grad_norm"):
    np.testing.assert_allclose(many[name], one[name], rtol=1e-4)
  assert many["train/tokens_text"] == one["train/tokens_text"]


def test_a_loss_that_is_not_finite_stops_before_the_checkpoint(
  tokenizer, tmp_path, monkeypatch
):
  make = step_lib.make_train_step

  def poisoned(*args, **options):
    train_step = make(*args, **options)

    def run(state, batch, frozen):
      new, values = train_step(state, batch, frozen)
      loss = jnp.where(state.step == 12, jnp.nan, values["train/loss"])
      return new, {**values, "train/loss": loss}

    return run

  monkeypatch.setattr(step_lib, "make_train_step", poisoned)
  with pytest.raises(common.NonFinite, match="at step 13"):
    _train(_config(tokenizer), tmp_path)
  names = [p.name for p in (tmp_path / "checkpoints").glob("[0-9]*")]
  assert names == ["8"]
  assert not (tmp_path / "model").exists()
  monkeypatch.undo()
  _train(_config(tokenizer), tmp_path)  # resumes from the good one
  assert [row["step"] for row in metrics.read(tmp_path)] == [4, 8, 12, 16]


def test_unknown_keys_and_variants_are_refused_by_name(tokenizer, tmp_path):
  config = _config(tokenizer)
  config.loss.text_wieght = "one"
  with pytest.raises(ValueError, match="text_wieght"):
    _train(config, tmp_path)
  config = _config(tokenizer, variant="huge")
  with pytest.raises(ValueError, match=r"'micro', .*'tiny'\], got 'huge'"):
    _train(config, tmp_path)


def test_a_wrong_image_tokenizer_is_refused_by_name(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"image_tokenizer\.json"):
    _train(_config(str(tmp_path)), tmp_path / "run")
  pretrained.save(
    tmp_path, "image_tokenizer", {"encoder": {"w": np.ones(2)}}, {}
  )
  with pytest.raises(ValueError, match=r"image_tokenizer\.safetensors"):
    _train(_config(str(tmp_path)), tmp_path / "run")


def test_a_run_leaves_the_mean_of_its_parameters_behind(tokenizer, tmp_path):
  config = _config(tokenizer)
  config.num_steps = 8
  config.optim.ema_rate = 0.9
  averaged = _train(config, tmp_path / "mean")
  config.optim.ema_rate = 0.0
  last = _train(config, tmp_path / "last")
  drawn = start.make_init(None, last.variant)(
    jax.random.split(jax.random.key(config.seed))[0]
  )

  def apart(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum(float(jnp.square(x - y).sum()) for x, y in pairs)

  # Between the first and the last: eight updates at 0.9 still weigh the first.
  way = apart(drawn, last.params)
  assert 0 < apart(averaged.params, last.params) < way
  assert 0 < apart(averaged.params, drawn) < way


def test_a_batch_may_be_worked_through_in_parts(tokenizer, tmp_path):
  config = _config(tokenizer)
  config.num_steps = 8
  config.num_microbatches = 2
  model = _train(config, tmp_path / "parts")
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model.params))
  config.num_microbatches = 1
  _train(config, tmp_path / "whole")
  # Counts are means over the parts, and a part has half the rows.
  parts, whole = (
    np.mean([row["train/tokens_text"] for row in metrics.read(tmp_path / name)])
    for name in ("parts", "whole")
  )
  assert 0.3 < parts / whole < 0.7
  config.num_microbatches = 3
  with pytest.raises(ValueError, match="num_microbatches must divide"):
    _train(config, tmp_path / "odd")
