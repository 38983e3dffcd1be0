"""The literal words and parts of the published models' tasks."""

import dataclasses

import pytest

from paradiff import layout as layout_lib
from paradiff import published
from paradiff import tasks

EDIT = (
  "Generate an image applying the following editing instruction based on the "
  "original image."
)


def _task(variant, name):
  return variant.task(name)


def test_the_words_of_an_edit_are_the_published_ones():
  task = _task(published.PARALLEL_A, "edit")
  assert task.words("make it red") == (
    f"<system>{EDIT}</system><user>make it red"
  )
  assert task.null_prompt == f"<system>{EDIT}</system><user><uncondition>"


def test_braces_in_a_prompt_stay_as_they_are():
  task = _task(published.PARALLEL_A, "generate_picture")
  assert task.words("a {prompt} {0}").endswith("<user>a {prompt} {0}")


@pytest.mark.parametrize(
  ("edit_type", "part"),
  [
    ("canny_dense", "Perform dense prediction"),
    ("dense_control", "Perform dense prediction"),  # the first that matches
    ("depth_control", "the given control image"),
    ("subject_driven", "the given object image"),
    ("edit_add", "the following editing instruction"),
    ("ref_transfer", "into the style of the provided image"),
    ("multi_view_left", "Generate a view-image"),
    ("canny_pred", "according to the prompt and image"),
    ("", "according to the prompt and image"),
  ],
)
def test_families_are_matched_by_substring_in_the_published_order(
  edit_type, part
):
  assert part in tasks.system_prompt(edit_type)
  assert part in tasks.image_to_image(edit_type).words("x")


@pytest.mark.parametrize(
  ("edit_type", "expected"),
  [
    ("canny_dense", "Generate a canny edge map according to the image."),
    (
      "openpose_dense",
      "Generate a pose estimation map according to the image.",
    ),
    ("other_dense", "Generate a dense map according to the image."),
    (
      "ref_transfer",
      "Transform the current image into the style of the provided image.",
    ),
    (
      "multi_view_left",
      "Generate the left view based on the provided front view.",
    ),
    ("edit_add", "my words"),
  ],
)
def test_some_families_bring_their_own_words(edit_type, expected):
  assert tasks.user_prompt(edit_type, "my words") == expected


@pytest.mark.parametrize("variant", published.VARIANTS.values(), ids=str)
def test_every_task_of_every_family_makes_a_layout(variant):
  for task in variant.tasks:
    layout = dataclasses.replace(
      variant.layout,
      prefix=task.prefix,
      answer=task.answer,
      grid=(2, 3) if task.has_picture else None,
      source_grids=((3, 2),) if task.has_source else (),
      text_len=4 if task.has_text else 0,
    )
    assert isinstance(layout, layout_lib.Layout)
    marks = {
      part
      for part in (*task.prefix, *task.answer)
      if part not in layout_lib.SLOTS
    }
    known = {name.removesuffix("_id") for name in variant.vocab.special_ids}
    # Of `</user>` only a tokenizer knows the id.
    assert marks <= known | {"prompt_end"}


def test_families_do_what_they_were_published_for():
  names = {
    name: {task.name for task in variant.tasks}
    for name, variant in published.VARIANTS.items()
  }
  assert {"edit", "generate"} <= names["parallel_a"] & names["parallel_m"]
  assert names["lumina_dimoo"] == {
    "edit_picture",
    "generate_picture",
    "describe",
  }
  assert names["mmada"] == {
    "generate_picture",
    "picture_of_reasoning",
    "describe",
    "answer",
  }
  assert names["llada"] == {"answer"}


def test_a_task_that_a_model_lacks_is_refused_with_those_it_has():
  with pytest.raises(ValueError, match=r"\('answer',\), got edit"):
    published.LLADA.task("edit")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"reads": "stretch"}, "reads must be one of"),
    ({"prompt": "{prompt}{prompt}"}, "at most one {prompt}"),
  ],
)
def test_a_task_that_contradicts_itself_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(published.LLADA.tasks[0], **change)


# Part of the checkpoints' interface, so literal here too.
PUBLISHED = {
  ("parallel_a", "generate"): (
    "<system>Generate an image according to the text prompt.</system><user>x"
  ),
  ("lumina_dimoo", "describe"): (
    "<system>You are a multimodal model that can process both text and images. "
    "Answer the following question based on the provided images. Analyze each "
    "image and combine relevant details to answer.</system><user>x"
  ),
  ("mmada", "describe"): (
    "<|start_header_id|>user<|end_header_id|>\nx<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n"
  ),
  ("llada", "answer"): (
    "<|start_header_id|>user<|end_header_id|>\n\nx<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
  ),
  ("parallel_m", "edit"): "x",
}


@pytest.mark.parametrize(("name", "task"), PUBLISHED)
def test_words_around_a_prompt_are_literal(name, task):
  words = published.VARIANTS[name].task(task).words("x")
  assert words == PUBLISHED[name, task]


def test_a_family_with_words_of_its_own_brings_them():
  words = tasks.image_to_image("depth_dense").words("hello")
  assert words.endswith("<user>Generate a depth map according to the image.")


def test_strengths_and_steps_are_the_published_ones():
  a, m = published.PARALLEL_A, published.PARALLEL_M
  for config in (a.sampler, a.reference_sampler):
    assert (config.image_guidance.text, config.image_guidance.image) == (2.5, 4)
    assert (config.num_image_steps, config.image_temperature) == (64, 1.0)
  assert (a.reference_sampler.num_steps, a.sampler.num_steps) == (256, 128)
  assert a.reference_sampler.text_temperature == 0.7
  for config in (m.sampler, m.reference_sampler):
    assert config.image_guidance.both == 4.0
    assert (config.num_steps, config.num_image_steps) == (128, 30)
  picture = published.LUMINA_DIMOO.task("generate_picture").sampler
  assert (picture.num_steps, picture.num_image_steps) == (64, 64)
  assert (picture.image_start_rate, picture.image_guidance.text) == (0.0, 4.0)
