import dataclasses

import jax
import numpy as np
import pytest
import toy

from paradiff import places as places_lib
from paradiff import sequence as sequence_lib


def _hidden(condition, answer):
  return jax.eval_shape(
    toy.model().answer_hidden, toy.params(), condition, answer
  )


def test_answer_hidden_is_the_end_of_the_whole_sequence():
  condition, answer = toy.conditions(2), toy.partial_answers(2)
  seen = []

  def trunk(params, tokens, valid, places):
    seen.append((np.asarray(tokens), np.asarray(valid), places))
    return tokens[..., None]

  denoiser = dataclasses.replace(toy.model().denoiser, trunk=trunk)
  model = dataclasses.replace(toy.model(), denoiser=denoiser)
  hidden = model.answer_hidden(None, condition, answer)
  np.testing.assert_array_equal(hidden[..., 0], answer)
  short = sequence_lib.drop(
    toy.LAYOUT, toy.VOCAB, condition, text=False, image=True
  )
  model.answer_hidden(None, short, answer)
  (tokens, valid, places), (_, _, short_places) = seen
  np.testing.assert_array_equal(tokens[:, :14], condition.prefix)
  np.testing.assert_array_equal(valid[:, :14], condition.valid)
  assert tokens.shape == (2, 28) and valid[:, 14:].all()
  # Each token keeps its place where the input picture is cut away.
  np.testing.assert_array_equal(places, places_lib.points(toy.LAYOUT))
  np.testing.assert_array_equal(short_places, np.delete(places, range(1, 9), 0))


def test_answer_hidden_takes_both_prefix_lengths():
  condition, answer = toy.conditions(2), toy.answers(2)
  short = sequence_lib.drop(
    toy.LAYOUT, toy.VOCAB, condition, text=False, image=True
  )
  assert _hidden(condition, answer).shape == (2, 14, 16)
  assert _hidden(short, answer).shape == (2, 14, 16)


def test_answer_hidden_refuses_sequences_of_another_layout():
  condition, answer = toy.conditions(2), toy.answers(2)
  with pytest.raises(ValueError, match="answer must have 14 tokens .* got 13"):
    _hidden(condition, answer[:, 1:])
  cut = jax.tree.map(lambda a: a[:, 1:], condition)
  with pytest.raises(ValueError, match="prefix 14, .* and 13"):
    _hidden(cut, answer)


def test_models_are_static_arguments_that_compile_once():
  assert toy.model() is toy.model()
  assert hash(toy.model()) == hash(toy.model())
