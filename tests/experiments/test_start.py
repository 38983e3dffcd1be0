"""What a run starts from: random weights or another model's."""

import dataclasses

import jax
import miniature
import numpy as np
import pytest

from experiments import start
from paradiff import pipeline as pipeline_lib
from paradiff import places as places_lib
from paradiff import published
from paradiff import variants
from paradiff.data import train_words
from paradiff.models import image_tokenizer
from paradiff.models import transformer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = str(tmp_path_factory.mktemp("other"))
  miniature.make_pipeline().save(path)
  return path


@pytest.fixture(scope="module")
def other(folder):
  return pipeline_lib.ParallelPipeline.from_pretrained(folder).params


def _finer(**changes):
  """The miniature with four codes a cell, of which there are 32."""
  base = miniature.VARIANT
  layout = dataclasses.replace(base.layout, grid=(8, 8))
  return dataclasses.replace(
    base,
    name="finer",
    layout=layout,
    vocab=dataclasses.replace(
      base.vocab, size=base.vocab.text_size + 32, codebook_size=32
    ),
    image_tokenizer=dataclasses.replace(
      base.image_tokenizer,
      code_bits=5,
      encoder_multipliers=(1, 1, 1, 1),
      encoder_blocks=(1, 1, 1, 1),
      decoder_multipliers=(1, 1, 1, 1),
      decoder_blocks=(1, 1, 1, 1),
    ),
    transformer=dataclasses.replace(
      base.transformer,
      vocab_size=base.vocab.text_size + 32,
      place_grids=places_lib.grids(layout),
      **changes,
    ),
  )


def test_without_a_model_the_weights_are_drawn():
  variant = miniature.VARIANT
  drawn = start.make_init(None, variant)(jax.random.key(3))
  expected = transformer.init(variant.transformer, jax.random.key(3))
  jax.tree.map(np.testing.assert_array_equal, drawn, expected)


def test_the_same_variant_starts_with_every_weight(folder, other):
  init = start.make_init(folder, miniature.VARIANT)
  jax.tree.map(
    np.testing.assert_array_equal, jax.jit(init)(jax.random.key(1)), other
  )


def test_another_variant_starts_with_blocks_words_and_places(folder, other):
  variant = _finer()
  got = start.make_init(folder, variant)(jax.random.key(1))
  drawn = transformer.init(variant.transformer, jax.random.key(1))
  jax.tree.map(np.testing.assert_array_equal, got["blocks"], other["blocks"])
  num_words = variant.vocab.text_size
  for name in ("embed", "head"):
    np.testing.assert_array_equal(
      got[name][:num_words], other[name][:num_words]
    )
    np.testing.assert_array_equal(
      got[name][num_words:], drawn[name][num_words:]
    )
  places = places_lib.counterparts(variant.layout, miniature.VARIANT.layout)
  rest = got["places"] - other["places"][places]
  np.testing.assert_allclose(rest, 0.5 * drawn["places"], atol=1e-6)
  # The four codes of a cell share its place but are told apart.
  assert places[0] == places[1]
  assert not np.allclose(got["places"][0], got["places"][1])


def test_other_sizes_and_missing_models_are_refused_by_name(folder):
  with pytest.raises(ValueError, match="must hold the parameters"):
    start.make_init(folder, _finer(mlp_width=16))
  with pytest.raises(FileNotFoundError, match="nowhere"):
    start.make_init("nowhere", miniature.VARIANT)


def _tokenizers(words=None):
  params = image_tokenizer.init(miniature.VARIANT.pictures, jax.random.key(0))
  return start.Tokenizers(
    miniature.VARIANT.pictures, params, words or start.load_words(None)
  )


def test_a_variant_is_made_for_its_tokenizers():
  words = train_words.train(["Add a hat.", "Thick rain"] * 9, size=290)
  variant = start.load_variant(
    "tiny",
    {"layout": {"prompt_len": 9, "text_len": 7}},
    tokenizers=_tokenizers(words),
  )
  pictures = miniature.VARIANT.pictures
  assert variant.pictures == pictures
  assert variant.vocab.text_size == len(words) <= 290
  assert variant.vocab.mask_id == words.ids["<|mdm_mask|>"]
  assert variant.vocab.size == len(words) + pictures.codebook_size
  assert variant.transformer.vocab_size == variant.vocab.size
  assert variant.layout.grid == (pictures.grid_size,) * 2
  assert variant.transformer.place_grids == places_lib.grids(variant.layout)
  pipeline = start.make_pipeline(variant, _tokenizers(words))
  assert pipeline.text_tokenizer is words
  with pytest.raises(ValueError, match="number of words"):
    start.make_pipeline(variant, _tokenizers())


def test_the_scenes_words_leave_a_variant_as_it_is():
  micro = variants.MICRO
  words = start.load_words(None)
  assert micro == variants.fit(
    micro, pictures=micro.pictures, word_ids=words.ids, num_words=len(words)
  )
  lacking = {k: v for k, v in words.ids.items() if k != "<|soi|>"}
  with pytest.raises(ValueError, match=r"must have the special.*<\|soi\|>"):
    variants.fit(micro, pictures=micro.pictures, word_ids=lacking, num_words=9)


def test_a_family_is_made_for_own_tokenizers_at_any_width():
  family = published.PARALLEL_A
  special, around = train_words.of_family("parallel_a")
  texts = ["Make it grey.", "All colour goes.", *around] * 9
  words = train_words.train(texts, size=420, special=special)
  variant = start.load_variant(
    "parallel_a",
    {"transformer": {"width": 32, "num_layers": 1, "num_heads": 2}},
    tokenizers=_tokenizers(words),
  )
  pictures = miniature.VARIANT.pictures
  assert variant.tasks == family.tasks
  assert variant.transformer.mlp_width == family.transformer.mlp_width
  assert variant.transformer.place_grids == ()
  assert variant.layout == dataclasses.replace(
    family.layout, grid=(pictures.grid_size,) * 2
  )
  vocab = variant.vocab
  assert (vocab.prompt_end_id, vocab.null_id, vocab.newline_id) == tuple(
    words.ids[token] for token in ("</user>", "<uncondition>", "<|newline|>")
  )
  assert vocab.size == len(words) + pictures.codebook_size
  pipeline = start.make_pipeline(variant, _tokenizers(words))
  side = pictures.picture_size
  request = pipeline.request(
    ["Make it grey."], [np.zeros((side // 2, side, 3), np.uint8)]
  )
  rows, columns = request.layout.grid
  assert (rows, columns) == (pictures.grid_size // 2, pictures.grid_size)
  prefix = np.asarray(request.condition.prefix[0])
  valid = np.asarray(request.condition.valid[0])
  read = prefix[valid].tolist()
  begin = words.encode_marked(f"<system>{around[1]}</system><user>")
  assert read[: len(begin)] == begin
  assert len(begin) < 20  # words, not letters
  assert read.count(vocab.newline_id) == rows
  assert read[-1] == vocab.prompt_end_id
  assert list(np.asarray(request.answer[0])).count(vocab.newline_id) == rows
  with pytest.raises(ValueError, match=r"must have the special.*</answer>"):
    start.load_variant("parallel_a", {}, tokenizers=_tokenizers())
  with pytest.raises(ValueError, match="family must be one of"):
    train_words.of_family("llada")


def test_unknown_variants_are_refused_by_name():
  with pytest.raises(ValueError, match="variant must be one of"):
    start.load_variant("huge", {}, tokenizers=_tokenizers())
