"""The tokenizer's loop on a folder of made-up pictures."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import launched
import ml_collections
import numpy as np
import PIL.Image
import pytest

from experiments import common
from experiments import tokenizer
from experiments import tokenizer_evaluation
from experiments import tokenizer_loss
from experiments import tokenizer_pictures
from experiments.configs import tokenizer_emoji
from paradiff import metrics
from paradiff import pretrained
from paradiff.models import image_tokenizer

SIDE = 16
pytestmark = pytest.mark.usefixtures("cache_of_compiled_programs")


def _config(folder) -> ml_collections.ConfigDict:
  config = tokenizer_emoji.get_config()
  ones = (1,) * 2
  config.update(
    dict(
      seed=3,
      batch_size=2,
      crop_steps=4,
      loss=dict(whole_codes="pictures"),
      tokenizer=dict(
        picture_size=SIDE,
        code_bits=4,
        base_channels=4,
        encoder_multipliers=ones,
        encoder_blocks=ones,
        decoder_multipliers=ones,
        decoder_blocks=ones,
        norm_groups=1,
      ),
      optim=dict(learning_rate=1e-2, num_steps=26, warmup_steps=0),
      finish_optim=dict(learning_rate=1e-2, num_steps=4, warmup_steps=0),
      log=dict(every=1),
      evaluate=dict(every=15, pictures=dict(num_pictures=4, batch_size=2)),
      checkpoint=dict(every=10),
    )
  )
  config.data.folder = str(folder)
  return config


def _write(folder, num: int) -> None:
  """Write pictures of two colours, in folders, of several shapes."""
  rng = np.random.default_rng(0)
  for i in range(num):
    height, width = (SIDE, SIDE) if i % 2 else (2 * SIDE, 3 * SIDE)
    picture = np.full((height, width, 3), 255, np.uint8)
    picture[: height // 2] = rng.integers(0, 256, 3)
    path = folder / f"part{i % 3}" / f"{i:02d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(picture).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Twelve pictures, one that is cut off, and a file that is no picture."""
  path = tmp_path_factory.mktemp("pictures")
  _write(path, 12)
  data = (path / "part0" / "00.png").read_bytes()
  (path / "broken.png").write_bytes(data[: len(data) // 2])
  (path / "notes.txt").write_text("no picture")
  (path / ".hidden.png").write_bytes(data)
  return path


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
  """A finished run of thirty steps."""
  path = tmp_path_factory.mktemp("run")
  tokenizer.train(_config(folder), str(path))
  return path


def _load(**options):
  said: list[str] = []
  found = tokenizer_pictures.load(
    tokenizer_pictures.PicturesConfig(**options), size=SIDE, report=said.append
  )
  return found, "".join(said)


def _exported(path):
  return pretrained.load(path / "export", "image_tokenizer")


def test_run_learns_its_pictures_and_draws_held_out_ones(workdir):
  rows = metrics.read(workdir)
  assert [row["step"] for row in rows] == list(range(1, 31))
  whole = [row["train/pixels"] for row in rows if "train/pixels" in row]
  assert np.mean(whole[-5:]) < 0.5 * np.mean(whole[:5])
  assert rows[-1]["eval/psnr"] > rows[14]["eval/psnr"]
  assert rows[-1]["eval/mean_absolute_error"] < 128
  assert 1 <= rows[-1]["eval/code_perplexity"] <= rows[-1]["eval/codes_used"]
  sample = PIL.Image.open(workdir / "samples" / "000030.png")
  assert sample.size[1] == 2 * 2 * SIDE  # originals above what came back


def test_resumed_run_ends_bitwise_equal(workdir, folder, tmp_path):
  """Without its last checkpoint, the run goes on from step 26, then 28."""
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  shutil.rmtree(tmp_path / "checkpoints" / "30")
  shutil.rmtree(tmp_path / "export")
  with launched.told_to_stop(28):
    tokenizer.train(_config(folder), str(tmp_path))
  tokenizer.train(_config(folder), str(tmp_path))
  jax.tree.map(
    np.testing.assert_array_equal, _exported(tmp_path), _exported(workdir)
  )


def test_a_run_does_not_go_on_with_other_pictures(
  workdir, folder, tmp_path, monkeypatch
):
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  load = tokenizer_pictures.load

  def load_fewer(*args, **options):
    found = load(*args, **options)
    return dataclasses.replace(found, train=found.train[1:])

  monkeypatch.setattr(tokenizer_pictures, "load", load_fewer)
  with pytest.raises(ValueError, match="pictures"):
    tokenizer.train(_config(folder), str(tmp_path))


def test_broken_pictures_are_left_out_and_told(folder):
  found, said = _load(folder=str(folder))
  assert len(found.train) + len(found.held_out) == 12
  assert list(found.skipped) == [str(folder / "broken.png")]
  assert said.startswith("left out 1 of 13 files:\n")
  assert "broken.png" in said and "complete" in said


def test_many_broken_pictures_are_counted(tmp_path):
  _write(tmp_path, 2)
  for i in range(15):
    (tmp_path / f"broken{i:02d}.png").write_bytes(b"")
  _, said = _load(folder=str(tmp_path))
  assert said.startswith("left out 15 of 17 files:\n")
  assert said.endswith("  and 5 more\n")


def test_patterns_name_the_same_pictures_as_their_folder(folder):
  by_folder, _ = _load(folder=str(folder))
  by_pattern, _ = _load(files=(f"{folder}/part*/*.png", f"{folder}/*/01.png"))
  np.testing.assert_array_equal(by_pattern.train, by_folder.train)
  np.testing.assert_array_equal(by_pattern.held_out, by_folder.held_out)


def test_held_out_pictures_stay_when_the_collection_moves_or_grows(tmp_path):
  _write(tmp_path / "a", 40)
  before, _ = _load(folder=str(tmp_path / "a"), held_out_rate=0.3)
  (tmp_path / "a").rename(tmp_path / "b")
  _write(tmp_path / "b", 60)  # the first forty are the same
  after, _ = _load(folder=str(tmp_path / "b"), held_out_rate=0.3)
  assert 0 < len(before.held_out) < len(after.held_out)
  held_out = {picture.tobytes() for picture in after.held_out}
  assert {picture.tobytes() for picture in before.held_out} <= held_out
  assert not held_out & {picture.tobytes() for picture in after.train}


def test_one_picture_is_held_out_whatever_the_rate(tmp_path):
  _write(tmp_path, 2)
  for rate in (1e-9, 1 - 1e-9):
    found, _ = _load(folder=str(tmp_path), held_out_rate=rate)
    assert (len(found.train), len(found.held_out)) == (1, 1)


def test_a_folder_without_pictures_is_refused(tmp_path):
  (tmp_path / "a.png").write_bytes(b"no picture")
  (tmp_path / "notes.txt").write_text("no picture")
  with pytest.raises(ValueError, match="at least two pictures.*got 0 of 1"):
    tokenizer.train(_config(tmp_path), str(tmp_path / "run"))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(), "either a folder or files"),
    (dict(folder="a", files=("b/*",)), "either a folder or files"),
    (dict(folder="a", held_out_rate=0.0), "held_out_rate must lie in"),
  ],
)
def test_a_config_that_names_no_pictures_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    tokenizer_pictures.PicturesConfig(**options)


def test_each_picture_comes_once_each_time_round():
  pictures = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
  data = tokenizer_pictures.PicturesData(pictures, seed=1, batch_size=2)
  order = np.concatenate([data.batch(i).ravel() for i in range(10)])
  for turn in range(4):
    assert sorted(order[5 * turn : 5 * turn + 5]) == [0, 1, 2, 3, 4]
  assert len({tuple(order[i : i + 5]) for i in range(0, 20, 5)}) > 1


def test_a_batch_follows_from_the_step_alone():
  pictures = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)

  def fresh():
    return tokenizer_pictures.PicturesData(pictures, seed=1, batch_size=3)

  walked = fresh()
  batches = [walked.batch(i) for i in range(9)]
  np.testing.assert_array_equal(fresh().batch(8), batches[8])


def _tokenizer(folder) -> image_tokenizer.ImageTokenizerConfig:
  return common.build(
    image_tokenizer.ImageTokenizerConfig, _config(folder).tokenizer
  )


def test_scores_of_pictures_agree_with_those_counted_plainly(tmp_path):
  config = _tokenizer(tmp_path)
  params = image_tokenizer.init(config, jax.random.key(0))
  rng = np.random.default_rng(0)
  pictures = rng.integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
  evaluation = tokenizer_evaluation.PictureEvaluation(
    config, pictures, batch_size=2
  )
  scores, _ = evaluation.run(params)
  floats = image_tokenizer.to_float(config, jnp.asarray(pictures))
  codes = image_tokenizer.encode(config, params, floats)
  decoded = image_tokenizer.to_uint8(
    config, image_tokenizer.decode(config, params, codes)
  )
  error = np.asarray(decoded).astype(float) - pictures
  _, counts = np.unique(np.asarray(codes), return_counts=True)
  rate = counts / counts.sum()
  expected = {
    "eval/psnr": -10 * np.log10(np.mean(np.square(error / 255))),
    "eval/mean_absolute_error": np.mean(np.abs(error)),
    "eval/codes_used": len(counts),
    "eval/code_perplexity": np.prod(rate**-rate),
  }
  assert set(scores) == set(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(scores[name], value, rtol=1e-3)


def test_whole_codes_of_another_name_are_refused():
  with pytest.raises(ValueError, match="whole_codes must be one of"):
    tokenizer_loss.LossConfig(whole_codes="words")


def test_pixel_loss_weighs_what_is_off_its_own_canvas():
  """One pixel of four is black on white and wrong by 0.5; weight 1 + 2."""
  pictures = np.ones((1, 2, 2, 3), np.float32)
  pictures[0, 0, 0] = -1.0
  decoded = pictures.copy()
  decoded[0, 0, 0] += 0.5
  value = tokenizer_loss.pixel_loss(
    jnp.asarray(decoded),
    jnp.asarray(pictures),
    object_weight=2.0,
    canvas_rgb=(255, 255, 255),
  )
  error = 0.5 * 0.5 + 0.5 * 0.25
  np.testing.assert_allclose(value, 3.0 * error / (3.0 + 3.0), rtol=1e-5)
