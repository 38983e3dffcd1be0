"""How well a CLIP tells held-out scenes apart."""

import functools
from typing import Any

import jax
import numpy as np

from paradiff import step as step_lib
from paradiff.data import captions
from paradiff.data import pipeline as data_lib
from paradiff.data import text as text_lib
from paradiff.models import clip as clip_lib
from paradiff.models import clip_config
from paradiff.models import clip_pictures
from paradiff.scenes import render


def embed(
  config: clip_config.ClipConfig, params: Any, batch: step_lib.Batch
) -> tuple[jax.Array, jax.Array]:
  """Return the embeddings float32[B, P] of texts and pictures."""
  pixels = clip_pictures.preprocess(batch["pictures"], size=config.image_size)
  text = clip_lib.text_embeds(
    config, params, batch["input_ids"], attention_mask=batch["text_mask"]
  )
  return text, clip_lib.image_embeds(config, params, pixels)


class Evaluation:
  """Held-out pairs, each with pictures that show one fact otherwise."""

  def __init__(
    self,
    config: clip_config.ClipConfig,
    tokenizer: text_lib.TextTokenizer,
    *,
    num_pairs: int,
    seed: int,
  ) -> None:
    examples = data_lib.ScenesSource(seed=seed, size=num_pairs, split="test")
    rng = np.random.default_rng((seed, 2))
    rows, pictures = [], []
    self._others: dict[str, tuple[list[int], list[np.ndarray]]] = {
      kind: ([], []) for kind in captions.KINDS
    }
    for i in range(num_pairs):
      example = examples[i]
      rows.append(
        captions.token_row(
          tokenizer.encode_marked(example.reasoning),
          start_id=tokenizer.fast.bos_token_id,
          end_id=tokenizer.fast.eos_token_id,
          max_len=config.max_text_len,
        )
      )
      pictures.append(render.render(example.target))
      for kind, (indices, found) in self._others.items():
        other = captions.vary(rng, example.target, kind)
        if other is not None:
          indices.append(i)
          found.append(render.render(other))
    self._batch = {
      "input_ids": np.stack([ids for ids, _ in rows]),
      "text_mask": np.stack([mask for _, mask in rows]),
      "pictures": np.stack(pictures),
    }
    self._embed = jax.jit(functools.partial(embed, config))

  def run(self, params: Any) -> dict[str, float]:
    """Return how often the true picture, or text, has the highest score.

    Returns:
      Shares in [0, 1]: `eval/picture_found_rate` among all held-out pictures,
      `eval/text_found_rate` among all texts, `eval/one_fact_rate` against a
      picture that differs in one fact, also by the kind of the difference;
      and `eval/one_fact_margin`, by how much, in units of the cosine.
    """
    text, image = self._run(params, self._batch["pictures"])
    scores = text @ image.T
    labels = np.arange(len(scores))
    margins = {}
    for kind, (indices, found) in self._others.items():
      filled = self._batch["pictures"].copy()
      filled[: len(found)] = np.stack(found)
      _, other = self._run(params, filled)
      true = scores[indices, indices]
      margins[kind] = true - np.sum(text[indices] * other[: len(found)], -1)
    every = np.concatenate(list(margins.values()))
    return {
      "eval/picture_found_rate": float((scores.argmax(1) == labels).mean()),
      "eval/text_found_rate": float((scores.argmax(0) == labels).mean()),
      "eval/one_fact_rate": float((every > 0).mean()),
      "eval/one_fact_margin": float(every.mean()),
      "eval/cosine": float(scores.diagonal().mean()),
    } | {
      f"eval/one_fact_{kind}_rate": float((margin > 0).mean())
      for kind, margin in margins.items()
    }

  def _run(
    self, params: Any, pictures: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    batch = jax.device_put(self._batch | {"pictures": pictures})
    text, image = jax.device_get(self._embed(params, batch))
    return text, image
