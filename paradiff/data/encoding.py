"""Pictures of several sizes to codes, in batches of one shape a size."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from etils import epath

from paradiff import checkpoints
from paradiff import pretrained
from paradiff import shipped
from paradiff.models import image_tokenizer as image_tokenizer_lib

Encode = Callable[[np.ndarray], np.ndarray]


def load_tokenizer(
  name_or_folder: epath.PathLike,
) -> tuple[image_tokenizer_lib.ImageTokenizerConfig, dict[str, Any]]:
  """Load the image tokenizer of a model, or one that was trained alone.

  Args:
    name_or_folder: a shipped model or a folder with `image_tokenizer.json` and
      `.safetensors`, converted or trained.

  Returns:
    The sizes and the parameters, on the host.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if it is damaged, naming the file.
  """
  folder = epath.Path(name_or_folder)
  if name_or_folder in shipped.SHIPPED:
    folder = shipped.find(str(name_or_folder))
  params, data = pretrained.load(folder, "image_tokenizer")
  try:
    fields: dict[str, Any] = {
      k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
    }
    config = image_tokenizer_lib.ImageTokenizerConfig(**fields)
  except (TypeError, ValueError) as error:
    raise ValueError(f"{folder}/image_tokenizer.json: {error}") from error
  checkpoints.check_shapes(
    params,
    jax.eval_shape(lambda: image_tokenizer_lib.init(config, jax.random.key(0))),
    source=str(folder / "image_tokenizer.safetensors"),
  )
  return config, params


def make_encode(
  config: image_tokenizer_lib.ImageTokenizerConfig,
  params: image_tokenizer_lib.Params,
  *,
  mesh: jax.sharding.Mesh,
) -> Encode:
  """Return uint8[B, H, W, 3] to codes int32[B, h, w], rows split over a mesh.

  B is to be a multiple of the mesh's devices. Each size of pictures compiles
  once.
  """
  rows = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(mesh.axis_names)
  )
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  params = jax.device_put(params, whole)

  @functools.partial(jax.jit, in_shardings=(whole, rows), out_shardings=rows)
  def encode(
    params: image_tokenizer_lib.Params, pictures: jax.Array
  ) -> jax.Array:
    floats = image_tokenizer_lib.to_float(config, pictures)
    return image_tokenizer_lib.encode(config, params, floats)

  def run(pictures: np.ndarray) -> np.ndarray:
    grid = (
      pictures.shape[1] // config.factor,
      pictures.shape[2] // config.factor,
    )
    codes = encode(params, jax.device_put(pictures, rows))
    return np.asarray(codes).reshape(len(pictures), *grid)

  return run


class Batcher:
  """Gathers pictures until a batch of one size is full, then encodes it."""

  def __init__(self, encode: Encode, *, batch_size: int) -> None:
    """Take what encodes; it is always called with `batch_size` pictures."""
    self._encode, self._batch_size = encode, batch_size
    self._waiting: dict[tuple[int, ...], list[tuple[Hashable, np.ndarray]]] = {}
    self._codes: dict[Hashable, np.ndarray] = {}

  def add(self, key: Hashable, picture: np.ndarray) -> None:
    """Take in a picture uint8[H, W, 3] under a key of its own."""
    waiting = self._waiting.setdefault(picture.shape, [])
    waiting.append((key, picture))
    if len(waiting) == self._batch_size:
      self._flush(picture.shape)

  def take(self) -> dict[Hashable, np.ndarray]:
    """Encode what waits; return the codes int32[h, w] of all keys."""
    for shape in list(self._waiting):
      self._flush(shape)
    codes, self._codes = self._codes, {}
    return codes

  def _flush(self, shape: tuple[int, ...]) -> None:
    waiting = self._waiting.pop(shape)
    pictures = [picture for _, picture in waiting]
    filler = [pictures[0]] * (self._batch_size - len(pictures))
    codes = self._encode(np.stack([*pictures, *filler]))
    for (key, _), grid in zip(waiting, codes[: len(waiting)], strict=True):
      self._codes[key] = np.asarray(grid, np.int32)
