"""Laws of training a model further, whole or by adapters, also published ones.

The rows of a published model must be those that it is asked with, which
`ParallelPipeline.request` makes by another way.
"""
# mypy: disallow-untyped-defs=False

import dataclasses
import importlib
import io
import json

import jax
import mini_sft
import miniature
import numpy as np
import PIL.Image
import pytest
import skimage.data

from benchmarks import published_format
from experiments import common
from experiments import own_data
from experiments import sft
from experiments import sft_config
from experiments import sft_setup
from experiments.configs import sft_parallel_a
from paradiff import metrics
from paradiff import pipeline as pipeline_lib
from paradiff import published as published_lib
from paradiff.convert import synthetic
from paradiff.data import coded
from paradiff.data import coding
from paradiff.data import pretokenize

pytestmark = pytest.mark.usefixtures("cache_of_compiled_programs")
PHOTOGRAPHS = ("coffee", "astronaut", "cat", "rocket")
HEIGHTS = (300, 150, 300, 150)
MATRICES = ("q_proj", "k_proj", "v_proj", "attn_out", "gate", "up", "down")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """A saved model of the scenes world."""
  folder = tmp_path_factory.mktemp("base")
  miniature.make_pipeline().save(str(folder))
  return str(folder)


def _config(base, **changes):
  config = mini_sft.get_config()
  with config.unlocked():
    for name in ("variant", "image_tokenizer"):
      del config[name]
    config.fine_tune = base
    config.model = {}
    config.num_steps = 8
    for name, value in changes.items():
      config[name] = value
  return config


def _train(config, workdir):
  stream = io.StringIO()
  model = sft.train_and_evaluate(config, workdir, stream=stream)
  return jax.device_get(model.params)


def test_training_further_begins_with_the_model_itself(base, tmp_path):
  config = _config(base)
  config.optim.learning_rate = 1e-9  # stays where it begins
  config.optim.muon_ratio = 0.0
  config.optim.weight_decay = 0.0
  before = pipeline_lib.ParallelPipeline.from_pretrained(base).params
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7),
    _train(config, tmp_path),
    jax.device_get(before),
  )


def test_adapters_change_the_matrices_alone_by_their_rank(base, tmp_path):
  config = _config(base, lora=dict(rank=2, alpha=4.0))
  config.optim.muon_ratio = 0.0
  after = _train(config, tmp_path)
  before = pipeline_lib.ParallelPipeline.from_pretrained(base).params
  before = jax.device_get(before)
  for name, value in before.items():
    if name != "blocks":
      np.testing.assert_array_equal(after[name], value)
  for name, value in before["blocks"].items():
    change = (after["blocks"][name] - value).astype(np.float64)
    if name not in MATRICES:
      assert not change.any()
      continue
    inputs = 2 if name == "attn_out" else 1
    size = np.prod(change.shape[1 : 1 + inputs])
    for layer in change.reshape(len(change), size, -1):
      values = np.linalg.svd(layer, compute_uv=False)
      assert values[0] > 1e-5
      assert values[2] < 1e-3 * values[0]  # float32 of the sum, no more
  rows = [r for r in metrics.read(tmp_path) if "train/loss" in r]
  assert rows[-1]["train/loss"] < rows[0]["train/loss"]


def test_a_stopped_run_of_adapters_ends_as_an_unbroken_one(base, tmp_path):
  config = _config(base, lora=dict(rank=2, alpha=4.0))
  config.optim.muon_ratio = 0.0
  config.checkpoint.every = 4
  whole = _train(config, tmp_path / "whole")
  (tmp_path / "half").mkdir()
  kept = tmp_path / "whole" / "checkpoints" / "4"
  target = tmp_path / "half" / "checkpoints" / "4"
  target.parent.mkdir()
  kept.rename(target)
  half = _train(config, tmp_path / "half")
  jax.tree.map(np.testing.assert_array_equal, half, whole)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
  """A tiny MMaDA-Parallel-A with random weights."""
  folder = tmp_path_factory.mktemp("published")
  sizes = published_format.sizes("parallel_a")
  synthetic.build(folder, "parallel_a", sizes=sizes)
  pipe = pipeline_lib.ParallelPipeline.from_pretrained(
    str(folder), variant="parallel_a", picture_size=64
  )
  saved = tmp_path_factory.mktemp("saved")
  pipe.save(str(saved))
  return str(saved)


@pytest.fixture(scope="module")
def photographs(published, tmp_path_factory):
  """Photographs with edits that are known, as codes."""
  root = tmp_path_factory.mktemp("photographs")
  rows = []
  for name, height in zip(PHOTOGRAPHS, HEIGHTS, strict=True):
    picture = getattr(skimage.data, name)()[:height, :300]
    PIL.Image.fromarray(picture).save(root / f"{name}.png")
    PIL.Image.fromarray(255 - picture).save(root / f"{name}_inverted.png")
    rows.append(
      {
        "input_image": f"{name}.png",
        "output_image": f"{name}_inverted.png",
        "instruction": f"invert the {name}",
        "reasoning": "what was bright is dark",
      }
    )
  rows.append({**rows[0], "input_image": None})  # drawn from words
  (root / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
  job = pretokenize.make_job(
    source=str(root / "train.jsonl"),
    out=str(root / "coded"),
    image_tokenizer=published,
    options={"fit": "near"},
    scenes=(0, 0),
    batch_size=2,
  )
  coding.run(job, stream=io.StringIO())
  return root


def test_a_published_model_learns_the_rows_that_it_is_asked_with(
  published, photographs, tmp_path
):
  config = _config(
    published,
    lora=dict(rank=2, alpha=4.0),
    data=dict(
      folders=(str(photographs / "coded"),), held_out=str(photographs / "coded")
    ),
    batch_size=2,
    evaluate=dict(every=8, num_tasks=8, num_samples=4),
    model=dict(layout=dict(prompt_len=64, text_len=24)),
  )
  config.optim.muon_ratio = 0.0
  experiment = common.build(sft_config.Experiment, config)
  model = pipeline_lib.ParallelPipeline.from_pretrained(published)
  model = dataclasses.replace(
    model, variant=common.override(model.variant, experiment.model)
  )
  stream = io.StringIO()
  buckets, apart = own_data.load(
    experiment.data,
    model,
    [coded.CodedSource(photographs / "coded")] * 2,
    layout=own_data.layout_of(experiment.data, model),
    batch_size=1,
    folder=tmp_path,
    stream=stream,
  )
  assert "1 no input picture" in stream.getvalue()
  assert "2 examples: pictures of 2x4, prompts of 64" in stream.getvalue()
  assert [part.layout.grid for part in buckets] == [(2, 4), (4, 4)]
  assert [rows.layout for rows in apart] == [part.layout for part in buckets]
  for part, of_grid in zip(buckets, (1, 0), strict=True):
    [(rows, share)] = part.sources
    names = PHOTOGRAPHS[of_grid::2]
    assert share == len(rows) == len(names)
    for row, name in zip(rows, names, strict=True):
      request = model.request(
        [f"invert the {name}"], [photographs / f"{name}.png"]
      )
      assert request.layout == part.layout
      np.testing.assert_array_equal(row["prefix"], request.condition.prefix[0])
      np.testing.assert_array_equal(
        row["prefix_valid"], request.condition.valid[0]
      )
      known = request.answer[0] != model.variant.vocab.mask_id
      np.testing.assert_array_equal(
        row["answer"][known], request.answer[0][known]
      )
  _train(config, tmp_path / "run")
  again = pipeline_lib.ParallelPipeline.from_pretrained(
    str(tmp_path / "run" / "model")
  )
  assert again.variant == model.variant
  losses = [r for r in metrics.read(tmp_path / "run") if "eval/loss" in r]
  assert [np.isfinite(row["eval/loss"]) for row in losses] == [True]
  sheet = PIL.Image.open(tmp_path / "run" / "samples" / "0000008.png")
  assert sheet.size == (4 * 64, 3 * 64)  # both sizes on one sheet


@pytest.mark.parametrize("preset", sft_parallel_a.PRESETS)
@pytest.mark.parametrize("name", ["a", "m"])
def test_the_configs_of_the_published_models_are_whole(name, preset):
  module = importlib.import_module(f"experiments.configs.sft_parallel_{name}")
  experiment = common.build(sft_config.Experiment, module.get_config(preset))
  family = published_lib.VARIANTS[f"parallel_{name}"]
  variant = common.override(family, experiment.model)
  assert variant.layout.prompt_len == 128
  backbone = variant.transformer
  assert (backbone.remat, backbone.attention) == ("full", "fused")
  sft_setup.make_tx(experiment, variant)  # the optimiser's own checks
  assert (experiment.lora is not None) == (preset == "lora")
  with pytest.raises(ValueError, match="preset must be one of"):
    module.get_config("best")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"variant": "micro"}, "there must be no variant"),
    ({"fine_tune": None}, "either fine_tune or variant and image_tokenizer"),
    (
      {"fine_tune": None, "variant": "micro", "image_tokenizer": "x"},
      "lora must be None",
    ),
    ({"data": dict(size=8, task="edit")}, "data.task must be None"),
    ({"data": dict(size=0)}, "either a size"),
  ],
)
def test_contradictions_are_refused(base, tmp_path, changes, message):
  config = _config(base, lora=dict(rank=2), **changes)
  config.optim.muon_ratio = 0.0
  with pytest.raises(ValueError, match=message):
    _train(config, tmp_path)


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (dict(size=8), "must learn from data.folders"),
    (dict(task="describe"), "a text and a picture"),
    (dict(task="dance"), "must be asked for one of"),
    (dict(prompt_lens=(8,)), r"prompt_lens must lie in \[\d\d, 64\]"),
  ],
)
def test_what_a_published_model_cannot_learn_is_refused(
  published, photographs, tmp_path, data, message
):
  folders = () if "size" in data else (str(photographs / "coded"),)
  config = _config(published, data=dict(folders=folders, **data))
  with pytest.raises(ValueError, match=message):
    _train(config, tmp_path)
