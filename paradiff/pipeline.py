"""From words and pictures to words and pictures: load a model and use it.

`ParallelPipeline.from_pretrained("micro")` loads a model that ships with the
package, or any folder that `save` wrote. `edit` and `generate` return text
and picture; `stream` yields every canvas on the way from the same compiled
step.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from paradiff import checkpoints
from paradiff import sequence as sequence_lib
from paradiff import shipped
from paradiff import variants
from paradiff.data import images
from paradiff.data import text as text_lib
from paradiff.diffusion import sampler as sampler_lib
from paradiff.diffusion import settings
from paradiff.diffusion import trajectory as trajectory_lib
from paradiff.models import image_tokenizer

_BLANK_GREY = 251  # where nothing is proposed yet

_sample = jax.jit(sampler_lib.sample, static_argnums=(0, 1))
_advance = jax.jit(sampler_lib.advance, static_argnums=(0, 1))
_start = jax.jit(sampler_lib.start, static_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=0)
def _encode(
  config: image_tokenizer.ImageTokenizerConfig, params: Any, pictures: Any
) -> jax.Array:
  floats = image_tokenizer.to_float(config, pictures)
  return image_tokenizer.encode(config, params, floats)


@functools.partial(jax.jit, static_argnums=0)
def _decode(
  config: image_tokenizer.ImageTokenizerConfig, params: Any, codes: Any
) -> jax.Array:
  floats = image_tokenizer.decode(config, params, codes)
  return image_tokenizer.to_uint8(config, floats)


@dataclasses.dataclass(frozen=True)
class Output:
  """What the model made of one request.

  Attributes:
    text: the reasoning, up to the end of text.
    picture: uint8[H, W, 3].
  """

  text: str
  picture: np.ndarray


@dataclasses.dataclass(frozen=True)
class Canvas:
  """One request while it is denoised.

  Attributes:
    step: steps done, in [0, num_steps].
    num_steps: S.
    words: the text position by position up to the first committed end of
      text; None where masked.
    picture: uint8[H, W, 3], with the current proposal where masked.
    masked: bool[h, w], which picture tokens are not yet committed.
  """

  step: int
  num_steps: int
  words: tuple[str | None, ...]
  picture: np.ndarray
  masked: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class ParallelPipeline:
  """A model with its tokenizers.

  Attributes:
    variant: the model as data.
    params: the transformer's parameters.
    image_params: the image tokenizer's parameters.
    text_tokenizer: words to ids.
  """

  variant: variants.Variant
  params: Any
  image_params: Any
  text_tokenizer: text_lib.TextTokenizer

  @classmethod
  def from_pretrained(cls, name_or_folder: str) -> "ParallelPipeline":
    """Load a shipped model by name, or a folder.

    Raises:
      FileNotFoundError: if there is no such model.
      ValueError: if a file is damaged or of another model, naming it.
    """
    folder = shipped.find(name_or_folder)
    params, config = checkpoints.load_pretrained(folder, "transformer")
    try:
      variant = variants.from_dict(config)
    except ValueError as error:
      raise ValueError(f"{folder / 'transformer.json'}: {error}") from error
    image_params, _ = checkpoints.load_pretrained(folder, "image_tokenizer")
    pipeline = cls(
      variant=variant,
      params=jax.tree.map(jnp.asarray, params),
      image_params=jax.tree.map(jnp.asarray, image_params),
      text_tokenizer=text_lib.TextTokenizer.load(folder),
    )
    pipeline._check(folder)
    return pipeline

  def _check(self, folder: epath.Path) -> None:
    """Refuse parameters or words of another model, naming the file."""
    wanted = jax.eval_shape(
      lambda: variants.init(self.variant, jax.random.key(0))
    )
    for name, found, expected in (
      ("transformer", self.params, wanted["transformer"]),
      ("image_tokenizer", self.image_params, wanted["image_tokenizer"]),
    ):
      checkpoints.check_shapes(
        found, expected, source=str(folder / f"{name}.safetensors")
      )
    found_size = len(self.text_tokenizer)
    if found_size != self.variant.vocab.text_size:
      raise ValueError(
        f"{folder / 'tokenizer.json'} must have "
        f"{self.variant.vocab.text_size} tokens for {self.variant.name}, got "
        f"{found_size}"
      )

  def save(self, folder: str) -> None:
    """Write the model as safetensors and json, as `from_pretrained` reads."""
    path = epath.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    checkpoints.save_pretrained(
      path, "transformer", self.params, variants.to_dict(self.variant)
    )
    checkpoints.save_pretrained(
      path,
      "image_tokenizer",
      self.image_params,
      dataclasses.asdict(self.variant.image_tokenizer),
    )
    self.text_tokenizer.save(path)

  def encode_pictures(self, pictures: np.ndarray) -> np.ndarray:
    """Return codes int32[B, N] of pictures uint8[B, H, W, 3]."""
    config = self.variant.image_tokenizer
    return np.asarray(_encode(config, self.image_params, pictures))

  def decode_codes(self, codes: np.ndarray) -> np.ndarray:
    """Return pictures uint8[B, H, W, 3] of codes int32[B, N]."""
    config = self.variant.image_tokenizer
    return np.asarray(_decode(config, self.image_params, codes))

  def condition(
    self, prompts: Sequence[str], pictures: Sequence[Any | None]
  ) -> sequence_lib.Condition:
    """Build the prefixes of a batch.

    Args:
      prompts: B instructions.
      pictures: B pictures as `data.images.load_picture` takes them; None
        where the picture is to be made from words alone.

    Raises:
      ValueError: if a prompt is empty, too long or has unknown words, or a
        picture cannot be used.
      FileNotFoundError: if a picture does not exist.
    """
    if len(prompts) != len(pictures) or not prompts:
      raise ValueError(
        "there must be as many pictures as prompts and at least one, got "
        f"{len(pictures)} and {len(prompts)}"
      )
    layout, vocab = self.variant.layout, self.variant.vocab
    ids = [
      self.text_tokenizer.encode(prompt, max_len=layout.prompt_len - 1)
      for prompt in prompts
    ]
    size = self.variant.image_tokenizer.picture_size
    loaded = [
      None if p is None else images.load_picture(p, size=size) for p in pictures
    ]
    blank = np.zeros((size, size, 3), np.uint8)
    filled = np.stack([blank if p is None else p for p in loaded])
    codes = self.encode_pictures(filled)
    rows = [
      sequence_lib.encode_prefix(
        layout,
        vocab,
        prompt_ids=prompt_ids,
        source_codes=None if picture is None else row,
      )
      for prompt_ids, picture, row in zip(ids, loaded, codes, strict=True)
    ]
    prefix, valid = zip(*rows, strict=True)
    return sequence_lib.Condition(
      prefix=jnp.asarray(np.stack(prefix)), valid=jnp.asarray(np.stack(valid))
    )

  def _blank(self, batch_size: int) -> jax.Array:
    answer = sequence_lib.encode_answer(self.variant.layout, self.variant.vocab)
    return jnp.asarray(np.tile(answer, (batch_size, 1)))

  def sample(
    self,
    condition: sequence_lib.Condition,
    *,
    seed: int = 0,
    config: settings.SamplerConfig | None = None,
  ) -> trajectory_lib.Trajectory:
    """Denoise one answer a row of `condition`."""
    return _sample(
      config or self.variant.sampler,
      variants.model_of(self.variant),
      self.params,
      condition,
      self._blank(condition.prefix.shape[0]),
      key=jax.random.key(seed),
    )

  def decode(self, tokens: np.ndarray) -> list[Output]:
    """Turn answers int32[B, A] without masks into texts and pictures."""
    layout, vocab = self.variant.layout, self.variant.vocab
    tokens = np.asarray(tokens)
    pictures = self.decode_codes(self._codes(tokens))
    return [
      Output(
        text=self.text_tokenizer.decode(
          sequence_lib.text_of(layout, vocab, answer)
        ),
        picture=picture,
      )
      for answer, picture in zip(tokens, pictures, strict=True)
    ]

  def _codes(self, tokens: np.ndarray) -> np.ndarray:
    """Return codes of answers int32[B, A]; code 0 where still masked."""
    codes = tokens[:, self.variant.layout.image_index]
    codes = self.variant.vocab.token_to_code(codes)
    return np.clip(codes, 0, self.variant.vocab.codebook_size - 1)

  def __call__(
    self,
    prompts: Sequence[str],
    pictures: Sequence[Any | None],
    *,
    seed: int = 0,
    config: settings.SamplerConfig | None = None,
  ) -> list[Output]:
    """Answer a batch; see `condition` for the arguments and errors."""
    condition = self.condition(prompts, pictures)
    run = self.sample(condition, seed=seed, config=config)
    return self.decode(np.asarray(run.tokens))

  def edit(
    self,
    prompt: str,
    picture: Any,
    *,
    seed: int = 0,
    config: settings.SamplerConfig | None = None,
  ) -> Output:
    """Edit one picture by an instruction."""
    return self([prompt], [picture], seed=seed, config=config)[0]

  def generate(
    self,
    prompt: str,
    *,
    seed: int = 0,
    config: settings.SamplerConfig | None = None,
  ) -> Output:
    """Make one picture from words."""
    return self([prompt], [None], seed=seed, config=config)[0]

  def stream(
    self,
    prompt: str,
    picture: Any | None,
    *,
    seed: int = 0,
    config: settings.SamplerConfig | None = None,
    stride: int = 1,
  ) -> Iterator[Canvas]:
    """Yield the canvas every `stride` active steps, up to `edit`'s answer."""
    config = config or self.variant.sampler
    model = variants.model_of(self.variant)
    condition = self.condition([prompt], [picture])
    state = _start(config, model, self._blank(1))
    for steps in sampler_lib.slices(config, model.layout, stride=stride):
      state = _advance(
        config,
        model,
        self.params,
        condition,
        state,
        steps,
        key=jax.random.key(seed),
      )
      yield self._canvas(state, int(steps.clock[-1]) + 1, config.num_steps)

  def _canvas(
    self, state: trajectory_lib.State, step: int, num_steps: int
  ) -> Canvas:
    """Read one canvas back to the host."""
    layout, vocab = self.variant.layout, self.variant.vocab
    tokens, predicted = np.asarray(state.tokens), np.asarray(state.predicted)
    words = tuple(
      None if i == vocab.mask_id else self.text_tokenizer.decode([i])
      for i in sequence_lib.text_of(layout, vocab, tokens[0])
    )
    masked = tokens[0, layout.image_index] == vocab.mask_id
    picture = self.decode_codes(self._codes(predicted))[0]
    # Before the first proposal there is nothing to show.
    is_blank = predicted[0, layout.image_index] == vocab.mask_id
    cell = np.ones(
      [s // g for s, g in zip(picture.shape, layout.grid, strict=False)], bool
    )
    blank = np.kron(is_blank.reshape(layout.grid), cell)
    return Canvas(
      step=step,
      num_steps=num_steps,
      words=words,
      picture=np.where(blank[..., None], np.uint8(_BLANK_GREY), picture),
      masked=masked.reshape(layout.grid),
    )
