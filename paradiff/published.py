"""The published models as data: sizes, ids, order of a sequence, samplers.

PARALLEL_A is tyfeld/MMaDA-Parallel-A (from Alpha-VLLM/Lumina-DiMOO),
PARALLEL_M is tyfeld/MMaDA-Parallel-M (from Gen-Verse/MMaDA). Sizes and ids are
those of the released configs; a checkpoint's own files decide when it is
loaded. `sampler` is right by default; `reference_sampler` is what the
published programs do, defects included.
"""

import dataclasses

from paradiff import layout as layout_lib
from paradiff import tasks
from paradiff import variants
from paradiff import vocab as vocab_lib
from paradiff.convert import facts as facts_lib
from paradiff.diffusion import guidance
from paradiff.diffusion import settings
from paradiff.models import image_tokenizer
from paradiff.models import transformer

_CODES = 8192  # of both image tokenizers
_BACKBONE = transformer.TransformerConfig(
  vocab_size=126_464,
  width=4096,
  num_layers=32,
  num_heads=32,
  mlp_width=12_288,
  compute_dtype="bfloat16",
)

# `generate_ti2ti` of MMaDA-Parallel-A, by its defects.
QUIRKS_A = settings.Quirks(
  overwrite_prefix=True,
  late_unconditional=True,
  idle_image_branches=("text", "image"),
  idle_steps=True,
  image_counts="all",
  text_counts="float",
  open_end=True,
  leftover="random",
  remask_known=True,
  any_text_id=True,
  text_behind_end=True,
  unscaled_image_temperature=True,
  normal_image_noise=True,
  confidence_floor=1e-10,
  gumbel_draws=True,
  bfloat16_noise=True,
)
# `interleave_generate` of MMaDA-Parallel-M.
QUIRKS_M = settings.Quirks(
  idle_text_branches=("both",),
  idle_steps=True,
  image_counts="all",
  text_counts="first",
  open_end=True,
  leftover="proposed",
  remask_known=True,
  any_text_id=True,
  text_behind_end=True,
  gumbel_draws=True,
  attended_padding=True,
)
# The strengths of `inference.py`, at the 128 steps of the README's command.
_SAMPLER_A = settings.SamplerConfig(
  num_steps=128,
  num_image_steps=64,
  image_temperature=1.0,
  image_noise=1.0,
  image_guidance=guidance.Guidance(text=2.5, image=4.0),
)
_SAMPLER_M = settings.SamplerConfig(
  num_steps=128,
  num_image_steps=30,
  image_temperature=1.0,
  image_noise=1.0,
  text_guidance=guidance.Guidance(both=2.5),
  image_guidance=guidance.Guidance(both=4.0),
)

PARALLEL_A = variants.Variant(
  name="parallel_a",
  transformer=dataclasses.replace(_BACKBONE, vocab_size=134_548),
  image_tokenizer=image_tokenizer.AMUSED,
  vocab=vocab_lib.Vocab(
    size=134_548,
    text_size=126_356,
    code_offset=126_356,
    codebook_size=_CODES,
    mask_id=126_336,
    bos_id=126_080,
    eos_id=126_081,
    soi_id=126_349,
    eoi_id=126_350,
    newline_id=126_084,
    null_id=126_351,
    answer_start_id=126_354,
    answer_end_id=126_355,
  ),
  layout=layout_lib.Layout(
    grid=(32, 32),
    prompt_len=64,
    text_len=256,
    prefix=("prompt", "source", "prompt_end"),
    answer=("answer_start", "image", "text", "answer_end"),
    row_ends=True,
    prompt_ends=False,
    padding="left_out",
  ),
  sampler=_SAMPLER_A,
  reference_sampler=dataclasses.replace(
    _SAMPLER_A, num_steps=256, text_temperature=0.7, quirks=QUIRKS_A
  ),
  tasks=tasks.PARALLEL_A,
)
PARALLEL_M = variants.Variant(
  name="parallel_m",
  transformer=dataclasses.replace(_BACKBONE, vocab_size=134_656),
  image_tokenizer=dataclasses.replace(
    image_tokenizer.MAGVITV2, picture_size=512
  ),
  vocab=vocab_lib.Vocab(
    size=134_656,
    text_size=126_349,
    code_offset=126_349,
    codebook_size=_CODES,
    mask_id=126_336,
    bos_id=126_080,
    eos_id=126_081,
    soi_id=126_084,
    eoi_id=126_085,
    edit_id=126_095,
    generate_id=126_088,
    describe_id=126_089,
    reason_id=126_094,
    turn_end_id=126_348,
  ),
  layout=layout_lib.Layout(
    grid=(32, 32),
    prompt_len=64,
    text_len=255,
    prefix=("edit", "source", "bos", "prompt"),
    padding="left_out",
    null_source="zeros",
  ),
  sampler=_SAMPLER_M,
  reference_sampler=dataclasses.replace(
    _SAMPLER_M,
    # As published: away from the condition.
    text_guidance=guidance.Guidance(both=-2.5),
    quirks=QUIRKS_M,
  ),
  tasks=tasks.PARALLEL_M,
)
LUMINA_DIMOO = dataclasses.replace(
  PARALLEL_A,
  name="lumina_dimoo",
  reference_sampler=None,
  tasks=tasks.LUMINA_DIMOO,
)
MMADA = dataclasses.replace(
  PARALLEL_M, name="mmada", reference_sampler=None, tasks=tasks.MMADA
)
LLADA = variants.Variant(
  name="llada",
  transformer=_BACKBONE,
  image_tokenizer=None,
  vocab=vocab_lib.Vocab(
    size=126_464,
    text_size=126_349,
    code_offset=126_349,
    codebook_size=0,
    mask_id=126_336,
    bos_id=126_080,
    eos_id=126_081,
    turn_end_id=126_348,
  ),
  layout=layout_lib.Layout(
    grid=None,
    prompt_len=64,
    text_len=256,
    prefix=tasks.LLADA[0].prefix,
    answer=tasks.LLADA[0].answer,
    prompt_ends=False,
    padding="left_out",
  ),
  sampler=settings.SamplerConfig(num_steps=256, text_block_len=32),
  tasks=tasks.LLADA,
)
VARIANTS = {
  variant.name: variant
  for variant in (PARALLEL_A, PARALLEL_M, LUMINA_DIMOO, MMADA, LLADA)
}
WITH_PICTURES = {
  name: variant
  for name, variant in VARIANTS.items()
  if variant.image_tokenizer is not None
}
# Fields of `Vocab` by the token's own string, or by a plain word where the
# tokenizer has none for it.
_MARKS = {
  "<|mdm_mask|>": "mask_id",
  "<|startoftext|>": "bos_id",
  "<|endoftext|>": "eos_id",
  "boi": "soi_id",
  "eoi": "eoi_id",
  "newline": "newline_id",
  "<uncondition>": "null_id",
  "</user>": "prompt_end_id",
  "<answer>": "answer_start_id",
  "</answer>": "answer_end_id",
  "<|soi|>": "soi_id",
  "<|eoi|>": "eoi_id",
  "<|interleave|>": "edit_id",
  "<|t2i|>": "generate_id",
  "<|mmu|>": "describe_id",
  "<|r2i|>": "reason_id",
  "<|eot_id|>": "turn_end_id",
}


def marks_of(variant: variants.Variant) -> dict[str, str]:
  """Return what a tokenizer of one's own must have for a model of a family.

  Args:
    variant: one of WITH_PICTURES.

  Returns:
    Special tokens by the field of `Vocab` that they fill, as `variants.fit`
    takes them. Marks that the published tokenizers have no token for, and name
    by plain words, are tokens here.
  """
  own = {field: token for token, field in _MARKS.items()}
  own["newline_id"] = "<|newline|>"
  tasks_parts = [part for t in variant.tasks for part in (*t.prefix, *t.answer)]
  parts = {f"{part}_id" for part in tasks_parts}
  fields = parts - {f"{slot}_id" for slot in layout_lib.SLOTS}
  fields |= set(variant.vocab.special_ids)
  return {field: token for field, token in own.items() if field in fields}


def variant_of(facts: facts_lib.Facts) -> variants.Variant:
  """Return the variant of a checkpoint: its own sizes and ids."""
  family = VARIANTS[facts.family]
  code_offset = facts.text_size
  ids = {
    _MARKS[token]: i
    for token, i in facts.special_ids.items()
    if token in _MARKS
  }
  layout, pictures = family.layout, facts.image_tokenizer
  if pictures is not None:
    side = pictures.grid_size
    layout = dataclasses.replace(layout, grid=(side, side))
  return dataclasses.replace(
    family,
    transformer=facts.transformer,
    image_tokenizer=pictures,
    vocab=vocab_lib.Vocab(
      size=facts.transformer.vocab_size,
      text_size=facts.text_size,
      code_offset=code_offset,
      codebook_size=facts.codebook_size,
      **ids,
    ),
    layout=layout,
  )
