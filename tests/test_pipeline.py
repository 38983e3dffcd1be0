"""Laws of the pipeline, on an untrained miniature of MICRO."""

import json

import miniature
import numpy as np
import pytest

from paradiff import pipeline as pipeline_lib
from paradiff.diffusion import settings
from paradiff.scenes import render
from paradiff.scenes import world

SCENE = world.Scene((world.Thing(5, "big", "red", "circle"),))
PROMPT = "move the red circle one step left"


@pytest.fixture(scope="module")
def pipeline() -> pipeline_lib.ParallelPipeline:
  return miniature.make_pipeline()


def test_save_and_load_give_the_same_answer(pipeline, tmp_path):
  pipeline.save(str(tmp_path))
  loaded = pipeline_lib.ParallelPipeline.from_pretrained(str(tmp_path))
  assert loaded.variant == miniature.VARIANT
  ours = pipeline.edit(PROMPT, render.render(SCENE), seed=3)
  theirs = loaded.edit(PROMPT, render.render(SCENE), seed=3)
  assert ours.text == theirs.text
  np.testing.assert_array_equal(ours.picture, theirs.picture)


@pytest.mark.parametrize("stride", [1, 5, 100])
def test_stream_ends_with_the_answer_of_edit(pipeline, stride):
  picture = render.render(SCENE)
  config = settings.SamplerConfig(
    num_steps=12,
    num_image_steps=6,
    text_temperature=1.0,
    image_temperature=1.0,
  )
  canvases = list(
    pipeline.stream(PROMPT, picture, seed=5, config=config, stride=stride)
  )
  whole = pipeline.edit(PROMPT, picture, seed=5, config=config)
  last = canvases[-1]
  assert last.step == last.num_steps == 12
  assert not last.masked.any()
  assert None not in last.words
  np.testing.assert_array_equal(last.picture, whole.picture)
  ids = [pipeline.text_tokenizer.encode(word)[0] for word in last.words]
  assert pipeline.text_tokenizer.decode(ids) == whole.text


def test_masks_only_disappear_in_a_stream(pipeline):
  previous = np.ones(miniature.VARIANT.layout.grid, np.bool_)
  for canvas in pipeline.stream("draw a red star", None, stride=2):
    assert not (canvas.masked & ~previous).any()
    assert canvas.picture.shape == (64, 64, 3)
    previous = canvas.masked


def test_a_greedy_batch_equals_its_rows_alone(pipeline):
  pictures = [render.render(SCENE), None, render.render(world.Scene())]
  prompts = [PROMPT, "draw three blue stars", "add a green square"]
  together = pipeline(prompts, pictures)
  for prompt, picture, output in zip(prompts, pictures, together, strict=True):
    (alone,) = pipeline([prompt], [picture])
    assert alone.text == output.text
    # The same codes; a decoder's sum may round across a pixel value.
    difference = alone.picture.astype(int) - output.picture
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
  ("prompts", "pictures", "message"),
  [
    ([], [], "at least one"),
    (["draw a red star"], [], "as many pictures as prompts"),
    ([""], [None], "at least one word"),
    (["draw a mauve star"], [None], "'mauve'"),
    (["red " * 21], [None], "at most 20 tokens, got 21"),
    (["draw a red star"], [np.zeros((4, 4), np.float32)], "uint8"),
  ],
)
def test_a_bad_request_is_refused_by_name(pipeline, prompts, pictures, message):
  with pytest.raises(ValueError, match=message):
    pipeline(prompts, pictures)


def test_a_missing_model_is_refused_by_name(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"micro.*nowhere"):
    pipeline_lib.ParallelPipeline.from_pretrained(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["transformer", "image_tokenizer"])
def test_a_truncated_checkpoint_is_refused_by_name(pipeline, tmp_path, name):
  pipeline.save(str(tmp_path))
  path = tmp_path / f"{name}.safetensors"
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(ValueError, match=f"{name}.safetensors"):
    pipeline_lib.ParallelPipeline.from_pretrained(str(tmp_path))


def test_a_checkpoint_of_other_sizes_is_refused_by_name(pipeline, tmp_path):
  pipeline.save(str(tmp_path))
  path = tmp_path / "transformer.json"
  config = json.loads(path.read_text())
  config["transformer"]["mlp_width"] = 64
  path.write_text(json.dumps(config))
  with pytest.raises(ValueError, match=r"transformer.safetensors[^$]*gate"):
    pipeline_lib.ParallelPipeline.from_pretrained(str(tmp_path))


def test_an_unknown_field_of_a_variant_is_refused_by_name(pipeline, tmp_path):
  pipeline.save(str(tmp_path))
  path = tmp_path / "transformer.json"
  config = json.loads(path.read_text())
  config["sampler"]["num_setps"] = 3
  path.write_text(json.dumps(config))
  with pytest.raises(ValueError, match=r"transformer.json.*num_setps"):
    pipeline_lib.ParallelPipeline.from_pretrained(str(tmp_path))
