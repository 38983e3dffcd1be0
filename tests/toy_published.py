"""Sequences of the published families on tiny grids, and runs of any settings.

Words are 10 and up; code c of either vocabulary is token 24 + c.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import toy
import toy_runs

from paradiff import layout as layout_lib
from paradiff import sequence as sequence_lib
from paradiff import vocab as vocab_lib
from paradiff.diffusion import denoise
from paradiff.diffusion import sampler
from paradiff.diffusion import schedule as schedule_lib

_SIZES = {
  "size": 44,
  "text_size": 22,
  "code_offset": 24,
  "codebook_size": 16,
  "soi_id": 0,
  "bos_id": 1,
  "eos_id": 2,
  "mask_id": 3,
  "eoi_id": 4,
}
VOCAB_A = vocab_lib.Vocab(
  **_SIZES,
  newline_id=5,
  prompt_end_id=6,
  answer_start_id=7,
  answer_end_id=8,
  null_id=9,
)
VOCAB_M = vocab_lib.Vocab(**_SIZES, edit_id=5, generate_id=6, describe_id=7)

# Of MMaDA-Parallel-A: editing, then what its family also does.
EDIT_A = layout_lib.Layout(
  grid=(2, 2),
  prompt_len=3,
  text_len=3,
  prefix=("prompt", "source", "prompt_end"),
  answer=("answer_start", "image", "text", "answer_end"),
  row_ends=True,
  prompt_ends=False,
  padding="left_out",
  null_prompt=(10, 9),
)
GENERATE_A = dataclasses.replace(EDIT_A, prefix=("prompt", "prompt_end"))
PICTURE_A = dataclasses.replace(
  GENERATE_A, answer=("answer_start", "image", "answer_end"), text_len=0
)
STYLE_A = dataclasses.replace(
  EDIT_A,
  answer=PICTURE_A.answer,
  text_len=0,
  source_grids=((2, 2), (1, 3)),
)
DESCRIBE_A = dataclasses.replace(
  EDIT_A,
  grid=None,
  answer=("answer_start", "text", "answer_end"),
  source_grids=((1, 2),),
)
# Of MMaDA-Parallel-M and MMaDA.
EDIT_M = layout_lib.Layout(
  grid=(2, 2),
  prompt_len=4,
  text_len=3,
  prefix=("edit", "source", "bos", "prompt"),
  padding="left_out",
  null_source="zeros",
)
PICTURE_M = dataclasses.replace(
  EDIT_M, prefix=("generate", "bos", "prompt"), answer=("image",), text_len=0
)
TEXT_M = dataclasses.replace(
  EDIT_M, grid=None, prefix=("bos", "prompt"), answer=("text",)
)
FAMILIES = {
  "edit_a": (EDIT_A, VOCAB_A),
  "generate_a": (GENERATE_A, VOCAB_A),
  "picture_a": (PICTURE_A, VOCAB_A),
  "style_a": (STYLE_A, VOCAB_A),
  "describe_a": (DESCRIBE_A, VOCAB_A),
  "edit_m": (EDIT_M, VOCAB_M),
  "picture_m": (PICTURE_M, VOCAB_M),
  "text_m": (TEXT_M, VOCAB_M),
}

canvas = jax.jit(
  sampler.canvas, static_argnums=(0, 1), compiler_options=toy_runs.FAST
)


def with_quirks(config, **quirks):
  """Return the settings with some quirks on."""
  return dataclasses.replace(
    config, quirks=dataclasses.replace(config.quirks, **quirks)
  )


def condition(layout, vocab, prompts, codes=None):
  """Return the condition of prompts, one list of ids a row.

  codes is one of what `sequence.encode_prefix` takes, for all rows.
  """
  rows = [
    sequence_lib.encode_prefix(
      layout, vocab, prompt_ids=prompt, source_codes=codes
    )
    for prompt in prompts
  ]
  prefix, valid = zip(*rows, strict=True)
  return sequence_lib.Condition(
    prefix=jnp.asarray(np.stack(prefix)), valid=jnp.asarray(np.stack(valid))
  )


def masked_answers(layout, vocab, batch_size, **given):
  """Return answers int32[B, A], masked where nothing is given."""
  row = sequence_lib.encode_answer(layout, vocab, **given)
  return jnp.asarray(np.tile(row, (batch_size, 1)))


def drawn_codes(layout, vocab, seed=0):
  """Draw codes for each input picture of a layout."""
  rng = np.random.default_rng(seed)
  return [
    rng.integers(0, vocab.codebook_size, rows * columns)
    for rows, columns in layout.sources
  ]


def calls(config, model, params, condition, answer, noise):
  """Run step by step: for each clock every sequence that the trunk is given.

  noise is one `Noise` for all steps. Also returns the canvas behind each.
  """
  seen, canvases = {}, {}

  def trunk(params, tokens, valid, places):
    seen.setdefault(clock, []).append(np.asarray(tokens))
    return model.denoiser.trunk(params, tokens, valid, places)

  recorder = dataclasses.replace(
    model, denoiser=dataclasses.replace(model.denoiser, trunk=trunk)
  )
  plan = sampler.schedule_of(config, model.layout)
  state = sampler.start(config, model, answer)
  for i, clock in enumerate(plan.step.tolist()):
    row = schedule_lib.rows(plan, slice(i, i + 1))
    row = jax.tree.map(lambda a: a[0], row)
    # A Python bool: a branch of `cond` could not hand out its inputs.
    row = dataclasses.replace(row, is_image_step=bool(plan.image_step[i]))
    with jax.disable_jit():
      state = denoise.denoise_step(
        config, recorder, params, condition, state, step=row, noise=noise
      )
    canvases[clock] = np.asarray(state.tokens)
  return seen, canvases


def table(layout, seed=0, scale=2.0, vocab=toy.VOCAB):
  """Draw logits float32[L, V] for `toy.table_model`."""
  rng = np.random.default_rng(seed)
  shape = (layout.prefix_len + layout.answer_len, vocab.size)
  return (scale * rng.standard_normal(shape)).astype(np.float32)
