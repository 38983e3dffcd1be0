"""Examples of the scenes world to token rows: no encoder inside a train step.

A row is what the loss reads: prefix int32[P], prefix_valid bool[P] and answer
int32[A].
"""

from collections.abc import Callable, Sequence

import numpy as np

from paradiff import layout as layout_lib
from paradiff import vocab as vocab_lib
from paradiff.data import coded as coded_lib
from paradiff.data import text as text_lib
from paradiff.data import token_rows
from paradiff.scenes import render
from paradiff.scenes import rules

EncodePictures = Callable[[np.ndarray], np.ndarray]
OnProgress = Callable[[int, int], None]


def make(
  examples: Sequence[rules.Example],
  *,
  layout: layout_lib.Layout,
  vocab: vocab_lib.Vocab,
  text_tokenizer: text_lib.TextTokenizer,
  encode_pictures: EncodePictures,
  batch_size: int = 256,
  on_progress: OnProgress | None = None,
) -> dict[str, np.ndarray]:
  """Turn examples of the scenes world into token rows.

  Args:
    examples: M of them, drawn one by one.
    layout: the sizes.
    vocab: the ids.
    text_tokenizer: words to ids.
    encode_pictures: uint8[2 b, H, W, 3] to codes int[2 b, N]; always called
      with b = `batch_size`, so it compiles once.
    batch_size: examples a call.
    on_progress: called with (examples done, all examples) after each call.

  Returns:
    prefix int32[M, P], prefix_valid bool[M, P], answer int32[M, A].
  """
  rows: dict[str, list[np.ndarray]] = {}
  for first in range(0, len(examples), batch_size):
    stop = min(first + batch_size, len(examples))
    batch = [examples[i] for i in range(first, stop)]
    pictures = np.stack(
      [render.render(e.target) for e in batch]
      + [render.render(e.source or e.target) for e in batch]
    )
    missing = 2 * batch_size - len(pictures)
    filler = np.repeat(pictures[:1], missing, axis=0)
    codes = np.asarray(encode_pictures(np.concatenate([pictures, filler])))
    codes = codes.reshape(len(codes), *(layout.grid or ()))
    for i, example in enumerate(batch):
      has_source = example.source is not None
      row = token_rows.make(
        coded_lib.Coded(
          id="",
          instruction=example.prompt,
          reasoning=example.reasoning,
          source=codes[len(batch) + i] if has_source else None,
          target=codes[i],
        ),
        layout=layout,
        vocab=vocab,
        text_tokenizer=text_tokenizer,
      )
      for name, array in row.items():
        rows.setdefault(name, []).append(array)
    if on_progress is not None:
      on_progress(stop, len(examples))
  return {name: np.stack(arrays) for name, arrays in rows.items()}
