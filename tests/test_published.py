"""The published models as data."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import toy

from paradiff import checkpoints
from paradiff import published
from paradiff import sequence
from paradiff import variants
from paradiff.diffusion import guidance
from paradiff.diffusion import sampler
from paradiff.diffusion import settings


def _num_params(variant, part="transformer"):
  shapes = jax.eval_shape(lambda: variants.init(variant, jax.random.key(0)))
  leaves = checkpoints.flatten(shapes[part]).values()
  return sum(int(np.prod(leaf.shape)) for leaf in leaves)


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("llada", 8_015_581_184),
    ("parallel_m", 8_082_690_048),
    ("mmada", 8_082_690_048),
    ("parallel_a", 8_081_805_312),
    ("lumina_dimoo", 8_081_805_312),
  ],
)
def test_the_8b_models_instantiate_abstractly(name, expected):
  assert _num_params(published.VARIANTS[name]) == expected


def test_image_tokenizers_have_the_published_sizes():
  # 95.39 M of MAGVITv2, of which two tensors are buffers; 146.24 M of aMUSEd.
  assert _num_params(published.PARALLEL_M, "image_tokenizer") == 95_387_004
  assert _num_params(published.PARALLEL_A, "image_tokenizer") == 146_244_675


def test_a_sequence_of_an_edit_has_the_published_length():
  layout = published.PARALLEL_A.layout
  # 32 rows of 32 codes and a newline, boi and eoi; 256 words; two marks.
  assert layout.answer_len == 32 * 33 + 2 + 256 + 2
  assert published.PARALLEL_M.layout.answer_len == 1024 + 2 + 1 + 255


def test_defaults_are_free_of_quirks_and_references_are_not():
  for variant in published.VARIANTS.values():
    assert variant.sampler.quirks == settings.Quirks()
    for task in variant.tasks:
      assert task.sampler is None or task.sampler.quirks == settings.Quirks()
  for variant in (published.PARALLEL_A, published.PARALLEL_M):
    assert variant.reference_sampler.quirks != settings.Quirks()
    assert not variant.reference_sampler.quirks.commits_are_final


def test_every_quirk_belongs_to_a_published_program():
  plain = settings.Quirks()
  used = {
    field.name
    for quirks in (published.QUIRKS_A, published.QUIRKS_M)
    for field in dataclasses.fields(quirks)
    if getattr(quirks, field.name) != getattr(plain, field.name)
  }
  # That of Lumina-DiMOO, whose program was not replayed.
  used.add("constant_image_noise")
  assert used == {field.name for field in dataclasses.fields(plain)}


def test_the_reference_of_m_pushes_away_from_the_prompt_and_ours_towards_it():
  assert published.PARALLEL_M.reference_sampler.text_guidance.both < 0.0
  assert published.PARALLEL_M.sampler.text_guidance == guidance.Guidance(
    both=2.5
  )


@pytest.mark.parametrize("name", published.VARIANTS)
def test_variants_survive_a_round_trip_through_plain_data(name):
  variant = published.VARIANTS[name]
  assert variants.from_dict(variants.to_dict(variant)) == variant


@pytest.mark.parametrize("name", ["parallel_a", "parallel_m"])
def test_an_edit_at_512_traces_at_8b_and_forms_no_logits_of_a_sequence(name):
  variant = published.VARIANTS[name]
  model = variants.model_of(variant)
  layout, vocab = variant.layout, variant.vocab
  shapes = jax.eval_shape(lambda: variants.init(variant, jax.random.key(0)))

  def ids(length):
    return jax.ShapeDtypeStruct((1, length), np.int32)

  condition = sequence.Condition(
    prefix=ids(layout.prefix_len),
    valid=jax.ShapeDtypeStruct((1, layout.prefix_len), np.bool_),
  )
  jaxpr = jax.make_jaxpr(
    functools.partial(sampler.canvas, variant.sampler, model)
  )(
    shapes["transformer"],
    condition,
    ids(layout.answer_len),
    key=jax.eval_shape(lambda: jax.random.key(0)),
  ).jaxpr
  made = [
    var.aval.shape
    for eqn, _, _ in toy.equations(jaxpr)
    for var in eqn.outvars
    if len(var.aval.shape) == 3 and var.aval.shape[-1] > 20_000
  ]
  # Text meets the text columns, a picture the codebook's.
  assert (1, layout.text_len, vocab.text_size) in made
  assert {shape[:2] for shape in made} <= {(1, layout.text_len), (1, 1)}
  assert {shape[2] for shape in made} <= {vocab.text_size}
