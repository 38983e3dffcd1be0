"""Contradictions in what the demo is asked for, without a model."""

import dataclasses

import pytest

from experiments import asked as asked_lib
from paradiff import published
from paradiff import variants

A = {"model": "hf://somebody/model", "variant": "parallel_a"}
M = {**A, "variant": "parallel_m"}
L = {**A, "variant": "llada"}


@pytest.mark.parametrize(
  ("choices", "has_picture", "message"),
  [
    ({**A, "height": 64}, True, "given together, got only --height=64"),
    ({**A, "height": 64, "width": 100}, True, "multiples of 16.*width=96"),
    ({**A, "height": 64, "width": 640}, True, "at most 4 times"),
    ({**A, "task": "edit"}, False, "edit of parallel_a must have an input"),
    ({**A, "task": "generate"}, True, "generate of parallel_a must have no"),
    ({**M, "task": "generate"}, True, "generate of parallel_m must have no"),
    (L, True, "answer of llada must have no input picture"),
    ({**A, "variant": "lumina_dimoo", "task": "edit"}, True, "asked for one"),
    ({**A, "task": "answer"}, False, "one of .*'describe'.*got answer"),
    ({**A, "task": "edit_picture", "text_len": 9}, True, "--text_len=9"),
    (
      {**A, "task": "describe", "height": 64, "width": 64},
      True,
      "must have a picture to take --height=64 --width=64",
    ),
    ({**L, "num_image_steps": 3}, False, "--num_image_steps=3"),
    ({**L, "picture_size": 64}, False, "--picture_size=64"),
    ({**A, "picture_size": 100}, True, "multiple of 32, got 100"),
    ({**A, "num_steps": 4, "num_image_steps": 5}, True, "at most --num_steps"),
    ({**L, "reference": True}, False, "--reference.*llada"),
    (
      {**A, "task": "edit_picture", "reference": True},
      True,
      "--reference.*parallel_a.*edit_picture",
    ),
    ({"reference": True}, True, "--reference.*tiny"),
    ({"variant": "llada"}, False, "--variant needs --model"),
    ({"task": "describe"}, True, "tiny can only edit.*--task=describe"),
    ({"task": "edit"}, False, "tiny can only generate.*--task=edit"),
    ({"text_len": 4}, True, "--text_len=4"),
    ({"picture_size": 64}, True, "--picture_size needs a published"),
    ({"tokenizer": "folder"}, True, "--tokenizer needs a published"),
    ({"image_tokenizer": "folder"}, True, "--image_tokenizer needs a publ"),
    ({"model": "hf://somebody/model"}, False, "needs --variant, one of"),
  ],
)
def test_contradictions_are_refused_by_the_names_of_flags(
  choices, has_picture, message
):
  with pytest.raises(ValueError, match=message):
    asked_lib.check(asked_lib.Asked(**choices), has_picture=has_picture)


@pytest.mark.parametrize(
  ("choices", "has_picture"),
  [
    ({}, True),
    ({"task": "generate", "num_steps": 9}, False),
    (A, True),
    (A, False),
    ({**A, "height": 256, "width": 512, "picture_size": 512}, True),
    ({**A, "reference": True, "text_len": 20}, True),
    ({**M, "reference": True, "task": "generate"}, False),
    ({**A, "task": "describe", "num_steps": 20}, True),
    (L, False),
  ],
)
def test_what_can_be_done_passes(choices, has_picture):
  asked_lib.check(asked_lib.Asked(**choices), has_picture=has_picture)


def test_a_folder_says_what_else_is_needed(tmp_path):
  asked = asked_lib.Asked(model=str(tmp_path))
  with pytest.raises(FileNotFoundError, match="micro"):
    asked_lib.check(asked, has_picture=False)
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(ValueError, match="needs --variant"):
    asked_lib.check(asked, has_picture=False)


def test_the_settings_are_the_tasks_with_the_changes():
  settled = []
  for choices in ({}, {"num_steps": 40}, {"reference": True, "num_steps": 40}):
    asked = asked_lib.Asked(**A, **choices)
    settled.append(
      asked_lib.settle(published.PARALLEL_A, asked, has_picture=True)
    )
  ours, theirs = published.PARALLEL_A.sampler, published.PARALLEL_A
  assert [task.name for task, _ in settled] == ["edit"] * 3
  assert settled[0][1] == ours
  assert settled[1][1] == dataclasses.replace(ours, num_steps=40)
  reference = dataclasses.replace(theirs.reference_sampler, num_steps=40)
  assert settled[2][1] == reference
  asked = asked_lib.Asked(**A, task="describe")
  task, config = asked_lib.settle(published.PARALLEL_A, asked, has_picture=True)
  assert config == task.sampler
  task, config = asked_lib.settle(
    variants.TINY, asked_lib.DEFAULT, has_picture=True
  )
  assert (task, config) == (None, variants.TINY.sampler)
