"""Train an image tokenizer on pictures of random scenes.

  python -m experiments.tokenizer \
    --config=experiments/configs/tokenizer_micro.py --workdir=DIR

The losses are those of MAGVIT-v2 (arXiv 2310.05737, section 3.1) without the
adversarial one: reconstruction, entropy and commitment, through
straight-through quantisation. One is added. The transformer has to predict
the codes, so a code should mean one thing whatever its neighbours are:
*locality* asks the codes of a picture to be those of its crops. Training
begins on crops of one code each, which is cheap and settles the codebook.
"""

import dataclasses
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath
from PIL import Image

from experiments import common
from paradiff import checkpoints
from paradiff import metrics
from paradiff import optim
from paradiff import step
from paradiff import train_state
from paradiff.models import image_tokenizer
from paradiff.models import magvit2
from paradiff.scenes import parse_picture
from paradiff.scenes import render
from paradiff.scenes import world

LOOKS = tuple(
  (size, colour, shape)
  for size in world.SIZES
  for colour in world.COLOURS
  for shape in world.SHAPES
)
_HELD_OUT = 1  # second word of the seed of scenes never trained on


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Coefficients of the loss; the reconstruction error has 1.

  Attributes:
    object_weight: a pixel off the canvas counts 1 + object_weight times.
    sample_entropy_coef: makes the encoder sure of each code.
    batch_entropy_coef: makes the codes be used evenly; falls to 0 over
      `batch_entropy_steps`, for empty cells need but one code.
    batch_entropy_steps: see above.
    commitment_coef: draws the latents to -1 and 1.
    locality_coef: draws a picture's codes to those of its crops.
  """

  object_weight: float = 8.0
  sample_entropy_coef: float = 0.02
  batch_entropy_coef: float = 0.1
  batch_entropy_steps: int = 1000
  commitment_coef: float = 0.05
  locality_coef: float = 0.2


def random_scene(
  rng: np.random.Generator, *, max_things: int = 7
) -> world.Scene:
  """Draw 0 to `max_things` random objects in distinct random cells."""
  num_things = int(rng.integers(0, max_things + 1))
  cells = rng.choice(world.NUM_CELLS, num_things, replace=False)
  looks = rng.integers(0, len(LOOKS), num_things)
  return world.Scene(
    tuple(
      world.Thing(int(cell), *LOOKS[look])
      for cell, look in zip(cells, looks, strict=True)
    )
  )


def train_pictures(
  rng: np.random.Generator, *, num_pictures: int
) -> np.ndarray:
  """Draw crowded pictures in which every look is about equally frequent.

  Args:
    rng: host randomness.
    num_pictures: B.

  Returns:
    uint8[B, 64, 64, 3]; one picture in four is thinned to a random share.
  """
  num_cells = num_pictures * world.NUM_CELLS
  num_kinds = len(LOOKS) + 1  # 0 is the empty cell
  rounds = [
    rng.permutation(num_kinds) for _ in range(-(-num_cells // num_kinds))
  ]
  kinds = np.concatenate(rounds)[:num_cells].reshape(num_pictures, -1)
  share = np.where(
    rng.random((num_pictures, 1)) < 0.25, rng.random((num_pictures, 1)), 1.0
  )
  kinds = np.where(rng.random(kinds.shape) < share, kinds, 0)
  return np.stack([_render(row) for row in kinds])


def _render(kinds: np.ndarray) -> np.ndarray:
  things = [
    world.Thing(cell, *LOOKS[kind - 1])
    for cell, kind in enumerate(kinds.tolist())
    if kind
  ]
  return render.render(world.Scene(tuple(things)))


def make_batch(
  config: ml_collections.ConfigDict, loss: LossConfig, step_number: int
) -> dict[str, np.ndarray]:
  """Return the pictures and coefficients of one step, from seed and step."""
  rng = np.random.default_rng([config.seed, 0, step_number])
  return {
    "pictures": train_pictures(rng, num_pictures=config.batch_size),
    "batch_entropy_coef": np.float32(
      loss.batch_entropy_coef
      * max(0.0, 1.0 - step_number / loss.batch_entropy_steps)
    ),
  }


def cut(pictures: jax.Array, *, side: int) -> jax.Array:
  """Return the crops [B*h*w, side, side, 3] of [B, H, W, 3], raster order."""
  batch_size, height, width, _ = pictures.shape
  h, w = height // side, width // side
  crops = pictures.reshape(batch_size, h, side, w, side, 3)
  return crops.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side, side, 3)


def pixel_loss(
  loss: LossConfig, decoded: jax.Array, pictures: jax.Array
) -> jax.Array:
  """Return float32[]: mean of L1 and L2 errors, objects weighted up.

  The weighted mean is taken picture by picture, so that a picture with little
  on it counts as much as a full one: small pale objects are the hardest.
  """
  canvas = jnp.asarray(render.CANVAS_RGB, jnp.float32) / 127.5 - 1.0
  is_object = jnp.any(jnp.abs(pictures - canvas) > 0.02, -1)
  weight = 1.0 + loss.object_weight * is_object
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
  pictures = image_tokenizer.to_float(batch["pictures"])
  crops = cut(pictures, side=tokenizer.factor)
  output = image_tokenizer.reconstruct(tokenizer, params, crops)
  pixels = pixel_loss(loss, output.pictures, crops)
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
  pictures = image_tokenizer.to_float(batch["pictures"])
  latents = image_tokenizer.encode_latents(tokenizer, params, pictures)
  decoded = image_tokenizer.decode_latents(tokenizer, params, codes)
  pixels = pixel_loss(loss, decoded, pictures)
  locality = jnp.mean(jnp.square(latents - codes))
  agree = jnp.mean(jnp.all(latents * codes > 0, axis=-1))
  parts |= {
    "train/pixels": pixels,
    "train/locality": locality,
    "train/crop_code_rate": agree,
  }
  return total + pixels + loss.locality_coef * locality, parts


class Evaluation:
  """Held-out scenes, and how well their reconstructions can be read."""

  def __init__(
    self,
    tokenizer: image_tokenizer.ImageTokenizerConfig,
    *,
    seed: int,
    num_scenes: int,
    batch_size: int,
  ) -> None:
    rng = np.random.default_rng([seed, _HELD_OUT])
    self._scenes = [random_scene(rng) for _ in range(num_scenes)]
    self._pictures = np.stack([render.render(s) for s in self._scenes])
    self._batch_size = batch_size
    self._side = tokenizer.grid_size

    @jax.jit
    def autoencode(params: Any, pictures: jax.Array) -> Any:
      floats = image_tokenizer.to_float(pictures)
      codes = image_tokenizer.encode(tokenizer, params, floats)
      decoded = image_tokenizer.decode(tokenizer, params, codes)
      return codes, image_tokenizer.to_uint8(decoded)

    self._autoencode = autoencode

  def run(self, params: Any) -> tuple[dict[str, float], np.ndarray]:
    """Encode, decode and parse every held-out scene.

    Returns:
      Scores, and a picture uint8[H, W, 3] of originals above what came back.
    """
    codes, decoded = [], []
    for start in range(0, len(self._pictures), self._batch_size):
      chunk = self._pictures[start : start + self._batch_size]
      short = self._batch_size - len(chunk)
      padded = np.pad(chunk, ((0, short), (0, 0), (0, 0), (0, 0)))
      outputs = jax.device_get(self._autoencode(params, jax.device_put(padded)))
      codes.append(outputs[0][: len(chunk)])
      decoded.append(outputs[1][: len(chunk)])
    pictures = np.concatenate(decoded)
    scores = self._read(pictures) | self._count(np.concatenate(codes))
    difference = pictures.astype(np.float64) - self._pictures
    mean_square = np.square(difference).mean()
    scores["eval/psnr"] = float(10 * np.log10(255**2 / mean_square))
    return scores, _grid(self._pictures, pictures)

  def _read(self, pictures: np.ndarray) -> dict[str, float]:
    """Return the shares of facts read back, made up, and of exact scenes."""
    num_true = num_read = num_false = num_exact = 0
    quality = 0.0
    for scene, picture in zip(self._scenes, pictures, strict=True):
      parsed = parse_picture.parse(picture)
      found = parsed.scene.facts
      num_true += len(scene.facts)
      num_read += len(scene.facts & found)
      num_false += len(found - scene.facts)
      num_exact += scene.facts == found
      quality += parsed.quality
    return {
      "eval/facts_read_rate": num_read / max(1, num_true),
      "eval/facts_false_rate": num_false / max(1, num_true),
      "eval/scenes_exact_rate": num_exact / len(self._scenes),
      "eval/picture_quality": quality / len(self._scenes),
    }

  def _count(self, codes: np.ndarray) -> dict[str, float]:
    """Return how far a cell's look determines its codes."""
    n = self._side // world.GRID_SIZE  # codes a side of a cell
    cells = codes.reshape(-1, world.GRID_SIZE, n, world.GRID_SIZE, n)
    cells = cells.transpose(0, 1, 3, 2, 4).reshape(-1, n * n)
    looks = [
      (t.size, t.colour, t.shape) if (t := scene.at(cell)) else None
      for scene in self._scenes
      for cell in range(world.NUM_CELLS)
    ]
    groups: dict[Any, list[np.ndarray]] = {}
    for look, code in zip(looks, cells, strict=True):
      groups.setdefault(look, []).append(code)
    total_entropy, kinds = 0.0, []
    for members in groups.values():
      _, counts = np.unique(np.stack(members), axis=0, return_counts=True)
      rate = counts / counts.sum()
      total_entropy -= float(counts.sum() * (rate * np.log2(rate)).sum())
      kinds.append(len(counts))
    return {
      "eval/cell_entropy_bits": total_entropy / len(cells),
      "eval/codes_per_look": float(np.mean(kinds)),
      "eval/codes_used": float(len(np.unique(codes))),
    }


def _grid(
  originals: np.ndarray,
  decoded: np.ndarray,
  *,
  columns: int = 8,
  scale: int = 2,
) -> np.ndarray:
  """Return rows of originals, each above the row of its reconstructions."""
  rows = []
  for start in (0, columns):
    for pictures in (originals, decoded):
      rows.append(np.concatenate(pictures[start : start + columns], axis=1))
  grid = np.concatenate(rows)
  return grid.repeat(scale, axis=0).repeat(scale, axis=1)


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
  optim_config = common.build(optim.OptimConfig, config.optim)
  tx, schedule = optim.make_tx(optim_config), optim.make_schedule(optim_config)
  num_steps = optim_config.num_steps
  params_key, train_key = jax.random.split(jax.random.key(config.seed))
  init = jax.jit(image_tokenizer.init, static_argnums=0)
  state = train_state.create(init(tokenizer, params_key), tx, train_key)

  checkpointer = checkpoints.Checkpointer(
    workdir, identity=common.identity(config, experiment="tokenizer")
  )
  restored = checkpointer.restore(state)
  start = 0 if restored is None else restored[1]
  state = state if restored is None else restored[0]
  common.write_config(config, workdir)
  writer = metrics.Writer(workdir, resume_step=start or None)
  evaluation = Evaluation(tokenizer, seed=config.seed, **config.evaluate.scenes)

  def compiled(loss_fn: Any) -> step.TrainStep:
    bound = functools.partial(loss_fn, tokenizer, loss)
    return jax.jit(
      step.make_train_step(bound, tx, schedule=schedule), donate_argnums=0
    )

  first_step, whole_step = compiled(first_loss), compiled(whole_loss)
  window, guard = metrics.Window(), common.Guard()
  progress = metrics.Progress(num_steps, stream=sys.stderr, start_step=start)
  scores: dict[str, float] = {}
  for done in range(start + 1, num_steps + 1):
    train_step = first_step if done <= config.crop_steps else whole_step
    batch = jax.device_put(make_batch(config, loss, done - 1))
    state, values = train_step(state, batch)
    guard.push(done, values)
    window.add(values)
    progress.update(done, loss=guard.loss)
    is_last = done == num_steps
    if done % config.log.every == 0 or is_last or done == config.crop_steps:
      writer.write_scalars(done, window.take())
    if done % config.evaluate.every == 0 or is_last:
      guard.drain()
      scores, grid = evaluation.run(state.params)
      writer.write_scalars(done, scores)
      writer.write_images(done, {"samples": grid})
      _write_png(epath.Path(workdir) / "samples" / f"{done:06d}.png", grid)
    if done % config.checkpoint.every == 0 or is_last:
      guard.drain()
      writer.flush()
      checkpointer.save(state, step=done, position=done)
  progress.close()
  checkpointer.close()
  if not scores:  # nothing was left to do
    scores, _ = evaluation.run(state.params)
  writer.close()
  checkpoints.save_pretrained(
    epath.Path(workdir) / "export",
    "image_tokenizer",
    state.params,
    dataclasses.asdict(tokenizer),
  )
  for name, value in scores.items():
    sys.stderr.write(f"{name} {value:.5g}\n")
  return scores


def _write_png(path: epath.Path, picture: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("wb") as file:
    Image.fromarray(picture).save(file, format="PNG")


if __name__ == "__main__":
  common.run(train)
