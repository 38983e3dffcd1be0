"""Recorded runs of the published PyTorch code, as arguments of ours.

`golden/parallel_*.npz`: float32, CPU, small random weights under the
published tensor names, every sequence that the model was given (`calls`) and,
in the sampled runs, every random draw in order (`tape/`).
"""

import dataclasses
import functools
import json
import pathlib

import jax.numpy as jnp
import numpy as np

from paradiff import published
from paradiff import sequence
from paradiff import vocab as vocab_lib
from paradiff.diffusion import guidance
from paradiff.diffusion import model as model_lib
from paradiff.diffusion import noise as noise_lib
from paradiff.diffusion import settings
from paradiff.models import transformer

GOLDEN = pathlib.Path(__file__).parent / "golden"
RUNS_A = tuple(
  f"parallel_a_{name}"
  for name in ("greedy", "sampled", "imageguided", "unguided")
)
RUNS_M = ("parallel_m_greedy", "parallel_m_sampled")
_HEADS = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """One recorded run.

  Attributes:
    file: everything recorded.
    meta: the recorded settings and ids.
    config: the settings as ours.
    model: layout, ids and network as ours.
    params: the recorded weights as ours.
    condition: the prefix that was given.
    answer: the masked answer that was given.
  """

  file: dict
  meta: dict
  config: settings.SamplerConfig
  model: model_lib.Model
  params: dict
  condition: sequence.Condition
  answer: jnp.ndarray

  @property
  def tape(self):
    """The recorded draws in order, as (kind, array) pairs."""
    names = sorted(name for name in self.file if name.startswith("tape/"))
    return [(name.split("/")[2], self.file[name]) for name in names]


def params_of(weights, *, num_heads=_HEADS):
  """Return our tree for {published name: array}; heads are split by hand."""
  get = {
    name.removeprefix("sd/").removeprefix("model.transformer."): value
    for name, value in weights.items()
    if name.startswith("sd/")
  }
  num_layers = sum(name.endswith(".attn_norm.weight") for name in get)
  width = get["ln_f.weight"].shape[0]
  split = (width, num_heads, width // num_heads)

  def stack(name, change):
    return np.stack(
      [change(get[f"blocks.{i}.{name}.weight"]) for i in range(num_layers)]
    )

  def heads(w):
    return w.T.reshape(split)

  tree = {
    "embed": get["wte.weight"],
    "head": get["ff_out.weight"],
    "final_norm": get["ln_f.weight"],
    "blocks": {
      "attn_norm": stack("attn_norm", np.asarray),
      "ff_norm": stack("ff_norm", np.asarray),
      "q_proj": stack("q_proj", heads),
      "k_proj": stack("k_proj", heads),
      "v_proj": stack("v_proj", heads),
      "attn_out": stack("attn_out", lambda w: w.T.reshape(*split[1:], width)),
      "gate": stack("ff_proj", np.transpose),
      "up": stack("up_proj", np.transpose),
      "down": stack("ff_out", np.transpose),
    },
  }
  return {
    name: {k: jnp.asarray(v) for k, v in leaf.items()}
    if isinstance(leaf, dict)
    else jnp.asarray(leaf)
    for name, leaf in tree.items()
  }


def network(params, **changes):
  """Return the backbone's config for a tree of parameters."""
  vocab_size, width = params["embed"].shape
  num_layers, _, mlp_width = params["blocks"]["gate"].shape
  return transformer.TransformerConfig(
    vocab_size=vocab_size,
    width=width,
    num_layers=num_layers,
    num_heads=_HEADS,
    mlp_width=mlp_width,
    **changes,
  )


def _model(layout, vocab, params):
  config = network(params)
  return model_lib.Model(
    layout=layout,
    vocab=vocab,
    denoiser=model_lib.Denoiser(
      trunk=lambda params, tokens, valid, places: transformer.trunk(
        config, params, tokens, valid_mask=valid
      ),
      head=functools.partial(transformer.head, config),
    ),
  )


def _grid(text):
  return tuple(int(side) for side in text.split("x"))


@functools.cache
def load_a(name):
  """Return a run of variant A; see `Run`."""
  file = dict(np.load(GOLDEN / f"{name}.npz"))
  meta = json.loads(str(file["meta"]))
  args, ids = meta["args"], meta["ids"]
  weights = file
  if not any(key.startswith("sd/") for key in file):
    weights = dict(np.load(GOLDEN / "parallel_a_greedy.npz"))  # the same
  params = params_of(weights)
  con, null = file["con"], file["uncon_text"]
  source = _grid(args["in_grid"])
  picture_len = source[0] * (source[1] + 1) + 2
  prompt = [int(i) for i in con[: -picture_len - 1]]
  vocab = vocab_lib.Vocab(
    size=meta["V"],
    text_size=ids["text_vocab"],
    code_offset=ids["text_vocab"],
    codebook_size=ids["codebook"],
    mask_id=ids["mask"],
    bos_id=ids["newline"] - 1,  # the recording has neither
    eos_id=ids["newline"] - 2,
    soi_id=ids["boi"],
    eoi_id=ids["eoi"],
    newline_id=ids["newline"],
    null_id=ids["uncond"],
    prompt_end_id=int(con[-1]),
    answer_start_id=ids["boa"],
    answer_end_id=ids["eoa"],
  )
  layout = dataclasses.replace(
    published.PARALLEL_A.layout,
    grid=_grid(args["out_grid"]),
    source_grids=(source,),
    prompt_len=len(prompt),
    text_len=args["text_gen_length"],
    null_prompt=tuple(int(i) for i in null[: -picture_len - 1]),
  )
  sampled = args["mode"] == "stochastic"
  config = dataclasses.replace(
    published.PARALLEL_A.reference_sampler,
    num_steps=args["text_steps"],
    num_image_steps=args["timesteps"],
    text_temperature=0.7 if sampled else 0.0,
    image_temperature=1.0 if sampled else 0.0,
    image_noise=1.0 if sampled else 0.0,
    image_guidance=guidance.Guidance(
      text=args["cfg_scale"], image=args["cfg_img"]
    ),
  )
  codes = con[-picture_len:-2].reshape(source[0], -1)[:, : source[1]]
  prefix, valid = sequence.encode_prefix(
    layout,
    vocab,
    prompt_ids=prompt,
    source_codes=codes.reshape(-1) - vocab.code_offset,
  )
  return Run(
    file=file,
    meta=meta,
    config=config,
    model=_model(layout, vocab, params),
    params=params,
    condition=_condition(prefix, valid),
    answer=jnp.asarray(sequence.encode_answer(layout, vocab)[None]),
  )


@functools.cache
def load_m(name):
  """Return a run of variant M; see `Run`."""
  file = dict(np.load(GOLDEN / f"{name}.npz"))
  meta = json.loads(str(file["meta"]))
  args, ids = meta["args"], meta["ids"]
  params = params_of(file)
  side = round(args["vq_tokens"] ** 0.5)
  inp, codes = file["inp"], args["vq_tokens"]
  vocab = vocab_lib.Vocab(
    size=params["embed"].shape[0],
    text_size=args["len_tokenizer"],
    code_offset=ids["vq"],
    codebook_size=ids["codebook"],
    mask_id=ids["mask"],
    bos_id=ids["bos"],
    eos_id=ids["eos"],
    soi_id=ids["soi"],
    eoi_id=ids["eoi"],
    edit_id=ids["interleave"],
  )
  layout = dataclasses.replace(
    published.PARALLEL_M.layout,
    grid=(side, side),
    prompt_len=len(inp) - codes - 4,
    text_len=args["max_seq"] - 1,
    padding="attended",
  )
  sampled = args["mode"] == "stochastic"
  config = dataclasses.replace(
    published.PARALLEL_M.reference_sampler,
    num_steps=args["text_steps"],
    num_image_steps=args["image_steps"],
    image_temperature=1.0 if sampled else 0.0,
    image_noise=1.0 if sampled else 0.0,
    text_guidance=guidance.Guidance(both=-args["text_cfg"]),
    image_guidance=guidance.Guidance(both=args["image_cfg"]),
  )
  prefix, valid = sequence.encode_prefix(
    layout,
    vocab,
    prompt_ids=[int(i) for i in inp[codes + 4 : -1]],
    source_codes=inp[2 : codes + 2] - vocab.code_offset,
  )
  return Run(
    file=file,
    meta=meta,
    config=config,
    model=_model(layout, vocab, params),
    params=params,
    condition=_condition(prefix, valid),
    answer=jnp.asarray(sequence.encode_answer(layout, vocab)[None]),
  )


def load(name):
  """Return the recorded run of that name."""
  return load_a(name) if name in RUNS_A else load_m(name)


def _condition(prefix, valid):
  return sequence.Condition(
    prefix=jnp.asarray(prefix[None]), valid=jnp.asarray(valid[None])
  )


def noise_of(run):
  """Yield a Noise for each step, from the tape where there is one."""
  layout, vocab = run.model.layout, run.model.vocab
  tape = iter(run.tape)
  blank = {
    "text": jnp.zeros((1, layout.text_len, vocab.size)),
    "image": jnp.zeros((1, layout.image_len, vocab.codebook_size)),
    "text_confidence": jnp.zeros((1, layout.text_len)),
    "image_confidence": jnp.zeros((1, layout.image_len)),
  }
  is_a = "con" in run.file
  step = np.arange(run.config.num_steps)
  first, last = run.config.num_steps // 4, run.config.num_steps - 1
  points = np.linspace(
    first, last, run.config.num_image_steps, dtype=np.float32
  )
  due = set(np.round(points).astype(int).tolist())
  masks = layout.text_len
  for s in step:
    drawn = dict(blank)
    if run.tape:
      if is_a and masks:
        kind, u = next(tape)
        assert kind == "rand"
        gumbel = -np.log(-np.log(u + 1e-10) + 1e-10)
        drawn["text"] = jnp.asarray(gumbel, jnp.float32)
      if s in due:
        kind, u = next(tape)
        assert kind == "multinomial_uniform"
        gumbel = -np.log(-np.log(u.astype(np.float64)))
        drawn["image"] = jnp.asarray(
          gumbel.reshape(blank["image"].shape), jnp.float32
        )
        kind, u = next(tape)
        assert kind == ("randn" if is_a else "gumbel_uniform")
        order = u if is_a else -np.log(-np.log(u))
        drawn["image_confidence"] = jnp.asarray(order, jnp.float32)
    masks = yield noise_lib.Noise(**drawn)
