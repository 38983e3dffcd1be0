"""ParaRL on one's own prompts and pictures, with a published model's layout."""
# mypy: disallow-untyped-defs=False

import importlib
import io
import json

import jax
import mini_rl
import numpy as np
import PIL.Image
import pytest
import skimage.data

from benchmarks import published_format
from experiments import common
from experiments import prompts as prompts_lib
from experiments import rl
from experiments import rl_config
from paradiff import metrics
from paradiff import pipeline as pipeline_lib
from paradiff import published
from paradiff import variants
from paradiff.convert import synthetic

pytestmark = pytest.mark.usefixtures("cache_of_compiled_programs")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """Return the folder of a tiny MMaDA-Parallel-A with random weights."""
  folder = tmp_path_factory.mktemp("published")
  sizes = published_format.sizes("parallel_a")
  synthetic.build(folder, "parallel_a", sizes=sizes)
  pipe = pipeline_lib.ParallelPipeline.from_pretrained(
    str(folder),
    variant="parallel_a",
    picture_size=64,
  )
  saved = tmp_path_factory.mktemp("saved")
  pipe.save(str(saved))
  return str(saved)


def _write(folder, rows):
  path = folder / "prompts.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


@pytest.fixture
def photographs(tmp_path):
  for name in ("coffee", "astronaut"):
    picture = getattr(skimage.data, name)()
    PIL.Image.fromarray(picture[:400, :400]).save(tmp_path / f"{name}.png")
  return _write(
    tmp_path,
    [
      {"prompt": "make the cup red", "image": "coffee.png"},
      {"prompt": "take the helmet off", "image": "astronaut.png"},
      {"prompt": "paint the table blue", "image": "coffee.png"},
    ],
  )


def test_a_published_model_learns_from_own_pictures(
  model, photographs, tmp_path
):
  config = mini_rl.get_config()
  config.model = model
  with config.unlocked():
    config.data = dict(path=photographs, text_len=6)
    config.lora = dict(rank=2, alpha=4.0)
    config.num_iterations = 2
  policy = rl.train_and_evaluate(config, tmp_path / "run", stream=io.StringIO())
  rows = metrics.read(tmp_path / "run")
  assert len(rows) == 2 and all(np.isfinite(r["train/loss"]) for r in rows)
  assert rows[-1]["train/grad_norm"] > 0
  before = pipeline_lib.ParallelPipeline.from_pretrained(model)
  moved = jax.tree.map(
    lambda a, b: float(np.abs(a - b).max()), policy.params, before.params
  )
  assert max(jax.tree.leaves(moved)) > 0
  text = (tmp_path / "run/samples/rollouts_0000002.txt").read_text()
  assert text.count("step 4/4") == 4  # two prompts, two rollouts each
  again = pipeline_lib.ParallelPipeline.from_pretrained(
    str(tmp_path / "run/model")
  )
  assert again.variant == before.variant


def test_scores_of_scenes_are_refused_with_own_prompts(
  model, photographs, tmp_path
):
  config = mini_rl.get_config()
  config.model = model
  with config.unlocked():
    config.data = dict(path=photographs)
    config.evaluate.every = 1
  with pytest.raises(ValueError, match="evaluate.every must be 0"):
    rl.train_and_evaluate(config, tmp_path / "run", stream=io.StringIO())


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ([], "one at least"),
    ([{"image": "a.png"}], "on line 1"),
    ([{"prompt": " "}], "prompts of words"),
    ([{"prompt": "a", "image": "../../etc/passwd"}], "must be a file below"),
    ([{"prompt": "a", "image": "no.png"}], "must be a file below"),
    ([{"prompt": "a"}, {"prompt": "b", "image": "x.png"}], "image, or none"),
  ],
  ids=str,
)
def test_bad_lines_are_named(rows, message, tmp_path):
  (tmp_path / "x.png").write_bytes(b"")
  with pytest.raises(ValueError, match=message):
    prompts_lib.read(_write(tmp_path, rows))


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"must be a JSONL file.*none"):
    prompts_lib.read(tmp_path / "none")


@pytest.mark.parametrize("name", ["micro", "tiny", "parallel_a", "parallel_m"])
@pytest.mark.parametrize("preset", ["paper", "recommended"])
def test_every_config_builds_its_experiment(name, preset):
  module = importlib.import_module(f"experiments.configs.rl_{name}")
  config = module.get_config(preset)
  experiment = common.build(rl_config.Experiment, config)
  rows = experiment.num_prompts * experiment.group_size
  assert rows % experiment.num_parts == 0
  assert rows * experiment.units.num % experiment.num_microbatches == 0
  devices = experiment.mesh.data * experiment.mesh.fsdp
  assert experiment.num_prompts % devices == 0
  base = {
    "micro": variants.MICRO,
    "tiny": variants.TINY,
    "parallel_a": published.PARALLEL_A,
    "parallel_m": published.PARALLEL_M,
  }[name]
  sampler = common.override(base.sampler, experiment.sampler)
  assert sampler.quirks == type(sampler.quirks)()
  assert not sampler.image_guidance.branches
