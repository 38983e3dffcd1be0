"""Departures in what the guidance passes see, and when they run.

Each test shows what the published samplers do (quirk on) and what ours does.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest
import toy
import toy_published as published
import toy_runs as runs

from paradiff import published as published_lib
from paradiff import requests
from paradiff import sequence as sequence_lib
from paradiff.diffusion import guidance
from paradiff.diffusion import model as model_lib
from paradiff.diffusion import noise as noise_lib
from paradiff.diffusion import settings

LAYOUT, VOCAB = published.EDIT_A, published.VOCAB_A
Guidance = guidance.Guidance
PROMPT = [11, 12, 13]
CODES = np.array([1, 2, 3, 4])
# Prompt, soi, two rows of two codes with their ends, eoi, end of the prompt.
PREFIX = [11, 12, 13, 0, 25, 26, 5, 27, 28, 5, 4, 6]
ANSWER = [7, 0, 3, 3, 5, 3, 3, 5, 4, 3, 3, 3, 8]
# One word a step; the picture is due at the last two of three steps.
CONFIG = settings.SamplerConfig(
  num_steps=3, num_image_steps=2, image_start_rate=0.4
)
EDITING = dataclasses.replace(
  CONFIG, image_guidance=Guidance(text=2.5, image=4.0)
)


def _without(branch, layout=LAYOUT, **more):
  """Return the whole unconditional sequence of a branch as a list."""
  prefix, answer = guidance.without(
    layout,
    VOCAB,
    published.condition(layout, VOCAB, [PROMPT], CODES),
    published.masked_answers(layout, VOCAB, 1),
    branch=branch,
    **more,
  )
  assert prefix.valid.all()
  return np.concatenate([prefix.prefix[0], answer[0]]).tolist()


def test_a_dropped_picture_is_gone_from_the_sequence():
  # Row 1.
  assert _without("image") == [*PROMPT, 6, *ANSWER]
  # As published one token changes, the mark before the picture.
  got = _without("image", overwrite=True)
  assert got == [*PROMPT, 6, *PREFIX[4:], *ANSWER]
  assert set(CODES + 24) <= set(got)


def test_a_dropped_prompt_leaves_nothing_twice():
  # Row 2: [10, 9] is one token shorter than the prompt.
  assert _without("text") == [10, 9, *PREFIX[3:], *ANSWER]
  got = _without("text", overwrite=True)
  assert got == [10, 9, *PREFIX[3:], 6, *ANSWER]
  assert got.count(6) == 2  # the end of the prompt


def test_a_long_null_prompt_does_not_overwrite_the_answer():
  layout = dataclasses.replace(LAYOUT, null_prompt=(10, 9, 10, 10))
  null = [10, 9, 10, 10, *PREFIX[3:]]
  assert _without("text", layout) == [*null, *ANSWER]
  # As published the mark that begins the answer is lost.
  assert _without("text", layout, overwrite=True) == [*null, *ANSWER[1:]]


def test_both_dropped_leaves_only_the_null_prompt():
  # Row 3: the only sequence without conditions that training has shown.
  assert _without("both") == [10, 9, 6, *ANSWER]


@functools.cache
def _calls(config):
  """Return each step's sequences and canvases on a table model of A."""
  table = published.table(LAYOUT, vocab=VOCAB)
  blank = {
    name: jnp.zeros((1, size))
    for name, size in (
      ("text", 3),
      ("image", 4),
      ("text_confidence", 3),
      ("image_confidence", 4),
    )
  }
  return published.calls(
    config,
    toy.table_model(LAYOUT, VOCAB),
    jnp.asarray(table),
    published.condition(LAYOUT, VOCAB, [PROMPT], CODES),
    published.masked_answers(LAYOUT, VOCAB, 1),
    noise_lib.Noise(**blank),
  )


def _lengths(config):
  """Return the lengths of the sequences of each step."""
  seen, _ = _calls(config)
  return {
    clock: [tokens.shape[1] for tokens in step] for clock, step in seen.items()
  }


def test_all_passes_of_a_step_see_the_same_answer():
  # Row 4.
  seen, canvases = _calls(EDITING)
  assert sorted(seen) == [0, 1, 2]
  before = np.asarray(published.masked_answers(LAYOUT, VOCAB, 1))
  for clock, step in seen.items():
    for tokens in step:
      np.testing.assert_array_equal(tokens[:, -LAYOUT.answer_len :], before)
    before = canvases[clock]
  late = published.with_quirks(EDITING, late_unconditional=True)
  seen, canvases = _calls(late)
  for clock in (1, 2):
    # As published the guidance passes see this step's word already.
    conditional, *others = (t[0, -LAYOUT.answer_len :] for t in seen[clock])
    assert len(others) == 2
    for tokens in others:
      np.testing.assert_array_equal(
        tokens[LAYOUT.text_index], canvases[clock][0, LAYOUT.text_index]
      )
      changed = tokens != conditional
      assert changed.sum() == 1 and changed[LAYOUT.text_index].sum() == 1


def test_the_published_image_pass_still_holds_the_picture():
  without_picture = len(PREFIX) - 8 + LAYOUT.answer_len
  whole = len(PREFIX) + LAYOUT.answer_len
  seen, _ = _calls(EDITING)
  for clock in (1, 2):
    tokens = seen[clock][2][0]
    assert tokens.shape == (without_picture,)
    assert tokens[:4].tolist() == [*PROMPT, 6]
  seen, _ = _calls(published.with_quirks(EDITING, overwrite_prefix=True))
  for clock in (1, 2):
    tokens = seen[clock][2][0]
    assert tokens.shape == (whole,)
    assert set(CODES + 24) <= set(tokens[:12].tolist())


def test_a_pass_of_scale_zero_does_not_run():
  # Row 5.
  config = dataclasses.replace(CONFIG, image_guidance=Guidance(image=4.0))
  assert _lengths(config) == {0: [25], 1: [25, 17], 2: [25, 17]}
  idle = published.with_quirks(config, idle_image_branches=("text", "image"))
  assert _lengths(idle) == {0: [25], 1: [25, 24, 17], 2: [25, 24, 17]}
  # As published it stops when both scales are 0.
  unguided = dataclasses.replace(idle, image_guidance=Guidance())
  assert _lengths(unguided) == {0: [25], 1: [25], 2: [25]}
  for clock, canvas in _calls(config)[1].items():
    np.testing.assert_array_equal(canvas, _calls(idle)[1][clock])


def test_the_picture_s_passes_wait_for_its_steps_where_text_needs_none():
  # Row 18.
  config = dataclasses.replace(CONFIG, image_guidance=Guidance(both=4.0))
  assert _lengths(config) == {0: [25], 1: [25, 16], 2: [25, 16]}
  idle = published.with_quirks(config, idle_text_branches=("both",))
  assert _lengths(idle) == {0: [25, 16], 1: [25, 16], 2: [25, 16]}
  for clock, canvas in _calls(config)[1].items():
    np.testing.assert_array_equal(canvas, _calls(idle)[1][clock])


def test_a_dropped_prompt_is_as_long_as_its_own_tokens():
  # Of M: a null prompt is its end alone; as published it is padded with ends
  # that take part.
  layout, vocab = published.EDIT_M, published.VOCAB_M
  given = published.condition(layout, vocab, [[11, 12]], CODES)
  source = [0, 0, 0, 0, 0, 4]  # the codes are replaced by id 0
  found = {}
  for padding in ("left_out", "attended"):
    null = sequence_lib.drop(
      dataclasses.replace(layout, padding=padding),
      vocab,
      given,
      text=True,
      image=True,
    )
    assert null.valid.all()
    found[padding] = null.prefix[0].tolist()
  assert found["left_out"] == [5, *source, 1, 2]
  assert found["attended"] == [5, *source, 1, 2, 2, 2, 2]
  assert published_lib.QUIRKS_M.attended_padding
  assert not published_lib.QUIRKS_A.attended_padding
  assert published_lib.PARALLEL_M.layout.padding == "left_out"


class _Words:
  """A tokenizer of one id a word."""

  def encode_between(self, words, text=None, *, max_len=None):
    words = words.replace("{prompt}", text or "")
    return [11] * len(words.split())


def test_requests_pad_a_prompt_and_as_published_only_a_dropped_one():
  variant = published_lib.PARALLEL_M
  maker = requests.Maker(
    variant=variant,
    text_tokenizer=_Words(),
    encode=lambda pictures: np.zeros((len(pictures), 1024), np.int32),
  )
  found = {}
  for config in (variant.sampler, variant.reference_sampler):
    request = maker.make(
      ["make it red"],
      [np.zeros((512, 512, 3), np.uint8)],
      task="edit",
      config=config,
    )
    layout = request.layout
    null = sequence_lib.drop(
      layout, variant.vocab, request.condition, text=True, image=True
    )
    left_out = int((~request.condition.valid).sum())
    found[config.quirks.attended_padding] = (
      layout.padding,
      layout.prompt_len,
      left_out,
      null.prefix.shape[1] - request.condition.prefix.shape[1],
    )
  # Three words and their end; the shortest bucket has 32 tokens.
  assert found[False] == ("left_out", 32, 28, 1 - 32)
  assert found[True] == ("attended", 4, 0, 0)


def _reading_model():
  """Return a model that prefers the word 12 only where it reads the word 11.

  Logits of (12, 13): (1, 1/2) behind a prompt with 11, (0, 1/2) behind others.
  """

  def trunk(params, tokens, valid, places):
    reads = (tokens == 11).any(axis=1).astype(jnp.float32)
    return jnp.broadcast_to(reads[:, None, None], (*tokens.shape, 1))

  def head(params, hidden, *, columns):
    logits = jnp.full((*hidden.shape[:-1], VOCAB.size), -9.0)
    logits = logits.at[..., 12].set(hidden[..., 0])
    return logits.at[..., 13].set(0.5)[..., slice(*columns)]

  return model_lib.Model(
    layout=published.TEXT_M,
    vocab=published.VOCAB_M,
    denoiser=model_lib.Denoiser(trunk=trunk, head=head),
  )


@pytest.mark.parametrize(
  ("scale", "word"), [(2.5, 12), (0.0, 12), (-0.25, 12), (-2.5, 13)]
)
def test_text_guidance_moves_towards_the_prompt_and_as_published_away(
  scale, word
):
  # Row 18: 12 has 1 + scale (1 - 0), 13 has 1/2 whatever the scale.
  model = _reading_model()
  config = dataclasses.replace(CONFIG, text_guidance=Guidance(both=scale))
  got = published.canvas(
    config,
    model,
    (),
    published.condition(model.layout, model.vocab, [[11]]),
    published.masked_answers(model.layout, model.vocab, 1),
    key=runs.key(),
  )
  assert got.tolist() == [[word] * 3]


def test_only_the_reference_sampler_of_m_has_the_published_sign():
  variant = published_lib.PARALLEL_M
  assert variant.sampler.text_guidance == Guidance(both=2.5)
  assert variant.reference_sampler.text_guidance == Guidance(both=-2.5)
  assert variant.reference_sampler.image_guidance == Guidance(both=4.0)
