"""The CLIP reward is the cosine of two embeddings, whatever is batched."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paradiff.convert import clip as convert
from paradiff.models import clip
from paradiff.models import clip_config
from paradiff.models import clip_pictures
from paradiff.rl import clip_reward
from paradiff.rl import reward

_TOWER = clip_config.TowerConfig(
  width=8, num_layers=1, num_heads=2, mlp_width=8
)
# Ids of letters are 3 ... 28, of a full stop 29; a text has room for four.
_CONFIG = clip_config.ClipConfig(
  text=_TOWER,
  vision=_TOWER,
  vocab_size=32,
  max_text_len=6,
  eos_id=31,
  image_size=8,
  patch_size=4,
  embed_width=6,
)
_START, _END = 30, 31


def _encode(text):
  return [
    29 if letter == "." else 3 + ord(letter) - ord("a")
    for letter in text.replace(" ", "")
  ]


@pytest.fixture(scope="module")
def params():
  """Large numbers, so that each word and each pixel shows."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: clip.init(_CONFIG, jax.random.key(0)))
  return jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes
  )


def _reward(params, **options):
  options = {"batch_size": 4, **options}
  return clip_reward.ClipReward(
    config=_CONFIG,
    params=params,
    encode=_encode,
    start_id=_START,
    end_id=_END,
    options=clip_reward.Options(**options),
  )


def _context(texts, *, seed=0, prompts=None, predicted=None):
  """Return a context with a random picture for each text."""
  num_rows, num_points = len(texts), len(texts[0])
  rng = np.random.default_rng(seed)
  shape = (num_rows, num_points, 8, 8, 3)
  return reward.Context(
    prompts=prompts or ("p",) * num_rows,
    texts=tuple(map(tuple, texts)),
    predicted_texts=tuple(map(tuple, predicted or texts)),
    pictures=rng.integers(0, 256, shape, np.uint8),
    sources=(None,) * num_rows,
    steps=np.arange(1, num_points + 1, dtype=np.int32),
    num_steps=num_points,
    examples=(None,) * num_rows,
  )


@jax.jit
def _embeds(params, ids, picture):
  text = clip.text_embeds(
    _CONFIG, params, ids, attention_mask=jnp.ones(ids.shape, bool)
  )
  pixels = clip_pictures.preprocess(picture, size=8)
  return text[0], clip.image_embeds(_CONFIG, params, pixels)[0]


def _cosine(params, ids, picture):
  """Compute one cosine by itself; what follows the end must not matter."""
  row = [_START, *ids, _END, *[7] * (_CONFIG.max_text_len - 2 - len(ids))]
  rows = np.asarray([row], np.int32)
  return float(np.dot(*_embeds(params, rows, picture[None])))


def _close(ours, theirs):
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_reward_is_the_cosine_of_each_row_and_point(params):
  texts = [["ab", "abc"], ["", "dcba"], ["ab", "x"]]
  context = _context(texts)
  scores = _reward(params)(context)
  assert scores.dtype == np.float32 and scores.shape == (3, 2)
  expected = [
    [
      _cosine(params, _encode(text), context.pictures[b, r])
      for r, text in enumerate(row)
    ]
    for b, row in enumerate(texts)
  ]
  _close(scores, expected)
  assert np.ptp(expected) > 0.1  # else nothing was told apart


def test_text_view_chooses_the_text(params):
  context = _context([["a"]], predicted=[["abcd"]])
  picture = context.pictures[0, 0]
  committed = _reward(params)(context)
  predicted = _reward(params, text_view="predicted")(context)
  _close(committed[0, 0], _cosine(params, _encode("a"), picture))
  _close(predicted[0, 0], _cosine(params, _encode("abcd"), picture))


def test_truncate_ignores_what_lies_beyond_the_tower(params):
  scores = _reward(params)(_context([["abcd"]]))
  longer = _reward(params)(_context([["abcdxyz"]]))
  _close(scores, longer)


def test_chunk_mean_is_the_mean_of_the_scores_of_the_pieces(params):
  context = _context([["abcdefghij", "ab", ""]])
  scores = _reward(params, text_mode="chunk_mean")(context)
  pieces = [["abcd", "efgh", "ij"], ["ab"], [""]]
  expected = [
    np.mean([_cosine(params, _encode(p), context.pictures[0, r]) for p in row])
    for r, row in enumerate(pieces)
  ]
  _close(scores, [expected])


@pytest.mark.parametrize(
  ("text", "read"),
  [
    ("abc. a. b.", "a. b."),
    ("a. bc. d.", "d."),
    ("ab. c", "ab. c"),
    ("a. bcdefg", "defg"),
    ("", ""),
  ],
)
def test_last_sentences_reads_the_end_that_fits(params, text, read):
  context = _context([[text]])
  scores = _reward(params, text_mode="last_sentences")(context)
  expected = _cosine(params, _encode(read), context.pictures[0, 0])
  _close(scores, [[expected]])


def test_instruction_reads_the_prompt_and_not_the_text(params):
  score = _reward(params, text_mode="instruction")
  one = _context([["a", "b"], ["c", "d"]], prompts=("xyzxyz", "y"))
  other = _context([["d", "c"], ["b", "a"]], prompts=("xyzxyz", "y"))
  _close(score(one), score(other))
  expected = _cosine(params, _encode("xyzx"), one.pictures[0, 1])
  _close(score(one)[0, 1], expected)


def test_batches_and_repetitions_do_not_change_scores(params):
  texts = [["a", "b", "a"], ["b", "a", "c"], ["c", "abc", "a"]]
  context = _context(texts)
  context.pictures[1, 2] = context.pictures[0, 0]
  context.pictures[2] = context.pictures[0]
  small = _reward(params, batch_size=2)(context)
  large = _reward(params)(context)
  _close(small, large)
  expected = _cosine(params, _encode("abc"), context.pictures[0, 1])
  _close(small[2, 1], expected)


def test_equal_texts_and_pictures_go_through_a_tower_once(params, monkeypatch):
  rows = []
  tower = clip_reward.ClipReward._batched

  def counting(self, function, *arrays):
    rows.append(len(arrays[0]))
    return tower(self, function, *arrays)

  monkeypatch.setattr(clip_reward.ClipReward, "_batched", counting)
  context = _context([["a", "b"], ["b", "a"], ["a", "a"]])
  context.pictures[1:] = context.pictures[0]
  _reward(params)(context)
  assert rows == [2, 2]


def test_wrong_options_are_refused():
  with pytest.raises(ValueError, match=r"text_mode must be one of \('trunc"):
    clip_reward.Options(text_mode="whole")
  with pytest.raises(ValueError, match=r"text_view must be one of \('commit"):
    clip_reward.Options(text_view="x0")
  with pytest.raises(ValueError, match="batch_size must be positive"):
    clip_reward.Options(batch_size=0)


def test_ids_of_another_tokenizer_are_refused(params):
  with pytest.raises(ValueError, match=r"must be in \[0, 32\), got \[87\]"):
    _reward(params)(_context([[chr(ord("a") + 84)]]))
  with pytest.raises(ValueError, match="end_id must be the config's 31"):
    clip_reward.ClipReward(
      config=_CONFIG, params=params, encode=_encode, start_id=30, end_id=2
    )


def test_config_of_a_written_clip_states_its_sizes():
  config = convert.to_config(_CONFIG)
  again = clip_config.config_from_dict(json.loads(json.dumps(config)))
  assert again == _CONFIG


def test_a_written_clip_is_read_bit_by_bit(params, tmp_path):
  convert.write(tmp_path, _CONFIG, params)
  config, read = convert.read(tmp_path)
  assert config == _CONFIG
  jax.tree.map(np.testing.assert_array_equal, read, params)


def test_a_folder_without_weights_is_refused_by_what_it_lacks(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"without config\.json, \*\.sa"):
    convert.load_reward(tmp_path / "nowhere")
  (tmp_path / "config.json").write_text("{}")
  wanted = r"must hold config\.json, \*\.safetensors, tokenizer\.json, got"
  with pytest.raises(FileNotFoundError, match=wanted) as raised:
    convert.load_reward(tmp_path)
  assert "without *.safetensors, tokenizer.json;" in str(raised.value)
