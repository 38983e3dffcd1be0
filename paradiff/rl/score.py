"""Score tokens of a rollout under a policy, as the sampler would have.

A row is one unit of one rollout: the canvas before it, the tokens to score and
what they count. Only the scored positions reach the head; the ids that the
sampler rules out are ruled out here, its temperatures divide the logits, and
where it is guided the same guided logits are scored.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from paradiff import sequence as sequence_lib
from paradiff.diffusion import chunks
from paradiff.diffusion import denoise
from paradiff.diffusion import guidance
from paradiff.diffusion import model as model_lib
from paradiff.diffusion import settings

MODALITIES = ("text", "image")


@dataclasses.dataclass(frozen=True)
class Span:
  """One modality of an answer: where it stands and how it is sampled.

  Attributes:
    name: "text" or "image".
    index: answer columns, as a tuple of int.
    columns: half-open range of token ids.
    capacity: K, the most positions of a row that are scored.
    temperature: divides the logits.
    scales: of the guidance.
  """

  name: str
  index: tuple[int, ...]
  columns: tuple[int, int]
  capacity: int
  temperature: float
  scales: guidance.Guidance


def spans(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  capacity: tuple[int, int],
) -> tuple[Span, ...]:
  """Return the modalities that the answer has and that are scored."""
  layout, vocab = model.layout, model.vocab
  both = (
    Span(
      name="text",
      index=tuple(layout.text_index.tolist()),
      columns=vocab.text_columns,
      capacity=capacity[0],
      temperature=config.text_temperature,
      scales=config.text_guidance,
    ),
    Span(
      name="image",
      index=tuple(layout.image_index.tolist()),
      columns=vocab.code_columns,
      capacity=capacity[1],
      temperature=config.image_temperature,
      scales=config.image_guidance,
    ),
  )
  return tuple(span for span in both if span.index and span.capacity)


@flax.struct.dataclass
class Gathered:
  """The scored positions of one modality, n rows of K places.

  Attributes:
    hidden: float[n, K, D] by guidance branch.
    place: int32[n, K], which position of the modality.
    is_real: bool[n, K]; the other places hold no meaning.
    column: int32[n, K], the scored token within the span's columns.
  """

  hidden: dict[str, jax.Array]
  place: jax.Array
  is_real: jax.Array
  column: jax.Array


@flax.struct.dataclass
class Scores:
  """What a policy makes of the scored positions.

  Attributes:
    logp: float32[n, K], natural log of the token's probability; 0 where no
      position is.
    entropy: float32[n, K], nats.
    kl: float32[n, K], exact KL(policy || anchor) in nats; 0 without an anchor.
    anchor_logp: float32[n, K], the anchor's log-probability of the token.
  """

  logp: jax.Array
  entropy: jax.Array
  kl: jax.Array
  anchor_logp: jax.Array


def gather(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  params: Any,
  rows: Mapping[str, jax.Array],
  modalities: tuple[Span, ...],
) -> dict[str, Gathered]:
  """Run the trunk over the rows and keep the scored positions.

  Args:
    config: the settings of the rollouts.
    model: the network, its layout and ids.
    params: the network's parameters.
    rows: prefix int32[n, P], prefix_valid bool[n, P], canvas, target and
      scored (bool) [n, A].
    modalities: from `spans`.

  Returns:
    By name of the modality.
  """
  condition = sequence_lib.Condition(
    prefix=rows["prefix"], valid=rows["prefix_valid"]
  )
  used = {name for span in modalities for name in span.scales.branches}
  hidden = {
    "none": model.answer_hidden(params, condition, rows["canvas"]),
    **denoise.unconditional(
      config,
      model,
      params,
      condition,
      rows["canvas"],
      tuple(name for name in guidance.BRANCHES if name in used),
    ),
  }
  found = {}
  for span in modalities:
    index = np.asarray(span.index)
    scored = rows["scored"][:, index]
    # Scored positions first, in order.
    place = jnp.argsort(~scored, axis=1, stable=True)[:, : span.capacity]
    is_real = jnp.take_along_axis(scored, place, axis=1)
    target = jnp.take_along_axis(rows["target"][:, index], place, axis=1)
    found[span.name] = Gathered(
      hidden={
        name: jnp.take_along_axis(
          hidden[name][:, index], place[..., None], axis=1
        )
        for name in ("none", *span.scales.branches)
      },
      place=place,
      is_real=is_real,
      column=jnp.where(is_real, target - span.columns[0], 0),
    )
  return found


def score(
  config: settings.SamplerConfig,
  model: model_lib.Model,
  params: Any,
  span: Span,
  found: Gathered,
  *,
  anchor: tuple[Any, Mapping[str, jax.Array]] | None = None,
  chunk_len: int = 4096,
) -> Scores:
  """Score gathered positions through the head, in chunks.

  Args:
    config: the settings of the rollouts.
    model: the network, its layout and ids.
    params: the network's parameters.
    span: the modality.
    found: from `gather` with the same parameters.
    anchor: parameters and hidden states (as `found.hidden`) of the policy
      that the KL is taken to; get no gradient.
    chunk_len: positions that pass the head at once.
  """

  def logits_of(params: Any, hidden: Mapping[str, jax.Array]) -> jax.Array:
    logits = denoise.guided_logits(
      model, params, hidden, scales=span.scales, columns=span.columns
    )
    if span.name == "text":
      logits = denoise.suppress(config, model, logits)
    return jax.nn.log_softmax(logits / span.temperature, axis=-1)

  def one_chunk(parts: dict[str, Any]) -> tuple[jax.Array, ...]:
    logp = logits_of(params, parts["hidden"])
    probs = jnp.exp(logp)
    picked = _pick(logp, parts["column"])
    # A suppressed id has probability 0 and the log -inf once a temperature
    # below 1 divides it: keep it out of products, whose gradient is NaN.
    entropy = -(probs * jnp.where(probs > 0.0, logp, 0.0)).sum(axis=-1)
    if anchor is None:
      zeros = jnp.zeros_like(picked)
      return picked, entropy, zeros, zeros
    other = jax.lax.stop_gradient(logits_of(anchor[0], parts["anchor"]))
    difference = jnp.where(probs > 0.0, logp - other, 0.0)
    kl = (probs * difference).sum(axis=-1)
    return picked, entropy, kl, _pick(other, parts["column"])

  shape = found.column.shape
  parts: dict[str, Any] = {"hidden": found.hidden, "column": found.column}
  if anchor is not None:
    parts["anchor"] = dict(anchor[1])
  flat = jax.tree.map(
    lambda x: x.reshape(shape[0] * shape[1], *x.shape[2:]), parts
  )
  values = chunks.mapped(one_chunk, flat, chunk_len=chunk_len)
  logp, entropy, kl, anchor_logp = (
    jnp.where(found.is_real, value.reshape(shape), 0.0) for value in values
  )
  return Scores(logp=logp, entropy=entropy, kl=kl, anchor_logp=anchor_logp)


def _pick(logp: jax.Array, column: jax.Array) -> jax.Array:
  return jnp.take_along_axis(logp, column[..., None], axis=-1)[..., 0]
