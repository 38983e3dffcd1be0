"""The losses of an image tokenizer: codes of crops, whole pictures, finish.

Those of MAGVIT-v2 without the adversarial one: reconstruction, entropy and
commitment, and *locality*, which asks the codes of a picture to be those of
its crops. Where a crop does not determine its code, as in real pictures, whole
pictures are encoded with what is around instead.

Source: arXiv 2310.05737 section 3.1.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from paradiff import step
from paradiff.models import image_tokenizer
from paradiff.models import magvit2
from paradiff.scenes import render

WHOLE_CODES = ("crops", "pictures")


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
    canvas_rgb: bytes of the colour behind the objects.
    whole_codes: "crops" paints whole pictures from the codes of their crops,
      which the encoder learns to find; "pictures" from codes of their own.

  Raises:
    ValueError: if `whole_codes` is neither.
  """

  object_weight: float = 8.0
  finish_object_weight: float = 2.0
  sample_entropy_coef: float = 0.02
  batch_entropy_coef: float = 0.1
  batch_entropy_steps: int = 1000
  commitment_coef: float = 0.05
  locality_coef: float = 0.2
  canvas_rgb: tuple[int, int, int] = render.CANVAS_RGB
  whole_codes: str = "crops"

  def __post_init__(self) -> None:
    if self.whole_codes not in WHOLE_CODES:
      raise ValueError(
        f"whole_codes must be one of {WHOLE_CODES}, got {self.whole_codes!r}"
      )


def cut(pictures: jax.Array, *, side: int) -> jax.Array:
  """Return the crops [B*h*w, side, side, 3] of [B, H, W, 3], raster order."""
  batch_size, height, width, _ = pictures.shape
  h, w = height // side, width // side
  crops = pictures.reshape(batch_size, h, side, w, side, 3)
  return crops.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side, side, 3)


def pixel_loss(
  decoded: jax.Array,
  pictures: jax.Array,
  *,
  object_weight: float,
  canvas_rgb: tuple[int, int, int] = render.CANVAS_RGB,
) -> jax.Array:
  """Return float32[]: mean of L1 and L2 errors, objects weighted up.

  The weighted mean is taken picture by picture, so that a picture with little
  on it counts as much as a full one: small pale objects are the hardest.
  """
  canvas = jnp.asarray(canvas_rgb, jnp.float32) / 127.5 - 1.0
  canvas = canvas.reshape(1, 1, 1, 3)
  is_object = jnp.any(jnp.abs(pictures - canvas) > 0.02, -1)
  weight = 1.0 + object_weight * is_object
  error = decoded - pictures
  error = jnp.mean(0.5 * jnp.abs(error) + 0.5 * jnp.square(error), axis=-1)
  total = jnp.sum(weight * error, axis=(1, 2))
  return jnp.mean(total / jnp.sum(weight, axis=(1, 2)))


def autoencoder_loss(
  tokenizer: image_tokenizer.ImageTokenizerConfig,
  loss: LossConfig,
  params: Any,
  pictures: jax.Array,
  batch_entropy_coef: jax.Array,
) -> tuple[jax.Array, step.Metrics, jax.Array]:
  """Encode, quantise and decode.

  Args:
    tokenizer: the sizes.
    loss: the coefficients.
    params: of the tokenizer.
    pictures: float32[B, H, W, 3].
    batch_entropy_coef: float32[], the one of this step.

  Returns:
    The loss, its parts by name, and the codes float32[B, h, w, code_bits] of
    -1 and 1, without a gradient.
  """
  output = image_tokenizer.reconstruct(tokenizer, params, pictures)
  pixels = pixel_loss(
    output.pictures,
    pictures,
    object_weight=loss.object_weight,
    canvas_rgb=loss.canvas_rgb,
  )
  sample, whole = magvit2.entropies(output.latents)
  codes = jax.lax.stop_gradient(output.quantised)
  commitment = jnp.mean(jnp.square(output.latents - codes))
  total = (
    pixels
    + loss.sample_entropy_coef * sample
    - batch_entropy_coef * whole
    + loss.commitment_coef * commitment
  )
  parts = {
    "pixels": pixels,
    "sample_entropy": sample,
    "batch_entropy": whole,
    "commitment": commitment,
  }
  return total, parts, codes


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
  total, parts, codes = autoencoder_loss(
    tokenizer, loss, params, crops, batch["batch_entropy_coef"]
  )
  parts = {f"train/{name}": value for name, value in parts.items()}
  parts["train/crop_pixels"] = parts.pop("train/pixels")
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
  pixels = pixel_loss(
    decoded,
    pictures,
    object_weight=loss.object_weight,
    canvas_rgb=loss.canvas_rgb,
  )
  locality = jnp.mean(jnp.square(latents - codes))
  agree = jnp.mean(jnp.all(latents * codes > 0, axis=-1))
  parts |= {
    "train/pixels": pixels,
    "train/locality": locality,
    "train/crop_code_rate": agree,
  }
  return total + pixels + loss.locality_coef * locality, parts


def picture_loss(
  tokenizer: image_tokenizer.ImageTokenizerConfig,
  loss: LossConfig,
  params: Any,
  batch: step.Batch,
  key: jax.Array,
) -> tuple[jax.Array, step.Metrics]:
  """Loss of the later steps where pictures have codes of their own."""
  del key
  pictures = image_tokenizer.to_float(tokenizer, batch["pictures"])
  total, parts, _ = autoencoder_loss(
    tokenizer, loss, params, pictures, batch["batch_entropy_coef"]
  )
  return total, {f"train/{name}": value for name, value in parts.items()}


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
    decoded,
    pictures,
    object_weight=loss.finish_object_weight,
    canvas_rgb=loss.canvas_rgb,
  )
  return pixels, {"train/finish_pixels": pixels}
