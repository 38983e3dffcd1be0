"""The backbone against transformers' Llama with its causal mask lifted.

Logits may differ by 1e-4: the order of float32 sums differs, logits are near 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paradiff.models import transformer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

CONFIG = transformer.TransformerConfig(
  vocab_size=120, width=48, num_layers=3, num_heads=4, mlp_width=80
)


@pytest.fixture
def llama(randomise):
  """Return a Llama of these sizes and its weights."""
  network = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=CONFIG.vocab_size,
      hidden_size=CONFIG.width,
      intermediate_size=CONFIG.mlp_width,
      num_hidden_layers=CONFIG.num_layers,
      num_attention_heads=CONFIG.num_heads,
      max_position_embeddings=64,
      rms_norm_eps=CONFIG.norm_eps,
      rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
      tie_word_embeddings=False,
      attn_implementation="eager",
    )
  )
  return network, randomise(network)


def _params(weights):
  h, k, layers = CONFIG.num_heads, CONFIG.head_size, range(CONFIG.num_layers)

  def stack(name, to_ours=lambda w: w):
    rows = [to_ours(weights[f"model.layers.{i}.{name}.weight"]) for i in layers]
    return jnp.asarray(np.stack(rows))

  def inward(w):
    return w.T.reshape(-1, h, k)

  return {
    "embed": jnp.asarray(weights["model.embed_tokens.weight"]),
    "blocks": {
      "attn_norm": stack("input_layernorm"),
      "q_proj": stack("self_attn.q_proj", inward),
      "k_proj": stack("self_attn.k_proj", inward),
      "v_proj": stack("self_attn.v_proj", inward),
      "attn_out": stack(
        "self_attn.o_proj", lambda w: w.T.reshape(h, k, w.shape[0])
      ),
      "ff_norm": stack("post_attention_layernorm"),
      "gate": stack("mlp.gate_proj", np.transpose),
      "up": stack("mlp.up_proj", np.transpose),
      "down": stack("mlp.down_proj", np.transpose),
    },
    "final_norm": jnp.asarray(weights["model.norm.weight"]),
    "head": jnp.asarray(weights["lm_head.weight"]),
  }


@jax.jit
def _logits(params, tokens, valid):
  hidden = transformer.trunk(CONFIG, params, tokens, valid_mask=valid)
  columns = (0, CONFIG.vocab_size)
  return transformer.head(CONFIG, params, hidden, columns=columns)


def _theirs(network, tokens, valid):
  """Run Llama with a mask that only hides the padding."""
  hidden = torch.finfo(torch.float32).min * torch.from_numpy(~valid).float()
  mask = hidden[:, None, None, :].expand(-1, 1, tokens.shape[1], -1)
  positions = np.maximum(np.cumsum(valid, axis=1) - 1, 0)
  with torch.no_grad():
    output = network(
      input_ids=torch.from_numpy(tokens),
      attention_mask=mask.contiguous(),
      position_ids=torch.from_numpy(positions),
      use_cache=False,
    )
  return output.logits.numpy()


@pytest.mark.parametrize("num_pads", [(0, 0), (0, 7)])
def test_logits_equal_a_bidirectional_llamas(llama, num_pads, record_property):
  network, weights = llama
  tokens = np.random.default_rng(1).integers(0, CONFIG.vocab_size, (2, 24))
  valid = np.arange(24)[None] >= np.asarray(num_pads)[:, None]
  ours = np.asarray(_logits(_params(weights), tokens, valid))
  theirs = _theirs(network, tokens, valid)
  difference = np.abs(ours - theirs)[valid].max()
  record_property("largest_difference", f"{difference:.2g}")
  assert difference <= 1e-4
  assert np.abs(theirs[valid]).max() > 1


def test_llama_is_really_bidirectional_here(llama):
  """The last token moves the first logits; else the mask was not used."""
  network, _ = llama
  tokens = np.random.default_rng(1).integers(0, CONFIG.vocab_size, (1, 24))
  other = np.where(np.arange(24) == 23, (tokens + 1) % 120, tokens)
  valid = np.ones((1, 24), bool)
  moved = _theirs(network, tokens, valid) - _theirs(network, other, valid)
  assert np.abs(moved[0, 0]).max() > 1e-3
