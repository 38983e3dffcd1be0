"""Toy models for tests, and a walk over jaxprs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles

from paradiff import layout as layout_lib
from paradiff import sequence as sequence_lib
from paradiff import sharding
from paradiff import vocab as vocab_lib
from paradiff.diffusion import model as model_lib
from paradiff.models import transformer

LAYOUT = layout_lib.Layout(grid=(2, 3), prompt_len=4, text_len=5)
# Unused rows between text and codes, and behind the codes.
VOCAB = vocab_lib.Vocab(
  size=44,
  text_size=22,
  code_offset=24,
  codebook_size=16,
  mask_id=3,
  bos_id=1,
  eos_id=2,
  soi_id=0,
  eoi_id=4,
  edit_id=5,
  generate_id=6,
)
CONFIG = transformer.TransformerConfig(
  vocab_size=VOCAB.size,
  width=16,
  num_layers=2,
  num_heads=2,
  mlp_width=32,
  rope_theta=100.0,
)
MESHES = ((8, 1, 1), (2, 2, 2), (1, 8, 1), (1, 4, 2))


def mesh(shape):
  data, fsdp, tensor = shape
  return sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor)


@functools.cache
def model(config=CONFIG, layout=LAYOUT, vocab=VOCAB):
  """Return the transformer as the sampler and the losses see it."""
  return model_lib.Model(
    layout=layout,
    vocab=vocab,
    denoiser=model_lib.Denoiser(
      trunk=lambda params, tokens, valid, places: transformer.trunk(
        config, params, tokens, valid_mask=valid, places=places
      ),
      head=functools.partial(transformer.head, config),
    ),
  )


@functools.cache
def params(config=CONFIG, seed=0):
  """Draw parameters that make confident and differing predictions."""
  # Cached: a first call under a trace must not leave a tracer behind.
  with jax.ensure_compile_time_eval():
    rng = np.random.default_rng(seed)
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(lambda key: transformer.init(config, key), key)
    tree = jax.tree.map(
      lambda a: jnp.asarray(rng.standard_normal(a.shape) / 4.0, a.dtype), shapes
    )
    return tree | {"head": 3.0 * tree["head"]}


def network(config=CONFIG, seed=0):
  """Return the numpy network int[L] -> float64[L, V] of `params`."""
  tree = jax.tree.map(np.asarray, params(config, seed))
  return functools.partial(oracles.transformer_logits, config, tree)


@functools.cache
def table_model(layout=LAYOUT, vocab=VOCAB):
  """Return a model whose logits at column l of a sequence are params[l]."""

  def trunk(table, tokens, valid, places):
    eye = jnp.eye(table.shape[0], dtype=jnp.float32)[: tokens.shape[1]]
    return jnp.broadcast_to(eye, (*tokens.shape, table.shape[0]))

  def head(table, hidden, *, columns):
    return hidden @ table[:, slice(*columns)]

  denoiser = model_lib.Denoiser(trunk=trunk, head=head)
  return model_lib.Model(layout=layout, vocab=vocab, denoiser=denoiser)


def conditions(batch_size, *, layout=LAYOUT, vocab=VOCAB, seed=0):
  """Draw conditions: prompts of every length, every third row no picture."""
  rng = np.random.default_rng(seed)
  rows = []
  for row in range(batch_size):
    words = rng.integers(7, vocab.text_size, row % layout.prompt_len)
    codes = rng.integers(0, vocab.codebook_size, layout.image_len)
    rows.append(
      sequence_lib.encode_prefix(
        layout,
        vocab,
        prompt_ids=words.tolist(),
        source_codes=None if row % 3 == 2 else codes,
      )
    )
  prefix, valid = zip(*rows, strict=True)
  return sequence_lib.Condition(
    prefix=jnp.asarray(np.stack(prefix)), valid=jnp.asarray(np.stack(valid))
  )


def answers(batch_size, *, layout=LAYOUT, vocab=VOCAB, seed=0):
  """Draw clean answers int32[B, A], texts of every length."""
  rng = np.random.default_rng(seed + 1)
  rows = [
    sequence_lib.encode_answer(
      layout,
      vocab,
      text_ids=rng.integers(7, vocab.text_size, row % layout.text_len).tolist(),
      codes=rng.integers(0, vocab.codebook_size, layout.image_len),
    )
    for row in range(batch_size)
  ]
  return jnp.asarray(np.stack(rows))


def partial_answers(batch_size, *, layout=LAYOUT, vocab=VOCAB, seed=0):
  """Draw answers int32[B, A]: row 0 all masked, others partly given."""
  rng = np.random.default_rng(seed + 2)
  full = np.asarray(answers(batch_size, layout=layout, vocab=vocab, seed=seed))
  kept = rng.random(full.shape) < rng.random((batch_size, 1))
  kept[0] = False
  if batch_size > 1:
    kept[1] = np.arange(layout.answer_len) <= layout.image_len  # picture given
  frame = np.ones(layout.answer_len, bool)
  frame[layout.image_index] = frame[layout.text_index] = False
  return jnp.asarray(np.where(kept | frame, full, vocab.mask_id))


def equations(jaxpr, *, times=1, in_cond=False):
  """Yield (equation, runs, in_cond) of a jaxpr and all jaxprs inside."""
  for eqn in jaxpr.eqns:
    yield eqn, times, in_cond
    name = eqn.primitive.name
    inner_times = times * (eqn.params["length"] if name == "scan" else 1)
    for value in eqn.params.values():
      parts = value if isinstance(value, tuple | list) else (value,)
      for part in parts:
        inner = getattr(part, "jaxpr", part)
        if hasattr(inner, "eqns"):
          yield from equations(
            inner, times=inner_times, in_cond=in_cond or name == "cond"
          )


def largest_array(jaxpr):
  """Return the most elements that any intermediate of a jaxpr has."""
  return max(
    int(np.prod(var.aval.shape))
    for eqn, _, _ in equations(jaxpr)
    for var in eqn.outvars
    if hasattr(var.aval, "shape")
  )


def primitives(jaxpr):
  """Return the names of all primitives of a jaxpr."""
  return {eqn.primitive.name for eqn, _, _ in equations(jaxpr)}
