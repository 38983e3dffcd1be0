"""How well held-out pictures come back after encoding and decoding."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from PIL import Image

from experiments import tokenizer_data
from paradiff.models import image_tokenizer
from paradiff.scenes import parse_picture
from paradiff.scenes import render
from paradiff.scenes import world

_HELD_OUT = 1  # second word of the seed of scenes never trained on


# Parameters and uint8[N, H, W, 3] to codes int32[N, L] and pictures.
_Autoencode = Callable[[Any, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _make_autoencode(
  tokenizer: image_tokenizer.ImageTokenizerConfig, *, batch_size: int
) -> _Autoencode:
  """Return what encodes and decodes any number of pictures in batches."""

  @jax.jit
  def autoencode(params: Any, pictures: jax.Array) -> Any:
    floats = image_tokenizer.to_float(tokenizer, pictures)
    codes = image_tokenizer.encode(tokenizer, params, floats)
    decoded = image_tokenizer.decode(tokenizer, params, codes)
    return codes, image_tokenizer.to_uint8(tokenizer, decoded)

  def run(params: Any, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    codes, decoded = [], []
    for start in range(0, len(pictures), batch_size):
      chunk = pictures[start : start + batch_size]
      short = batch_size - len(chunk)
      padded = np.pad(chunk, ((0, short), (0, 0), (0, 0), (0, 0)))
      outputs = jax.device_get(autoencode(params, jax.device_put(padded)))
      codes.append(outputs[0][: len(chunk)])
      decoded.append(outputs[1][: len(chunk)])
    return np.concatenate(codes), np.concatenate(decoded)

  return run


def _psnr(difference: np.ndarray) -> float:
  """Return the peak signal-to-noise ratio in dB of differences in bytes."""
  mean_square = np.square(difference).mean()
  return float(10 * np.log10(255**2 / max(mean_square, 1e-9)))


class PictureEvaluation:
  """Held-out pictures of any kind, and how far off they come back."""

  def __init__(
    self,
    tokenizer: image_tokenizer.ImageTokenizerConfig,
    pictures: np.ndarray,
    *,
    batch_size: int,
  ) -> None:
    """Keep what is held out.

    Args:
      tokenizer: the sizes.
      pictures: uint8[N, H, W, 3], at least one.
      batch_size: pictures encoded at a time.
    """
    self._pictures = pictures
    self._codebook_size = tokenizer.codebook_size
    self._autoencode = _make_autoencode(tokenizer, batch_size=batch_size)

  def run(self, params: Any) -> tuple[dict[str, float], np.ndarray]:
    """Encode and decode every held-out picture.

    Returns:
      Scores, and a picture uint8[H, W, 3] of originals above what came back.
      The error is in levels of 255; the perplexity is how many codes, used
      evenly, would be as diverse.
    """
    codes, decoded = self._autoencode(params, self._pictures)
    difference = decoded.astype(np.float64) - self._pictures
    counts = np.bincount(codes.ravel(), minlength=self._codebook_size)
    rate = counts[counts > 0] / counts.sum()
    scores = {
      "eval/psnr": _psnr(difference),
      "eval/mean_absolute_error": float(np.abs(difference).mean()),
      "eval/codes_used": float((counts > 0).sum()),
      "eval/code_perplexity": float(np.exp(-(rate * np.log(rate)).sum())),
    }
    return scores, _grid(self._pictures, decoded)


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
    self._scenes = [tokenizer_data.random_scene(rng) for _ in range(num_scenes)]
    self._pictures = np.stack([render.render(s) for s in self._scenes])
    self._side = tokenizer.grid_size
    self._autoencode = _make_autoencode(tokenizer, batch_size=batch_size)

  def run(self, params: Any) -> tuple[dict[str, float], np.ndarray]:
    """Encode, decode and parse every held-out scene.

    Returns:
      Scores, and a picture uint8[H, W, 3] of originals above what came back.
    """
    codes, pictures = self._autoencode(params, self._pictures)
    scores = self._read(pictures) | self._count(codes)
    scores["eval/psnr"] = _psnr(pictures.astype(np.float64) - self._pictures)
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
  columns = min(columns, len(originals))
  for start in range(0, len(originals) - columns + 1, columns)[:2]:
    for pictures in (originals, decoded):
      rows.append(np.concatenate(pictures[start : start + columns], axis=1))
  grid = np.concatenate(rows)
  return grid.repeat(scale, axis=0).repeat(scale, axis=1)


def write_png(path: epath.Path, picture: np.ndarray) -> None:
  """Write uint8[H, W, 3], making the folder if need be."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("wb") as file:
    Image.fromarray(picture).save(file, format="PNG")
