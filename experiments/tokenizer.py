"""Train an image tokenizer on pictures of random scenes.

  python -m experiments.tokenizer \
    --config=experiments/configs/tokenizer_micro.py --workdir=DIR

The losses are those of MAGVIT-v2 (arXiv 2310.05737, section 3.1) without the
adversarial one: reconstruction, entropy and commitment, through
straight-through quantisation. One is added. The transformer has to predict
the codes, so a code should mean one thing whatever its neighbours are:
*locality* asks the codes of a picture to be those of its crops.

Three stages: crops of one code each, which is cheap and settles the codebook;
whole pictures beside their crops; the decoder alone, with the codes fixed.
"""

import dataclasses
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from etils import epath

from experiments import common
from experiments import tokenizer_data
from experiments import tokenizer_evaluation
from paradiff import checkpoints
from paradiff import metrics
from paradiff import optim
from paradiff import pretrained
from paradiff import step
from paradiff import train_state
from paradiff.models import image_tokenizer
from paradiff.models import magvit2
from paradiff.scenes import render


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Coefficients of the loss; the reconstruction error has 1.

  Attributes:
    object_weight: a pixel off the canvas counts 1 + object_weight times.
    finish_object_weight: the same while the decoder trains alone.
    sample_entropy_coef: makes the encoder sure of each code.
    batch_entropy_coef: makes the codes be used evenly; falls to 0 over
      `batch_entropy_steps`, for empty cells need but one code.
    batch_entropy_steps: see above.
    commitment_coef: draws the latents to -1 and 1.
    locality_coef: draws a picture's codes to those of its crops.
  """

  object_weight: float = 8.0
  finish_object_weight: float = 2.0
  sample_entropy_coef: float = 0.02
  batch_entropy_coef: float = 0.1
  batch_entropy_steps: int = 1000
  commitment_coef: float = 0.05
  locality_coef: float = 0.2


def make_batch(
  config: ml_collections.ConfigDict, loss: LossConfig, done: int
) -> dict[str, np.ndarray]:
  """Return pictures and coefficients of the step after `done` steps.

  They follow from the seed and the step alone, so a run can resume anywhere.
  """
  rng = np.random.default_rng([config.seed, 0, done])
  is_finish = done >= config.optim.num_steps
  return {
    "pictures": tokenizer_data.train_pictures(
      rng,
      num_pictures=config.batch_size,
      thin_rate=config.finish_thin_rate if is_finish else config.thin_rate,
    ),
    "batch_entropy_coef": np.asarray(
      loss.batch_entropy_coef * max(0.0, 1.0 - done / loss.batch_entropy_steps),
      np.float32,
    ),
  }


def cut(pictures: jax.Array, *, side: int) -> jax.Array:
  """Return the crops [B*h*w, side, side, 3] of [B, H, W, 3], raster order."""
  batch_size, height, width, _ = pictures.shape
  h, w = height // side, width // side
  crops = pictures.reshape(batch_size, h, side, w, side, 3)
  return crops.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side, side, 3)


def pixel_loss(
  decoded: jax.Array, pictures: jax.Array, *, object_weight: float
) -> jax.Array:
  """Return float32[]: mean of L1 and L2 errors, objects weighted up.

  The weighted mean is taken picture by picture, so that a picture with little
  on it counts as much as a full one: small pale objects are the hardest.
  """
  canvas = jnp.asarray(render.CANVAS_RGB, jnp.float32) / 127.5 - 1.0
  canvas = canvas.reshape(1, 1, 1, 3)
  is_object = jnp.any(jnp.abs(pictures - canvas) > 0.02, -1)
  weight = 1.0 + object_weight * is_object
  error = decoded - pictures
  error = jnp.mean(0.5 * jnp.abs(error) + 0.5 * jnp.square(error), axis=-1)
  total = jnp.sum(weight * error, axis=(1, 2))
  return jnp.mean(total / jnp.sum(weight, axis=(1, 2)))


def crop_loss(
  tokenizer: image_tokenizer.ImageTokenizerConfig,
  loss: LossConfig,
  params: Any,
  batch: step.Batch,
) -> tuple[jax.Array, step.Metrics, jax.Array]:
  """Autoencode crops of one code each.

  Returns:
    The loss, its parts, and the crops' codes float32[B, h, w, code_bits] of
    -1 and 1 at their places in the pictures.
  """
  pictures = image_tokenizer.to_float(tokenizer, batch["pictures"])
  crops = cut(pictures, side=tokenizer.factor)
  output = image_tokenizer.reconstruct(tokenizer, params, crops)
  pixels = pixel_loss(output.pictures, crops, object_weight=loss.object_weight)
  sample, whole = magvit2.entropies(output.latents)
  codes = jax.lax.stop_gradient(output.quantised)
  commitment = jnp.mean(jnp.square(output.latents - codes))
  total = (
    pixels
    + loss.sample_entropy_coef * sample
    - batch["batch_entropy_coef"] * whole
    + loss.commitment_coef * commitment
  )
  parts = {
    "train/crop_pixels": pixels,
    "train/sample_entropy": sample,
    "train/batch_entropy": whole,
    "train/commitment": commitment,
  }
  batch_size, height, width, _ = pictures.shape
  side = tokenizer.factor
  grid = (batch_size, height // side, width // side, tokenizer.code_bits)
  return total, parts, codes.reshape(grid)


def first_loss(
  tokenizer: image_tokenizer.ImageTokenizerConfig,
  loss: LossConfig,
  params: Any,
  batch: step.Batch,
  key: jax.Array,
) -> tuple[jax.Array, step.Metrics]:
  """Loss of the first steps: crops alone."""
  del key
  total, parts, _ = crop_loss(tokenizer, loss, params, batch)
  return total, parts


def whole_loss(
  tokenizer: image_tokenizer.ImageTokenizerConfig,
  loss: LossConfig,
  params: Any,
  batch: step.Batch,
  key: jax.Array,
) -> tuple[jax.Array, step.Metrics]:
  """Loss of the later steps: crops, and whole pictures in their codes.

  The decoder paints the picture from the codes of its crops, and the encoder
  learns to find these codes in the picture. So a picture that the encoder
  does not yet read well cannot disturb what the codes mean.
  """
  del key
  total, parts, codes = crop_loss(tokenizer, loss, params, batch)
  pictures = image_tokenizer.to_float(tokenizer, batch["pictures"])
  latents = image_tokenizer.encode_latents(tokenizer, params, pictures)
  decoded = image_tokenizer.decode_latents(tokenizer, params, codes)
  pixels = pixel_loss(decoded, pictures, object_weight=loss.object_weight)
  locality = jnp.mean(jnp.square(latents - codes))
  agree = jnp.mean(jnp.all(latents * codes > 0, axis=-1))
  parts |= {
    "train/pixels": pixels,
    "train/locality": locality,
    "train/crop_code_rate": agree,
  }
  return total + pixels + loss.locality_coef * locality, parts


def finish_loss(
  tokenizer: image_tokenizer.ImageTokenizerConfig,
  loss: LossConfig,
  params: Any,
  batch: step.Batch,
  key: jax.Array,
) -> tuple[jax.Array, step.Metrics]:
  """Loss of the last steps: the decoder alone, no gradient in the encoder."""
  del key
  pictures = image_tokenizer.to_float(tokenizer, batch["pictures"])
  latents = image_tokenizer.encode_latents(tokenizer, params, pictures)
  codes = jax.lax.stop_gradient(magvit2.quantise(latents))
  decoded = image_tokenizer.decode_latents(tokenizer, params, codes)
  pixels = pixel_loss(
    decoded, pictures, object_weight=loss.finish_object_weight
  )
  return pixels, {"train/finish_pixels": pixels}


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stretch of the run: it ends after step `end`, counted from the start."""

  end: int
  tx: optax.GradientTransformation
  train_step: step.TrainStep


def make_stages(
  config: ml_collections.ConfigDict,
  tokenizer: image_tokenizer.ImageTokenizerConfig,
  loss: LossConfig,
) -> tuple[Stage, ...]:
  """Return the three stages; the last has an optimiser of its own."""
  kind = (tokenizer.quantiser, tokenizer.pixel_range)
  if kind != ("lookup_free", "signed"):  # entropies and canvas assume it
    raise ValueError(f"tokenizer must be lookup_free and signed, got {kind}")
  codes_config = common.build(optim.OptimConfig, config.optim)
  finish_config = common.build(optim.OptimConfig, config.finish_optim)
  num_codes_steps = codes_config.num_steps
  if not 0 < config.crop_steps < num_codes_steps:
    raise ValueError(
      "crop_steps must lie in (0, optim.num_steps), got "
      f"{config.crop_steps=} {num_codes_steps=}"
    )
  codes_tx = optim.make_tx(codes_config)
  finish_tx = optim.make_tx(finish_config)
  codes_rate = optim.make_schedule(codes_config)
  finish_rate = optim.make_schedule(finish_config)

  def make_step(loss_fn: Any, tx: Any, schedule: Any) -> step.TrainStep:
    bound = functools.partial(loss_fn, tokenizer, loss)
    return step.make_train_step(bound, tx, schedule=schedule)

  update = make_step(
    finish_loss, finish_tx, lambda done: finish_rate(done - num_codes_steps)
  )

  def finish_step(
    state: train_state.TrainState, batch: step.Batch
  ) -> tuple[train_state.TrainState, step.Metrics]:
    new_state, values = update(state, batch)
    # Weight decay moves parameters without a gradient too: put them back.
    params = new_state.params | {"encoder": state.params["encoder"]}
    return dataclasses.replace(new_state, params=params), values

  first_step = make_step(first_loss, codes_tx, codes_rate)
  whole_step = make_step(whole_loss, codes_tx, codes_rate)
  return (
    Stage(config.crop_steps, codes_tx, jax.jit(first_step, donate_argnums=0)),
    Stage(num_codes_steps, codes_tx, jax.jit(whole_step, donate_argnums=0)),
    Stage(
      num_codes_steps + finish_config.num_steps,
      finish_tx,
      jax.jit(finish_step, donate_argnums=0),
    ),
  )


def train(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
  """Run the experiment, resuming from what the workdir holds.

  Args:
    config: see `experiments/configs/tokenizer_micro.py`.
    workdir: checkpoints, metrics, samples, and `export/`: the result.

  Returns:
    The scores of the final parameters.
  """
  tokenizer = common.build(
    image_tokenizer.ImageTokenizerConfig, config.tokenizer
  )
  loss = common.build(LossConfig, config.loss)
  stages = make_stages(config, tokenizer, loss)
  num_steps = stages[-1].end
  params_key, train_key = jax.random.split(jax.random.key(config.seed))
  init = jax.jit(image_tokenizer.init, static_argnums=0)
  state = train_state.create(
    init(tokenizer, params_key), stages[0].tx, train_key
  )

  checkpointer = checkpoints.Checkpointer(
    workdir, identity=common.identity(config, experiment="tokenizer")
  )
  restored = checkpointer.restore(state)
  start = 0 if restored is None else restored[1]
  state = state if restored is None else restored[0]
  common.write_config(config, workdir)
  writer = metrics.Writer(workdir, resume_step=start or None)
  evaluation = tokenizer_evaluation.Evaluation(
    tokenizer, seed=config.seed, **config.evaluate.scenes
  )
  window, guard = metrics.Window(), common.Guard()
  progress = metrics.Progress(num_steps, stream=sys.stderr, start_step=start)
  scores: dict[str, float] = {}
  for done in range(start + 1, num_steps + 1):
    stage = next(stage for stage in stages if done <= stage.end)
    if done == stages[1].end + 1:
      opt_state = stage.tx.init(state.params)
      state = dataclasses.replace(state, opt_state=opt_state)
    batch = jax.device_put(make_batch(config, loss, done - 1))
    state, values = stage.train_step(state, batch)
    guard.push(done, values)
    window.add(values)
    progress.update(done, loss=guard.loss)
    is_end = done == stage.end  # each stage has metrics of its own
    if done % config.log.every == 0 or is_end:
      writer.write_scalars(done, window.take())
    if done % config.evaluate.every == 0 or is_end:
      guard.drain()
      scores, grid = evaluation.run(state.params)
      writer.write_scalars(done, scores)
      writer.write_images(done, {"samples": grid})
      tokenizer_evaluation.write_png(
        epath.Path(workdir) / "samples" / f"{done:06d}.png", grid
      )
    if done % config.checkpoint.every == 0 or is_end:
      guard.drain()
      writer.flush()
      checkpointer.save(state, step=done, position=done)
  progress.close()
  checkpointer.close()
  writer.close()
  if not scores:  # nothing was left to do
    scores, _ = evaluation.run(state.params)
  pretrained.save(
    epath.Path(workdir) / "export",
    "image_tokenizer",
    state.params,
    dataclasses.asdict(tokenizer),
  )
  for name, value in scores.items():
    sys.stderr.write(f"{name} {value:.5g}\n")
  return scores


if __name__ == "__main__":
  common.run(train)
