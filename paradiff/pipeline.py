"""From words and pictures to words and pictures: load a model and use it.

`ParallelPipeline.from_pretrained("micro")` loads a model that ships with the
package, any folder that `save` or `paradiff.convert` wrote, or the folder of a
published checkpoint. `edit`, `generate` and `answer` return text and picture;
`stream` yields every canvas on the way from the same compiled step.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from paradiff import layout as layout_lib
from paradiff import loading
from paradiff import outputs
from paradiff import pretrained
from paradiff import requests
from paradiff import tasks
from paradiff import variants
from paradiff.data import text as text_lib
from paradiff.diffusion import sampler as sampler_lib
from paradiff.diffusion import settings
from paradiff.diffusion import trajectory as trajectory_lib
from paradiff.models import image_tokenizer

_sample = jax.jit(sampler_lib.sample, static_argnums=(0, 1))
_answer = jax.jit(sampler_lib.canvas, static_argnums=(0, 1))
_advance = jax.jit(sampler_lib.advance, static_argnums=(0, 1))
_start = jax.jit(sampler_lib.start, static_argnums=(0, 1))
_finish = jax.jit(sampler_lib.finish, static_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=0)
def _encode(
  config: image_tokenizer.ImageTokenizerConfig, params: Any, pictures: Any
) -> jax.Array:
  floats = image_tokenizer.to_float(config, pictures)
  return image_tokenizer.encode(config, params, floats)


@dataclasses.dataclass(frozen=True, eq=False)
class ParallelPipeline:
  """A model with its tokenizers.

  Attributes:
    variant: the model as data.
    params: the transformer's parameters.
    image_params: the image tokenizer's parameters; None for text alone.
    text_tokenizer: words to ids.
    mesh: where the parameters lie; None is the first device.
  """

  variant: variants.Variant
  params: Any
  image_params: Any
  text_tokenizer: text_lib.TextTokenizer
  mesh: jax.sharding.Mesh | None = None

  @classmethod
  def from_pretrained(
    cls,
    name_or_folder: str,
    *,
    variant: str | None = None,
    image_tokenizer: str | None = None,
    tokenizer: str | None = None,
    picture_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
  ) -> "ParallelPipeline":
    """Load a shipped, converted or published model; see `loading.load`."""
    loaded = loading.load(
      name_or_folder,
      variant=variant,
      image_tokenizer=image_tokenizer,
      tokenizer=tokenizer,
      picture_size=picture_size,
      mesh=mesh,
    )
    return cls(
      variant=loaded.variant,
      params=loaded.params,
      image_params=loaded.image_params,
      text_tokenizer=loaded.text_tokenizer,
      mesh=mesh,
    )

  def save(self, folder: str) -> None:
    """Write a model with pictures as safetensors and json."""
    pictures = dataclasses.asdict(self.variant.pictures)
    path = epath.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    pretrained.save(
      path, "transformer", self.params, variants.to_dict(self.variant)
    )
    pretrained.save(
      path,
      "image_tokenizer",
      self.image_params,
      pictures,
    )
    self.text_tokenizer.save(path)

  def encode_pictures(self, pictures: np.ndarray) -> np.ndarray:
    """Return codes int32[B, codes] of pictures uint8[B, H, W, 3]."""
    with self._on_mesh():
      codes = _encode(self.variant.pictures, self.image_params, pictures)
    return np.asarray(codes)

  def decode_codes(
    self, codes: np.ndarray, *, grid: layout_lib.Grid | None = None
  ) -> np.ndarray:
    """Return pictures uint8[B, H, W, 3] of codes int32[B, N].

    Args:
      codes: in [0, codebook_size), raster order.
      grid: rows and columns; the model's own if None.
    """
    config = self.variant.pictures
    grid = grid or (config.grid_size, config.grid_size)
    with self._on_mesh():
      pictures = outputs.to_pictures(config, self.image_params, codes, grid)
    return np.asarray(pictures)

  def _on_mesh(self) -> contextlib.AbstractContextManager[Any]:
    if self.mesh is None:
      return contextlib.nullcontext()
    return jax.set_mesh(self.mesh)

  def request(
    self,
    prompts: Sequence[str],
    pictures: Sequence[Any | None],
    *,
    task: str | tasks.Task | None = None,
    size: tuple[int, int] | None = None,
    text_len: int | None = None,
    mask: Any | None = None,
    config: settings.SamplerConfig | None = None,
  ) -> requests.Request:
    """Turn a batch into arrays.

    Args:
      prompts: B instructions.
      pictures: B pictures as `data.images.open_picture` takes them; None
        where a picture is to be made from words alone.
      task: a name of one of the model's, or one like
        `tasks.image_to_image("depth_control")`; None is editing where there
        is a picture and generating where there is none.
      size: height and width of the output; default: the input's.
      text_len: tokens of the answer's text; default: the model's.
      mask: what to paint; see `requests.Maker.shaped`.
      config: sampler settings; default: the task's or the model's.

    Raises:
      ValueError: if a prompt is empty, too long or has unknown words, a
        picture cannot be used, or the model cannot do what is asked.
      FileNotFoundError: if a picture does not exist.
    """
    maker = requests.Maker(
      self.variant, self.text_tokenizer, self.encode_pictures
    )
    return maker.make(
      prompts,
      pictures,
      task=task,
      size=size,
      text_len=text_len,
      mask=mask,
      config=config,
    )

  def sample(
    self, request: requests.Request, *, seed: int = 0
  ) -> trajectory_lib.Trajectory:
    """Denoise one answer a row of the request.

    Raises:
      ValueError: if the settings' commits are not final.
    """
    with self._on_mesh():
      return _sample(*self._arguments(request), key=jax.random.key(seed))

  def _arguments(self, request: requests.Request) -> tuple[Any, ...]:
    return (
      request.config,
      variants.model_of(self.variant, request.layout),
      self.params,
      request.condition,
      request.answer,
    )

  def decode(
    self, tokens: np.ndarray, *, layout: layout_lib.Layout | None = None
  ) -> list[outputs.Output]:
    """Turn answers int32[B, A] into texts and pictures."""
    layout = layout or self.variant.layout
    return self.reader.outputs(np.asarray(tokens), layout)

  @property
  def reader(self) -> outputs.Reader:
    """What answers are read with."""
    return outputs.Reader(
      self.variant,
      self.text_tokenizer,
      lambda codes, grid: self.decode_codes(codes, grid=grid),
    )

  def __call__(
    self,
    prompts: Sequence[str],
    pictures: Sequence[Any | None],
    *,
    seed: int = 0,
    task: str | tasks.Task | None = None,
    size: tuple[int, int] | None = None,
    text_len: int | None = None,
    mask: Any | None = None,
    config: settings.SamplerConfig | None = None,
  ) -> list[outputs.Output]:
    """Answer a batch; see `request` for the arguments and errors."""
    request = self.request(
      prompts,
      pictures,
      task=task,
      size=size,
      text_len=text_len,
      mask=mask,
      config=config,
    )
    with self._on_mesh():
      tokens = _answer(*self._arguments(request), key=jax.random.key(seed))
    return self.decode(np.asarray(tokens), layout=request.layout)

  def edit(
    self,
    prompt: str,
    picture: Any,
    *,
    seed: int = 0,
    task: str | tasks.Task | None = None,
    size: tuple[int, int] | None = None,
    text_len: int | None = None,
    mask: Any | None = None,
    config: settings.SamplerConfig | None = None,
  ) -> outputs.Output:
    """Edit one picture by an instruction; see `request`."""
    return self(
      [prompt],
      [picture],
      seed=seed,
      task=task or self.variant.first_task("edit", "edit_picture"),
      size=size,
      text_len=text_len,
      mask=mask,
      config=config,
    )[0]

  def generate(
    self,
    prompt: str,
    *,
    seed: int = 0,
    task: str | tasks.Task | None = None,
    size: tuple[int, int] | None = None,
    text_len: int | None = None,
    config: settings.SamplerConfig | None = None,
  ) -> outputs.Output:
    """Make one picture from words; see `request`."""
    return self(
      [prompt],
      [None],
      seed=seed,
      task=task or self.variant.first_task("generate", "generate_picture"),
      size=size,
      text_len=text_len,
      config=config,
    )[0]

  def answer(
    self,
    prompt: str,
    picture: Any | None = None,
    *,
    seed: int = 0,
    text_len: int | None = None,
    config: settings.SamplerConfig | None = None,
  ) -> str:
    """Answer a question in words, about a picture if there is one."""
    return self(
      [prompt],
      [picture],
      seed=seed,
      task="answer" if picture is None else "describe",
      text_len=text_len,
      config=config,
    )[0].text

  def stream(
    self,
    prompt: str,
    picture: Any | None,
    *,
    seed: int = 0,
    stride: int = 1,
    task: str | tasks.Task | None = None,
    size: tuple[int, int] | None = None,
    text_len: int | None = None,
    config: settings.SamplerConfig | None = None,
  ) -> Iterator[outputs.Canvas]:
    """Yield the canvases of one request; see `request` and `canvases`."""
    request = self.request(
      [prompt],
      [picture],
      task=task,
      size=size,
      text_len=text_len,
      config=config,
    )
    return self.canvases(request, seed=seed, stride=stride)

  def canvases(
    self, request: requests.Request, *, seed: int = 0, stride: int = 1
  ) -> Iterator[outputs.Canvas]:
    """Yield the first row every `stride` active steps, up to its answer."""
    if stride < 1:
      raise ValueError(f"stride must be positive, got {stride=}")
    config, model, *inputs, answer = self._arguments(request)
    key = jax.random.key(seed)
    # One step at a time whatever the stride, so that one program does.
    slices = list(sampler_lib.slices(config, model.layout, stride=1))
    with self._on_mesh():
      state = _start(config, model, answer)
    for done, steps in enumerate(slices, start=1):
      with self._on_mesh():
        state = _advance(config, model, *inputs, state, steps, key=key)
        if done == len(slices):
          state = _finish(config, model, state, key=key)
      if done % stride == 0 or done == len(slices):
        yield self.reader.canvas(
          state,
          request.layout,
          step=int(steps.clock[-1]) + 1,
          num_steps=config.num_steps,
        )
