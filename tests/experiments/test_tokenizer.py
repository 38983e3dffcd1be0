"""The tokenizer's training loop, on a network of a few hundred weights."""

import shutil

import jax
import jax.numpy as jnp
import launched
import ml_collections
import numpy as np
import pytest

from experiments import tokenizer
from experiments import tokenizer_data
from experiments import tokenizer_loss
from paradiff import metrics
from paradiff import pretrained
from paradiff.scenes import render
from paradiff.scenes import world


def _config() -> ml_collections.ConfigDict:
  ones = (1,) * 2
  optimiser = dict(learning_rate=1e-2, warmup_steps=0)
  return ml_collections.ConfigDict(
    dict(
      seed=3,
      batch_size=1,
      crop_steps=1,
      thin_rate=0.25,
      finish_thin_rate=0.75,
      tokenizer=dict(
        picture_size=64,
        code_bits=4,
        base_channels=2,
        encoder_multipliers=ones,
        encoder_blocks=ones,
        decoder_multipliers=ones,
        decoder_blocks=ones,
        norm_groups=1,
        mid_attention=False,
      ),
      loss=dict(),
      optim=dict(num_steps=2, **optimiser),
      finish_optim=dict(num_steps=3, weight_decay=0.1, **optimiser),
      log=dict(every=1),
      evaluate=dict(every=5, scenes=dict(num_scenes=3, batch_size=2)),
      checkpoint=dict(every=3),
    )
  )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A finished run of five steps: crops, pictures, three of the decoder."""
  path = tmp_path_factory.mktemp("tokenizer")
  tokenizer.train(_config(), str(path))
  return path


def _exported(path):
  return pretrained.load(path / "export", "image_tokenizer")


def test_run_exports_a_tokenizer_and_logs_each_step_once(workdir):
  params, config = _exported(workdir)
  assert set(params) == {"encoder", "decoder"}
  assert config["code_bits"] == 4
  rows = metrics.read(workdir)
  assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
  assert 0.0 <= rows[-1]["eval/facts_read_rate"] <= 1.0
  assert (workdir / "samples" / "000005.png").exists()


def test_resumed_run_ends_bitwise_equal(workdir, tmp_path):
  """Without its last checkpoint, the run goes on from step 3, then from 4."""
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  shutil.rmtree(tmp_path / "checkpoints" / "5")
  shutil.rmtree(tmp_path / "export")
  with launched.told_to_stop(4):
    tokenizer.train(_config(), str(tmp_path))
  assert not (tmp_path / "export").exists()
  tokenizer.train(_config(), str(tmp_path))
  jax.tree.map(
    np.testing.assert_array_equal, _exported(tmp_path), _exported(workdir)
  )
  steps = [row["step"] for row in metrics.read(tmp_path)]
  assert steps == [1, 2, 3, 4, 5]


def test_crop_steps_outside_the_run_are_refused():
  config = _config()
  config.crop_steps = 2
  with pytest.raises(ValueError, match="crop_steps must lie in"):
    tokenizer.train(config, "/nonexistent")


@pytest.mark.parametrize(
  "changes",
  [
    dict(quantiser="codebook", num_codes=8, latent_channels=4),
    dict(pixel_range="unit"),
  ],
)
def test_a_tokenizer_that_the_losses_do_not_fit_is_refused(changes):
  config = _config()
  config.tokenizer.update(changes)
  with pytest.raises(ValueError, match="must be lookup_free and signed"):
    tokenizer.train(config, "/nonexistent")


def test_pixel_loss_of_a_hand_worked_picture():
  """One pixel of four is off the canvas and wrong by 0.5."""
  canvas = np.asarray(render.CANVAS_RGB, np.float32) / 127.5 - 1.0
  pictures = np.tile(canvas, (1, 2, 2, 1))
  pictures[0, 0, 0] = -1.0
  decoded = pictures.copy()
  decoded[0, 0, 0] += 0.5
  value = tokenizer_loss.pixel_loss(
    jnp.asarray(decoded), jnp.asarray(pictures), object_weight=2.0
  )
  error = 0.5 * 0.5 + 0.5 * 0.25
  np.testing.assert_allclose(value, 3.0 * error / (3.0 + 3.0), rtol=1e-5)


def test_crops_of_one_code_are_cells_in_raster_order():
  scene = world.Scene((world.Thing(6, "big", "red", "star"),))
  crops = tokenizer_loss.cut(jnp.asarray(render.render(scene)[None]), side=16)
  is_blank = (np.asarray(crops) == render.CANVAS_RGB).all((1, 2, 3))
  assert np.flatnonzero(~is_blank).tolist() == [6]


def test_four_unthinned_pictures_show_every_look():
  pictures = tokenizer_data.train_pictures(
    np.random.default_rng(0), num_pictures=4, thin_rate=0.0
  )
  crops = tokenizer_loss.cut(jnp.asarray(pictures), side=16)
  assert len(np.unique(np.asarray(crops), axis=0)) == 49


def test_random_scene_holds_up_to_seven_things():
  rng = np.random.default_rng(0)
  sizes = {len(tokenizer_data.random_scene(rng).things) for _ in range(200)}
  assert sizes == set(range(8))
