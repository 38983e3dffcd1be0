"""Runs whose commits are not final, and the compiled reference samplers."""

import dataclasses

import jax
import numpy as np
import published_runs
import pytest
import toy
import toy_published as published
import toy_runs as runs

from paradiff import published as published_lib
from paradiff.diffusion import sampler
from paradiff.diffusion import settings

# Quirks with which a trajectory cannot describe a run.
UNDONE = [
  {"leftover": "random"},
  {"leftover": "proposed"},
  {"open_end": True},
  {"remask_known": True},
  {"any_text_id": True},
]
RUNS = ("greedy", "imageguided", "unguided")


def _canvas(config, answer, seed=0):
  return published.canvas(
    config,
    toy.model(),
    toy.params(),
    toy.conditions(runs.SIZE),
    answer,
    key=runs.key(seed),
  )


@pytest.mark.parametrize("quirks", UNDONE, ids=str)
def test_a_trajectory_needs_commits_that_are_final(quirks):
  config = published.with_quirks(runs.BASE, **quirks)
  assert not config.quirks.commits_are_final
  with pytest.raises(
    ValueError, match=r"commits that are final, got .*; canvas\(\) runs these"
  ):
    sampler.sample(
      config,
      toy.model(),
      toy.params(),
      toy.conditions(1),
      toy.partial_answers(1),
      key=runs.key(),
    )


def test_all_other_quirks_leave_commits_final():
  undone = {name for quirks in UNDONE for name in quirks}
  ours = settings.Quirks()
  assert ours.commits_are_final
  for quirks in (published_lib.QUIRKS_A, published_lib.QUIRKS_M):
    assert not quirks.commits_are_final
    kept = {name: getattr(ours, name) for name in undone}
    assert dataclasses.replace(quirks, **kept).commits_are_final


def test_a_canvas_is_the_last_one_of_the_trajectory():
  answer = toy.partial_answers(runs.SIZE)
  for config in (runs.BASE, runs.SAMPLED):
    run = runs.run(config, seed=3, answer=answer)
    np.testing.assert_array_equal(_canvas(config, answer, seed=3), run.tokens)


@pytest.mark.parametrize("quirks", ["QUIRKS_A", "QUIRKS_M"])
def test_a_canvas_of_the_published_settings_has_codes_for_a_picture(quirks):
  # All quirks of a sampler at once; only text may stay masked.
  config = dataclasses.replace(
    runs.SAMPLED,
    image_guidance=runs.Guidance(text=1.5),
    quirks=dataclasses.replace(
      # Overwriting needs prompts without padding, and a picture.
      getattr(published_lib, quirks),
      overwrite_prefix=False,
    ),
  )
  answer = toy.partial_answers(runs.SIZE)
  got = np.asarray(_canvas(config, answer))
  codes = got[:, toy.LAYOUT.image_index]
  assert ((codes >= 24) & (codes < 40)).all()
  given = np.asarray(answer) != toy.VOCAB.mask_id
  words = np.zeros_like(given)
  words[:, toy.LAYOUT.text_index] = True
  kept = given & words
  np.testing.assert_array_equal(got[kept], np.asarray(answer)[kept])


def _recorded(name):
  """Run the compiled reference sampler on a recorded run: the answer int[A]."""
  run = published_runs.load(name)
  program = jax.jit(sampler.canvas, static_argnums=(0, 1))
  got = program(
    run.config,
    run.model,
    run.params,
    run.condition,
    run.answer,
    key=runs.key(),
  )
  return run, np.asarray(got)[0]


@pytest.mark.parametrize("name", RUNS)
def test_the_compiled_sampler_of_a_ends_as_the_recorded_greedy_runs(name):
  run, got = _recorded(f"parallel_a_{name}")
  layout, vocab = run.model.layout, run.model.vocab
  words = got[layout.text_index]
  np.testing.assert_array_equal(words[words != vocab.mask_id], run.file["text"])
  codes = got[layout.image_index] - vocab.code_offset
  assert ((codes >= 0) & (codes < vocab.codebook_size)).all()
  # One code is random, and as good as surely another one.
  same = codes == run.file["vq"]
  assert same.sum() >= layout.image_len - 1
  last = run.file["calls"][-1][-layout.answer_len :][layout.image_index]
  assert (last[~same] == vocab.mask_id).all()


def test_the_compiled_sampler_of_m_ends_as_the_recorded_greedy_run():
  run, got = _recorded("parallel_m_greedy")
  layout, vocab = run.model.layout, run.model.vocab
  np.testing.assert_array_equal(
    got[layout.image_index] - vocab.code_offset, run.file["image"][0]
  )
  # The recorded text begins with the fixed `bos`.
  np.testing.assert_array_equal(got[layout.text_index], run.file["text"][0][1:])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"image_counts": "some"}, "image_counts must be of .*'initial'"),
    ({"text_counts": "last"}, "text_counts must be of .*'exact'"),
    ({"leftover": "kept"}, "leftover must be of .*'proposed'.*got 'kept'"),
    ({"idle_text_branches": ("none",)}, "idle_text_branches must be of .*both"),
    ({"idle_image_branches": ("x",)}, "idle_image_branches must be of .*both"),
  ],
  ids=str,
)
def test_unknown_quirks_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    settings.Quirks(**change)


def test_branches_may_be_lists_as_json_has_them():
  quirks = settings.Quirks(idle_image_branches=["text"])
  assert quirks.idle_image_branches == ("text",)
  assert hash(quirks) == hash(settings.Quirks(idle_image_branches=("text",)))
