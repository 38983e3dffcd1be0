"""The training of CLIP on scenes, on a network of a few thousand weights."""

import json
import shutil

import jax
import jax.numpy as jnp
import launched
import ml_collections
import numpy as np
import pytest

from experiments import clip
from experiments import clip_evaluation
from experiments import clip_stats
from experiments import common
from experiments.configs import clip_scenes
from paradiff import metrics
from paradiff import optim
from paradiff import train_state
from paradiff.convert import clip as convert
from paradiff.data import captions
from paradiff.data import pipeline as data_lib
from paradiff.models import clip as clip_lib
from paradiff.models import clip_config
from paradiff.models import clip_pictures
from paradiff.scenes import grammar
from paradiff.scenes import parse_picture
from paradiff.scenes import render
from paradiff.scenes import world

NUM_STEPS = 28
BATCH_SIZE = 16


def _config() -> ml_collections.ConfigDict:
  tower = dict(width=32, num_layers=1, num_heads=4, mlp_width=32)
  return ml_collections.ConfigDict(
    dict(
      seed=3,
      num_steps=NUM_STEPS,
      batch_size=BATCH_SIZE,
      # Few pairs, so that few steps learn them.
      data=dict(size=16, seed=1, family_size=1),
      model=dict(
        text=tower,
        vision=tower,
        image_size=64,
        patch_size=16,
        embed_width=32,
      ),
      optim=dict(learning_rate=2e-3, warmup_steps=8),
      log=dict(every=4),
      evaluate=dict(every=NUM_STEPS, num_pairs=12),
      checkpoint=dict(every=16),
    )
  )


@pytest.fixture(scope="module")
def tokenizer():
  return clip.build_tokenizer()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp("clip")
  with (path / "progress.txt").open("w") as stream:
    clip.train(_config(), str(path), stream=stream)
  return path


_QUICK = {"xla_backend_optimization_level": 0}  # for what runs once


def _weights(path):
  return (path / "model" / "model.safetensors").read_bytes()


def test_training_ends_well_below_chance(workdir):
  rows = metrics.read(workdir)
  chance = np.log(BATCH_SIZE)
  assert rows[0]["train/loss"] > 0.75 * chance
  assert rows[-1]["train/loss"] < 0.6 * chance
  assert rows[-1]["step"] == NUM_STEPS
  assert 0.0 <= rows[-1]["eval/one_fact_rate"] <= 1.0
  shown = (workdir / "progress.txt").read_text()
  assert "eval/picture_found_rate" in shown


def test_resumed_run_ends_bitwise_equal(workdir, tmp_path):
  """Without its last checkpoint, the run goes on from step 16, then from 19."""
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  shutil.rmtree(tmp_path / "checkpoints" / str(NUM_STEPS))
  shutil.rmtree(tmp_path / "model")
  with (tmp_path / "progress.txt").open("w") as stream:
    with launched.told_to_stop(19):
      clip.train(_config(), str(tmp_path), stream=stream)
    assert not (tmp_path / "model").exists()
    clip.train(_config(), str(tmp_path), stream=stream)
  assert _weights(tmp_path) == _weights(workdir)
  rows = [row for row in metrics.read(tmp_path) if row["step"] <= 16]
  assert rows == [row for row in metrics.read(workdir) if row["step"] <= 16]


def test_trained_clip_becomes_a_reward_that_reads_its_own_ids(
  workdir, tokenizer
):
  reward = convert.load_reward(workdir / "model")
  assert reward.config.max_text_len == grammar.MAX_REASONING_LEN + 2
  assert (reward.start_id, reward.end_id) == (
    tokenizer.ids[clip.START],
    tokenizer.ids[clip.END],
  )
  words = "result: a1 big red circle."
  assert reward.encode(words) == tokenizer.encode(words)
  assert reward.encode(f"{words} {clip.END}") == tokenizer.encode(words)
  assert reward.encode(" ") == []
  with pytest.raises(ValueError, match="'zebra'"):
    reward.encode("a zebra")


def test_stats_are_those_of_the_cosines_of_training_examples(workdir):
  folder = workdir / "model"
  stats = clip_stats.run(folder, num=20, seed=5)
  assert json.loads((folder / "stats.json").read_text()) == stats
  config, params = convert.read(folder)
  encode = clip.build_tokenizer().encode
  source = data_lib.ScenesSource(seed=5, size=20)
  examples = [source[i] for i in range(20)]
  rows = np.full((20, config.max_text_len), config.eos_id, np.int32)
  for row, example in zip(rows, examples, strict=True):
    ids = encode(example.reasoning)
    row[: len(ids) + 1] = [config.eos_id - 1, *ids]
  pictures = np.stack([render.render(e.target) for e in examples])

  def embed(params, rows, pictures):
    mask = jnp.ones(rows.shape, bool)  # ends behind the first change nothing
    text = clip_lib.text_embeds(config, params, rows, attention_mask=mask)
    pixels = clip_pictures.preprocess(pictures, size=64)
    return text, clip_lib.image_embeds(config, params, pixels)

  quick = jax.jit(embed, compiler_options=_QUICK)
  text, image = quick(params, rows, pictures)
  scores = np.sum(np.asarray(text * image, np.float64), -1)
  np.testing.assert_allclose(stats["mean"], scores.mean(), rtol=1e-5)
  np.testing.assert_allclose(stats["std"], scores.std(), rtol=1e-4)
  far = np.abs(scores - scores.mean()) > scores.std()
  assert stats["clipped_rate"] == far.mean()
  assert (stats["count"], stats["text_mode"]) == (20, "truncate")


def test_loss_is_the_mean_of_two_cross_entropies(tokenizer):
  model = common.build(
    clip_config.ClipConfig,
    _config().model,
    vocab_size=len(tokenizer),
    max_text_len=49,
    eos_id=tokenizer.ids[clip.END],
  )
  shapes = jax.eval_shape(lambda: clip.init(model, jax.random.key(0)))
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
  params["logit_scale"] = np.log(5.0)
  config = clip.DataConfig(size=2, family_size=3)
  source = clip.make_source(config, tokenizer, max_len=49)
  batch = {
    name: np.stack([source[0][name], source[1][name]]) for name in source[0]
  }

  def both(params, batch):
    flat = {k: x.reshape(6, *x.shape[2:]) for k, x in batch.items()}
    key = jax.random.key(0)
    found = clip.contrastive_loss(model, params, batch, key)
    return *found, *clip_evaluation.embed(model, params, flat)

  loss, values, text, image = jax.jit(both, compiler_options=_QUICK)(
    jax.tree.map(np.float32, params), batch
  )
  logits = 5.0 * np.asarray(image @ text.T, np.float64)
  of_picture = np.log(np.exp(logits).sum(1)) - logits.diagonal()
  of_text = np.log(np.exp(logits).sum(0)) - logits.diagonal()
  np.testing.assert_allclose(
    loss, (of_picture.mean() + of_text.mean()) / 2, rtol=1e-5
  )
  found = (logits.argmax(0) == np.arange(6)).mean()
  np.testing.assert_allclose(values["train/picture_found_rate"], found)


def test_logit_scale_never_passes_a_hundred(monkeypatch):
  def upwards(config, params, batch, key):
    del config, batch, key
    return -params["logit_scale"], {}

  monkeypatch.setattr(clip, "contrastive_loss", upwards)
  model = common.build(clip_config.ClipConfig, _config().model)
  optim_config = optim.OptimConfig(1e-2, num_steps=9, warmup_steps=0)
  tx, train_step = clip.make_train_step(model, optim_config)
  state = train_state.create(
    {"logit_scale": jnp.float32(np.log(98.5))}, tx, jax.random.key(0)
  )
  scales = []
  for _ in range(4):
    state, _ = train_step(state, {})
    scales.append(float(np.exp(state.params["logit_scale"])))
  assert 98.5 < scales[0] < 100.0
  np.testing.assert_allclose(scales[-1], 100.0, rtol=1e-6)


def test_a_part_of_a_family_is_refused():
  config = _config()
  config.data.family_size = 3
  with pytest.raises(ValueError, match="batch_size must be a multiple of"):
    clip.train(config, "/nonexistent")


def test_evaluation_gives_an_oracle_full_marks(tokenizer, monkeypatch):
  """Embeddings that list the facts find every pair; blind ones find none."""
  model = clip_config.ClipConfig(
    text=clip_config.TowerConfig(16, 1, 2, 16),
    vision=clip_config.TowerConfig(16, 1, 2, 16),
    vocab_size=len(tokenizer),
    max_text_len=49,
    eos_id=tokenizer.ids[clip.END],
    image_size=64,
    patch_size=16,
  )
  evaluation = clip_evaluation.Evaluation(
    model, tokenizer, num_pairs=12, seed=0
  )

  def vector(facts):
    places = {
      look: i
      for i, look in enumerate(
        (cell, size, colour, shape)
        for cell in range(16)
        for size in world.SIZES
        for colour in world.COLOURS
        for shape in world.SHAPES
      )
    }
    found = np.zeros(len(places) + 1)
    for t in facts:
      found[places[t.cell, t.size, t.colour, t.shape]] = 1.0
    found[-1] = 1.0
    return found / np.linalg.norm(found)

  def oracle(params, batch):
    del params
    texts = [
      grammar.parse(tokenizer.decode(ids)).facts for ids in batch["input_ids"]
    ]
    scenes = [
      parse_picture.parse(np.asarray(p)).scene.facts for p in batch["pictures"]
    ]
    return np.stack(list(map(vector, texts))), np.stack(
      list(map(vector, scenes))
    )

  monkeypatch.setattr(evaluation, "_embed", oracle)
  scores = evaluation.run(None)
  rates = {name: x for name, x in scores.items() if name.endswith("_rate")}
  assert len(rates) == 3 + len(captions.KINDS)
  assert set(rates.values()) == {1.0}
  monkeypatch.setattr(
    evaluation, "_embed", lambda _, batch: (np.ones((12, 1)),) * 2
  )
  assert evaluation.run(None)["eval/one_fact_rate"] == 0.0


@pytest.mark.parametrize("kind", captions.KINDS)
def test_vary_changes_one_fact_in_the_way_asked_for(kind):
  rng = np.random.default_rng(0)
  things = (
    world.Thing(3, "big", "red", "star"),
    world.Thing(9, "small", "blue", "circle"),
  )
  scene = world.Scene(things)
  seen = set()
  for _ in range(30):
    other = captions.vary(rng, scene, kind)
    gone, new = scene.facts - other.facts, other.facts - scene.facts
    seen.add(other)
    assert (len(gone), len(new)) == {
      "missing": (1, 0),
      "extra": (0, 1),
    }.get(kind, (1, 1))
    if gone and new:
      (one,), (two,) = gone, new
      names = ("size", "colour", "shape", "cell")
      changed = [n for n in names if getattr(one, n) != getattr(two, n)]
      assert changed == [kind]
  assert len(seen) > 1
  if kind != "extra":
    assert captions.vary(rng, world.Scene(), kind) is None


def test_each_text_of_a_family_lists_what_its_picture_shows():
  source = data_lib.ScenesSource(seed=0, size=60)
  rng = np.random.default_rng(0)
  for i in range(60):
    pairs = captions.family(rng, source[i], size=4)
    assert pairs[0] == (source[i].reasoning, source[i].target)
    assert len({scene for _, scene in pairs}) == 4
    for text, scene in pairs:
      parsed = grammar.parse(text)
      assert parsed.facts == scene.facts
      assert parsed.accepted_rate == 1.0
      assert len(grammar.tokenize(text)) <= grammar.MAX_REASONING_LEN


def test_token_row_stands_between_start_and_end_and_is_filled_with_ends():
  row, mask = captions.token_row([5, 6], start_id=1, end_id=2, max_len=6)
  assert row.tolist() == [1, 5, 6, 2, 2, 2]
  assert mask.tolist() == [True] * 4 + [False] * 2
  row, mask = captions.token_row([5, 6, 7], start_id=1, end_id=2, max_len=4)
  assert row.tolist() == [1, 5, 6, 2] and mask.all()


def test_holes_take_words_out_and_keep_the_order(tokenizer):
  config = clip.DataConfig(size=30, family_size=1)
  whole = clip.make_source(config, tokenizer, max_len=49)
  holed = clip.make_source(
    clip.DataConfig(size=30, family_size=1, hole_rate=1.0),
    tokenizer,
    max_len=49,
  )
  num_shorter = 0
  for i in range(30):
    full = whole[i]["input_ids"][whole[i]["text_mask"]].tolist()
    rest = holed[i]["input_ids"][holed[i]["text_mask"]].tolist()
    walk = iter(full)
    assert all(word in walk for word in rest)  # a subsequence
    num_shorter += len(rest) < len(full)
    np.testing.assert_array_equal(holed[i]["pictures"], whole[i]["pictures"])
  assert num_shorter > 20


def test_shipped_config_builds_and_says_one_patch_a_cell():
  experiment = common.build(clip.Experiment, clip_scenes.get_config())
  assert experiment.model["patch_size"] == world.CELL_PIXELS
