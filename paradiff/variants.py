"""Model variants as data: every variant shares every line of code.

MICRO and TINY see the same 64x64 pictures of the scenes world and speak the
same words; MICRO has one picture code a cell, TINY four.
"""

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any

import jax

from paradiff import layout as layout_lib
from paradiff import places
from paradiff import tasks as tasks_lib
from paradiff import vocab as vocab_lib
from paradiff.data import text
from paradiff.diffusion import model as model_lib
from paradiff.diffusion import settings
from paradiff.models import image_tokenizer as image_tokenizer_lib
from paradiff.models import transformer as transformer_lib
from paradiff.scenes import grammar


@dataclasses.dataclass(frozen=True)
class Variant:
  """One model: sizes, ids, layout and its default sampler settings.

  Attributes:
    name: what checkpoints and messages call it.
    transformer: the backbone.
    image_tokenizer: picture to codes and back; None for text alone.
    vocab: the ids.
    layout: where things stand in a sequence.
    sampler: default sampler settings.
    reference_sampler: those of the published program, if there is one.
    tasks: what it can be asked for; none for a model of one layout, which
      edits, and generates where there is no input picture.

  Raises:
    ValueError: if the parts contradict each other.
  """

  name: str
  transformer: transformer_lib.TransformerConfig
  image_tokenizer: image_tokenizer_lib.ImageTokenizerConfig | None
  vocab: vocab_lib.Vocab
  layout: layout_lib.Layout
  sampler: settings.SamplerConfig
  reference_sampler: settings.SamplerConfig | None = None
  tasks: tuple[tasks_lib.Task, ...] = ()

  def __post_init__(self) -> None:
    sizes = [
      (
        "transformer.vocab_size and vocab.size",
        self.transformer.vocab_size,
        self.vocab.size,
      )
    ]
    if self.image_tokenizer is not None:
      sizes += [
        (
          "image_tokenizer.codebook_size and vocab.codebook_size",
          self.image_tokenizer.codebook_size,
          self.vocab.codebook_size,
        ),
        (
          "image_tokenizer.num_tokens and layout.image_len",
          self.image_tokenizer.num_tokens,
          self.layout.image_len,
        ),
      ]
    for names, first, second in sizes:
      if first != second:
        raise ValueError(f"{names} must be equal, got {first} and {second}")

  @property
  def pictures(self) -> image_tokenizer_lib.ImageTokenizerConfig:
    """The image tokenizer's sizes.

    Raises:
      ValueError: if the model has none.
    """
    if self.image_tokenizer is None:
      raise ValueError(f"a model of pictures is needed, got {self.name}")
    return self.image_tokenizer

  def task(self, *names: str) -> tasks_lib.Task:
    """Return the first of the named tasks that the model can do.

    Raises:
      ValueError: if it can do none of them.
    """
    known = {task.name: task for task in self.tasks}
    for name in names:
      if name in known:
        return known[name]
    raise ValueError(
      f"{self.name} must be asked for one of {tuple(known)}, got "
      f"{' or '.join(names)}"
    )

  def task_for(
    self, task: str | tasks_lib.Task | None, *, has_picture: bool
  ) -> tasks_lib.Task:
    """Return the named task, or what the model does by default.

    Raises:
      ValueError: if the model cannot do it.
    """
    if isinstance(task, tasks_lib.Task):
      return task
    names = ("generate", "generate_picture", "answer")
    if has_picture:
      names = ("edit", "edit_picture", "describe")
    return self.task(*((task,) if task is not None else names))

  def first_task(self, *names: str) -> tasks_lib.Task | None:
    """Return the first of the named tasks; None for a model of one layout."""
    return self.task(*names) if self.tasks else None


@functools.cache
def model_of(
  variant: Variant, layout: layout_lib.Layout | None = None
) -> model_lib.Model:
  """Return the variant as the sampler and the losses see it.

  Cached, so that one variant in one layout (its own if None) is one static
  argument and compiles once.
  """
  config = variant.transformer
  return model_lib.Model(
    layout=layout or variant.layout,
    vocab=variant.vocab,
    denoiser=model_lib.Denoiser(
      trunk=lambda params, tokens, valid, places: transformer_lib.trunk(
        config, params, tokens, valid_mask=valid, places=places
      ),
      head=functools.partial(transformer_lib.head, config),
    ),
  )


def to_dict(variant: Variant) -> dict[str, Any]:
  """Return the variant as plain data for a json file."""
  return dataclasses.asdict(variant)


def _build(kind: Any, data: Any) -> Any:
  """Rebuild nested frozen dataclasses from plain data, by their types."""
  if dataclasses.is_dataclass(kind) and isinstance(data, Mapping):
    types = typing.get_type_hints(kind)
    fields = {
      name: _build(types.get(name), value) for name, value in data.items()
    }
    return kind(**fields)  # type: ignore[operator]
  parts = [part for part in typing.get_args(kind) if part is not type(None)]
  if isinstance(data, list | tuple):
    return tuple(_build(parts[0] if parts else None, item) for item in data)
  return _build(parts[0], data) if parts and data is not None else data


def from_dict(data: Mapping[str, Any]) -> Variant:
  """Rebuild a variant from `to_dict`'s data.

  Raises:
    ValueError: if a part or a field is missing or unknown, naming it.
  """
  try:
    variant: Variant = _build(Variant, data)
    return variant
  except (KeyError, TypeError) as error:
    raise ValueError(
      f"a variant must have the fields of {Variant.__name__}, got {error}"
    ) from error


# Special tokens of a text tokenizer by the field of `Vocab` that they fill.
MARKS = {
  "mask_id": "<|mdm_mask|>",
  "bos_id": "<|startoftext|>",
  "eos_id": "<|endoftext|>",
  "soi_id": "<|soi|>",
  "eoi_id": "<|eoi|>",
  "edit_id": "<|interleave|>",
  "generate_id": "<|t2it|>",
}


def _vocab_of(
  marks: Mapping[str, str],
  word_ids: Mapping[str, int],
  *,
  num_words: int,
  codebook_size: int,
) -> vocab_lib.Vocab:
  """Return the ids of words and, behind them, of picture codes."""
  missing = sorted(set(marks.values()) - set(word_ids))
  if missing:
    raise ValueError(
      f"a text tokenizer must have the special tokens {tuple(marks.values())}, "
      f"got none of {missing}"
    )
  return vocab_lib.Vocab(
    size=num_words + codebook_size,
    text_size=num_words,
    code_offset=num_words,
    codebook_size=codebook_size,
    **{field: word_ids[token] for field, token in marks.items()},
  )


def fit(
  variant: Variant,
  *,
  pictures: image_tokenizer_lib.ImageTokenizerConfig,
  word_ids: Mapping[str, int],
  num_words: int,
  marks: Mapping[str, str] = MARKS,
) -> Variant:
  """Return a variant for other tokenizers.

  Args:
    variant: one of `VARIANTS`, or of `published.VARIANTS`.
    pictures: the image tokenizer.
    word_ids: ids of the text tokenizer's special tokens.
    num_words: length of the text tokenizer, special tokens included.
    marks: the special tokens by field of the vocabulary.

  Raises:
    ValueError: if the text tokenizer lacks a special token.
  """
  vocab = _vocab_of(
    marks, word_ids, num_words=num_words, codebook_size=pictures.codebook_size
  )
  side = pictures.grid_size
  layout = dataclasses.replace(variant.layout, grid=(side, side))
  backbone = dataclasses.replace(variant.transformer, vocab_size=vocab.size)
  if backbone.place_grids:
    grids = places.grids(layout)
    backbone = dataclasses.replace(backbone, place_grids=grids)
  return dataclasses.replace(
    variant,
    transformer=backbone,
    image_tokenizer=pictures,
    vocab=vocab,
    layout=layout,
  )


def _scenes_variant(
  name: str,
  image_tokenizer: image_tokenizer_lib.ImageTokenizerConfig,
  sampler: settings.SamplerConfig,
) -> Variant:
  """Return a small variant over the scenes world."""
  vocab = _vocab_of(
    MARKS,
    {name: i for i, name in enumerate(text.SPECIAL_TOKENS)},
    num_words=len(text.SPECIAL_TOKENS) + len(grammar.WORDS),
    codebook_size=image_tokenizer.codebook_size,
  )
  side = image_tokenizer.grid_size
  layout = layout_lib.Layout(grid=(side, side), prompt_len=21, text_len=48)
  return Variant(
    name=name,
    transformer=transformer_lib.TransformerConfig(
      vocab_size=vocab.size,
      width=128,
      num_layers=4,
      num_heads=4,
      mlp_width=256,
      rope_theta=10_000.0,  # sequences of hundreds, not thousands
      place_grids=places.grids(layout),
      scan_unroll=4,  # a fifth faster on a CPU, and four layers compile fast
    ),
    image_tokenizer=image_tokenizer,
    vocab=vocab,
    layout=layout,
    sampler=sampler,
  )


def init(variant: Variant, key: jax.Array) -> dict[str, Any]:
  """Draw untrained parameters of the transformer and the image tokenizer."""
  key_transformer, key_image = jax.random.split(key)
  params = {
    "transformer": transformer_lib.init(variant.transformer, key_transformer)
  }
  if variant.image_tokenizer is not None:
    params["image_tokenizer"] = image_tokenizer_lib.init(
      variant.image_tokenizer, key_image
    )
  return params


def _small_tokenizer(
  code_bits: int, multipliers: tuple[int, ...]
) -> image_tokenizer_lib.ImageTokenizerConfig:
  """Return a MAGVITv2 of few channels for 64x64 pictures."""
  blocks = (1,) * len(multipliers)
  return image_tokenizer_lib.ImageTokenizerConfig(
    picture_size=64,
    code_bits=code_bits,
    base_channels=8,
    encoder_multipliers=multipliers,
    encoder_blocks=blocks,
    decoder_multipliers=multipliers,
    decoder_blocks=blocks,
    norm_groups=4,
    mid_attention=False,
  )


# Chosen on tasks apart from the benchmark's: one word a step, and the text
# leads. Words that are free together and committed together disagree.
_SCENES_SAMPLER = settings.SamplerConfig(
  num_steps=64, text_end_rate=0.75, end_penalty=3.0
)
MICRO = _scenes_variant(
  "micro",
  # A cell has 49 looks, 5.6 bits; spare codes ease the search for them.
  _small_tokenizer(8, (1, 2, 3, 4, 6)),
  dataclasses.replace(_SCENES_SAMPLER, num_image_steps=16),
)
TINY = _scenes_variant(
  "tiny",
  # The quarters of a cell have 193 looks, 7.6 bits.
  _small_tokenizer(10, (1, 2, 4, 6)),
  dataclasses.replace(_SCENES_SAMPLER, num_image_steps=32),
)
VARIANTS = {variant.name: variant for variant in (MICRO, TINY)}
