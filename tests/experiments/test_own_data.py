"""Laws of training on own data: it is what training on scenes is."""
# mypy: disallow-untyped-defs=False

import io
import json

import jax
import mini_sft
import numpy as np
import pytest

from experiments import own_data
from experiments import sft
from experiments import sft_config
from experiments import sft_setup
from paradiff import metrics
from paradiff import pipeline as pipeline_lib
from paradiff.data import coded
from paradiff.data import coding
from paradiff.data import pretokenize
from paradiff.data import train_words

pytestmark = pytest.mark.usefixtures("cache_of_compiled_programs")
SIZE = 64


def _pretokenize(source, out, tokenizer, *, scenes=(SIZE, 0), **options):
  job = pretokenize.make_job(
    source=source,
    out=str(out),
    image_tokenizer=tokenizer,
    options={"shard_size": 20, **options},
    scenes=scenes,
    batch_size=16,
  )
  coding.run(job, stream=io.StringIO())
  return str(out)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokenizer")
  mini_sft.write_image_tokenizer(folder)
  return str(folder)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
  """The scenes of the miniature run, as own data."""
  return _pretokenize("scenes", tmp_path_factory.mktemp("in") / "o", tokenizer)


@pytest.fixture(scope="module")
def held_out(tokenizer, tmp_path_factory):
  out = tmp_path_factory.mktemp("in") / "h"
  return _pretokenize("scenes", out, tokenizer, scenes=(24, 9))


def _config(tokenizer, **data):
  config = mini_sft.get_config()
  config.image_tokenizer = tokenizer
  config.num_steps = 8
  if data:
    config.data = data
  return config


def _train(config, workdir, stream=None):
  return sft.train_and_evaluate(config, workdir, stream=stream or io.StringIO())


def _params(model):
  return jax.device_get(model.params)


@pytest.fixture(scope="module")
def on_scenes(tokenizer, tmp_path_factory):
  return _train(_config(tokenizer), tmp_path_factory.mktemp("scenes"))


def test_a_folder_of_the_scenes_trains_as_the_scenes_do(
  tokenizer, folder, on_scenes, tmp_path
):
  own = _train(_config(tokenizer, folders=(folder,)), tmp_path)
  jax.tree.map(np.testing.assert_array_equal, _params(own), _params(on_scenes))


def test_a_run_goes_on_where_the_data_were_moved(
  tokenizer, folder, on_scenes, tmp_path
):
  config = _config(tokenizer, folders=(folder,))
  config.num_steps = 8
  _train(config, tmp_path / "run")
  before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
  moved = tmp_path / "moved"
  moved.mkdir()
  for path in coded.epath.Path(folder).iterdir():
    if path.is_file():
      path.copy(moved / path.name)
  config.data.folders = (str(moved),)
  _train(config, tmp_path / "run")
  assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
  other = _pretokenize("scenes", tmp_path / "o", tokenizer, scenes=(30, 1))
  config.data.folders = (other,)
  with pytest.raises(ValueError, match="folders"):
    _train(config, tmp_path / "run")


def test_held_out_examples_are_scored_and_shown(
  tokenizer, folder, held_out, tmp_path
):
  config = _config(tokenizer, folders=(folder,), held_out=held_out)
  config.evaluate = dict(
    every=4, num_tasks=16, num_samples=2, best_metric="eval/loss"
  )
  config.evaluate.best_mode = "min"
  model = _train(config, tmp_path)
  rows = [row for row in metrics.read(tmp_path) if "eval/loss" in row]
  assert [row["step"] for row in rows] == [4, 8]
  assert rows[1]["eval/loss"] < rows[0]["eval/loss"]
  assert (tmp_path / "samples" / "0000008.png").exists()
  assert len(list((tmp_path / "best").glob("[0-9]*"))) == 1
  # The same rows and masks each time, none of them learned from.
  loss = _loss_of(config, model, held_out)
  assert rows[1]["eval/loss"] == pytest.approx(loss, rel=1e-5)


def _loss_of(config, model, held_out):
  """The loss written out: two batches of 8 in the order of seed 0."""
  import dataclasses

  import grain

  from experiments import common
  from paradiff.data import token_rows

  experiment = common.build(sft_config.Experiment, config)
  loss = dataclasses.replace(
    experiment.loss, drop_text_rate=0.0, drop_image_rate=0.0
  )
  loss_fn = sft_setup.make_loss(loss, model.variant)
  source = coded.CodedSource(held_out)
  order = grain.MapDataset.range(len(source)).seed(0).shuffle()
  found = []
  for number in range(2):
    made = [
      token_rows.make(
        source[int(order[i])],
        layout=model.variant.layout,
        vocab=model.variant.vocab,
        text_tokenizer=model.text_tokenizer,
      )
      for i in range(8 * number, 8 * number + 8)
    ]
    batch = {
      name: jax.numpy.stack([row[name] for row in made]) for name in made[0]
    }
    key = jax.random.fold_in(jax.random.key(0), number)
    found.append(float(loss_fn(model.params, batch, key)[0]))
  return np.mean(found)


def test_own_words_and_pictures_from_files_to_an_edit(tokenizer, tmp_path):
  rng = np.random.default_rng(0)
  lines = []
  for i in range(12):
    for side in "ab":
      picture = rng.integers(0, 256, (64, 64, 3), np.uint8)
      pretokenize.PIL.Image.fromarray(picture).save(tmp_path / f"{i}{side}.png")
    lines.append(
      dict(
        image=f"{i}a.png",
        instruction=f"Déjà vu n° {i}!",
        reasoning="Rien." if i else "A reasoning too long. " * 20,
        output_image=f"{i}b.png",
      )
    )
  source = tmp_path / "train.jsonl"
  source.write_text("".join(json.dumps(line) + "\n" for line in lines))
  out = _pretokenize(str(source), tmp_path / "coded", tokenizer)
  words = train_words.train([x["instruction"] for x in lines], size=280)
  words.save(tmp_path / "words")

  config = mini_sft.get_config()
  config.image_tokenizer = tokenizer
  config.text_tokenizer = str(tmp_path / "words")
  config.num_steps = 5
  config.batch_size = 4
  config.data = dict(folders=(out,))
  config.model = dict(
    layout=dict(prompt_len=24, text_len=12),
    transformer=dict(width=16, num_layers=1, num_heads=2, mlp_width=16),
    sampler=dict(num_steps=4, num_image_steps=2),
  )
  stream = io.StringIO()
  _train(config, tmp_path / "run", stream)
  assert "11 of 12 examples fit; left out:" in stream.getvalue()
  assert "1 a reasoning of more than 11 tokens" in stream.getvalue()
  model = pipeline_lib.ParallelPipeline.from_pretrained(
    str(tmp_path / "run" / "model")
  )
  assert model.variant.vocab.text_size == len(words)
  (output,) = model(["Déjà vu!"], [str(tmp_path / "3a.png")])
  assert output.picture.shape == (64, 64, 3)


def test_what_cannot_be_learned_from_is_refused_at_once(
  tokenizer, folder, tmp_path
):
  with pytest.raises(ValueError, match="either a size, of scenes, or folders"):
    own_data.DataConfig()
  with pytest.raises(ValueError, match="either a size, of scenes, or folders"):
    own_data.DataConfig(size=3, folders=("a",))
  with pytest.raises(ValueError, match="shares must be positive, one a folder"):
    own_data.DataConfig(folders=("a", "b"), shares=(1.0,))
  config = _config(tokenizer, folders=(folder,))
  config.evaluate.every = 4
  with pytest.raises(ValueError, match="held_out must name a folder"):
    _train(config, tmp_path / "run")
  config = _config(tokenizer, folders=(str(tmp_path),))
  with pytest.raises(FileNotFoundError, match="complete folder"):
    _train(config, tmp_path / "run")
  other = _pretokenize("scenes", tmp_path / "o", "micro", scenes=(4, 0))
  config = _config(tokenizer, folders=(other,))
  with pytest.raises(ValueError, match="this run's image tokenizer"):
    _train(config, tmp_path / "run")
  config = _config(tokenizer, folders=(folder,))
  config.model.layout = dict(prompt_len=2)
  with pytest.raises(ValueError, match=r"got none of 64:\s+64 an instruction"):
    _train(config, tmp_path / "run")
  assert not (tmp_path / "run" / "metrics.jsonl").exists()
