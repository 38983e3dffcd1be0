"""Plain numpy restatements, one token at a time, in float64.

They share no code with the package: what a mask hides is cut out, not masked,
rows are looped over, and schedules are counted with Python integers.
"""

import math

import numpy as np


def softmax(x):
  x = np.asarray(x, np.float64)
  weights = np.exp(x - x.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def log_softmax(x):
  x = np.asarray(x, np.float64)
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def inverse_cdf(logits, uniform):
  """Draw one column from softmax(logits float[V])."""
  cumulative = np.cumsum(softmax(logits))
  return int(np.searchsorted(cumulative, uniform, side="right"))


# The backbone.


def _norm(x, gain, eps):
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gain


def _rotate(x, theta):
  """Rotate float64[L, K] by its row number, half against half."""
  length, size = x.shape
  out = np.empty_like(x)
  for j in range(size // 2):
    angle = np.arange(length) * theta ** (-2.0 * j / size)
    a, b = x[:, j], x[:, j + size // 2]
    out[:, j] = a * np.cos(angle) - b * np.sin(angle)
    out[:, j + size // 2] = b * np.cos(angle) + a * np.sin(angle)
  return out


def transformer_logits(config, params, tokens, places=None):
  """Return float64[L, V] for the tokens int[L] of one unpadded sequence.

  A model with places takes int[L, n] of them.
  """

  def get(x):
    return np.asarray(x, np.float64)

  x = get(params["embed"])[np.asarray(tokens)]
  if config.place_grids:
    for column in np.transpose(places):
      x = x + get(params["places"])[column]
  for layer in range(config.num_layers):
    block = {name: get(a[layer]) for name, a in params["blocks"].items()}
    h = _norm(x, block["attn_norm"], config.norm_eps)
    for head in range(config.num_heads):
      query = _rotate(h @ block["q_proj"][:, head], config.rope_theta)
      key = _rotate(h @ block["k_proj"][:, head], config.rope_theta)
      value = h @ block["v_proj"][:, head]
      weights = softmax(query @ key.T / math.sqrt(query.shape[1]))
      x = x + weights @ value @ block["attn_out"][head]
    h = _norm(x, block["ff_norm"], config.norm_eps)
    gate = h @ block["gate"]
    x = x + (gate / (1 + np.exp(-gate)) * (h @ block["up"])) @ block["down"]
  x = _norm(x, get(params["final_norm"]), config.norm_eps)
  return x @ get(params["head"]).T


# Sequences.


def condition_tokens(layout, vocab, prefix, valid, *, text=False, image=False):
  """Return the list of tokens before one answer, absent ones cut out.

  text and image drop the prompt and the input picture.
  """
  codes = layout.grid[0] * layout.grid[1]
  tokens = []
  for column, (token, is_valid) in enumerate(zip(prefix, valid, strict=True)):
    if not is_valid or (image and 1 <= column < codes + 3):
      continue
    in_prompt = column >= codes + 4
    tokens.append(vocab.eos_id if text and in_prompt else int(token))
  return tokens


def answer_logits(network, layout, vocab, prefix, valid, answer, **drop):
  """Return float64[A, V] of one row; network maps tokens int[L] to logits."""
  before = condition_tokens(layout, vocab, prefix, valid, **drop)
  return network(np.array([*before, *answer]))[len(before) :]


# The sampler.

_DROPS = {
  "text": {"text": True},
  "image": {"image": True},
  "both": {"text": True, "image": True},
}


def image_steps(config):
  """Return the set of steps at which the picture is updated."""
  first, last = int(config.image_start_rate * config.num_steps), 0
  last = config.num_steps - 1
  if config.num_image_steps == 1:
    return {last}
  gap = (last - first) / (config.num_image_steps - 1)
  # Python rounds halves to even, as the schedule does.
  return {round(first + i * gap) for i in range(config.num_image_steps)}


def _propose(logits, temperature, uniform):
  """Return column, logp under what was drawn from, and confidence."""
  if temperature == 0:
    column = int(np.argmax(logits))
    logp = log_softmax(logits)[column]
    return column, logp, logp
  column = inverse_cdf(logits / temperature, uniform)
  logp = log_softmax(logits / temperature)[column]
  return column, logp, log_softmax(logits)[column]


def _surest(masked, confidence, num_commits):
  """Return the positions to commit: highest first, then the earlier."""
  order = sorted(masked, key=lambda i: (-confidence[i], i))
  return order[:num_commits]


def sample_row(config, layout, vocab, network, prefix, valid, answer, noise):
  """Denoise one row.

  Args:
    config: a SamplerConfig.
    layout: a Layout.
    vocab: a Vocab.
    network: maps tokens int[L] to logits float64[L, V].
    prefix: int[P].
    valid: bool[P].
    answer: int[A].
    noise: for each step a dict of float[T] or float[N]: text, image uniform
      draws, text_confidence, image_confidence.

  Returns:
    tokens int[A], commit_step int[A], commit_logp float64[A].
  """
  steps = config.num_steps
  codes = layout.grid[0] * layout.grid[1]
  picture = range(1, codes + 1)
  words = range(codes + 3, codes + 3 + layout.text_len)
  special = {
    vocab.mask_id,
    vocab.bos_id,
    vocab.soi_id,
    vocab.eoi_id,
    vocab.edit_id,
    vocab.generate_id,
  }
  tokens = [int(t) for t in answer]
  step_of = [steps if t == vocab.mask_id else -1 for t in tokens]
  logp_of = [0.0] * len(tokens)
  num_words = sum(tokens[i] == vocab.mask_id for i in words)
  num_codes = sum(tokens[i] == vocab.mask_id for i in picture)
  due = image_steps(config)
  for step in range(steps):
    draws = noise[step]
    canvas = list(tokens)
    fade = 1 - (step + 1) / steps

    def logits_of(scales, canvas=canvas):
      base = answer_logits(network, layout, vocab, prefix, valid, canvas)
      total = base.copy()
      for name, drop in _DROPS.items():
        scale = getattr(scales, name)
        if scale:
          other = answer_logits(
            network, layout, vocab, prefix, valid, canvas, **drop
          )
          total += scale * (base - other)
      return total

    commits = []
    left = [i for i in words if canvas[i] == vocab.mask_id]
    keep = num_words * (steps - 1 - step) // steps
    if len(left) > keep:
      logits = logits_of(config.text_guidance)
      ends = [i for i in words if canvas[i] == vocab.eos_id]
      proposal, logp, confidence = {}, {}, {}
      for i in left:
        place = i - words[0]
        row = logits[i, : vocab.text_size].copy()
        row[sorted(special)] = -1e30
        proposal[i], logp[i], confidence[i] = _propose(
          row, config.text_temperature, draws["text"][place]
        )
        confidence[i] += (
          config.text_noise * fade * draws["text_confidence"][place]
        )
        if ends and ends[0] < i:
          proposal[i], logp[i], confidence[i] = vocab.eos_id, 0.0, 1e9
      for i in _surest(left, confidence, len(left) - keep):
        commits.append((i, proposal[i], logp[i]))
    left = [i for i in picture if canvas[i] == vocab.mask_id]
    if step in due and left:
      logits = logits_of(config.image_guidance)
      share = math.cos(0.5 * math.pi * (step + 1) / steps)
      # cos(pi / 2) is not quite 0 in floating point.
      keep = 0 if step == steps - 1 else math.floor(num_codes * share)
      keep = max(min(keep, len(left) - 1), 0)
      proposal, logp, confidence = {}, {}, {}
      first = vocab.code_offset
      for i in left:
        place = i - picture[0]
        proposal[i], logp[i], confidence[i] = _propose(
          logits[i, first : first + vocab.codebook_size],
          config.image_temperature,
          draws["image"][place],
        )
        confidence[i] += (
          config.image_noise * fade * draws["image_confidence"][place]
        )
      for i in _surest(left, confidence, len(left) - keep):
        commits.append((i, proposal[i] + first, logp[i]))
    for i, token, logp_i in commits:
      tokens[i], step_of[i], logp_of[i] = token, step, logp_i
  return np.array(tokens), np.array(step_of), np.array(logp_of)


# The supervised loss.


def row_weight(name, hidden_len, length, modality):
  """Weigh a row that hides hidden_len of length tokens."""
  if name == "one":
    return 1.0
  if name == "inv_maskprob":
    return length / hidden_len
  inverse = {
    "text": lambda share: share,
    "image": lambda share: 2 / math.pi * math.asin(share),
  }[modality]
  latest = inverse(hidden_len / length)
  if name == "inv_t":
    return 1.0 / latest
  assert name == "elbo"
  chance = latest - inverse((hidden_len - 1) / length)
  return 1.0 / (hidden_len * chance)


def sft_loss(
  config, layout, vocab, network, prefix, valid, answer, corrupted, asked=None
):
  """Return total, text and picture loss of a batch.

  Args:
    config: an SftConfig.
    layout: a Layout.
    vocab: a Vocab.
    network: maps tokens int[L] to logits float64[L, V].
    prefix: int[B, P], conditions already dropped.
    valid: bool[B, P].
    answer: int[B, A], clean.
    corrupted: int[B, A], with masks.
    asked: by modality bool[B], rows that are asked for it; default: all.
  """
  codes = layout.grid[0] * layout.grid[1]
  size = len(answer)
  sums = {"text": 0.0, "image": 0.0}
  places = {
    "image": range(1, codes + 1),
    "text": range(codes + 3, codes + 3 + layout.text_len),
  }
  columns = {
    "image": (vocab.code_offset, vocab.code_offset + vocab.codebook_size),
    "text": (0, vocab.text_size),
  }
  for row in range(size):
    logits = answer_logits(
      network, layout, vocab, prefix[row], valid[row], corrupted[row]
    )
    for modality, where in places.items():
      first, last = columns[modality]
      hidden = [i for i in where if corrupted[row, i] == vocab.mask_id]
      if not hidden or not (asked is None or asked[modality][row]):
        continue
      name = getattr(config, f"{modality}_weight")
      weight = row_weight(name, len(hidden), len(where), modality)
      for i in hidden:
        logp = log_softmax(logits[i, first:last])
        sums[modality] -= weight * logp[answer[row, i] - first]
  rows = config.rows
  noised = (
    1.0 - rows.clean_text - rows.absent_text,
    1.0 - rows.clean_image - rows.absent_image,
  )
  text = sums["text"] / (size * noised[0] * layout.text_len)
  image = sums["image"] / (size * noised[1] * codes)
  return config.text_coef * text + config.image_coef * image, text, image
