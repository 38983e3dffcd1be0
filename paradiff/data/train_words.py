"""Train a byte-level text tokenizer on own instructions and reasonings.

  python -m paradiff.data.train_words --source=DIR/train.jsonl --out=NEW

Byte pairs (Sennrich et al., arXiv 1508.07909) over bytes: nothing that is
typed later is unknown, only longer. The special tokens that a model of ours
needs come first. What is printed says how long texts become, which is what
`layout.prompt_len` and `layout.text_len` of a model must have room for.
"""

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

import numpy as np
from absl import app
from absl import flags

from paradiff import metrics
from paradiff.data import pretokenize
from paradiff.data import records
from paradiff.data import tables
from paradiff.data import text as text_lib

MIN_SIZE = len(text_lib.SPECIAL_TOKENS) + 256  # a token for every byte
_PERCENTILES = (50, 99, 100)


def train(texts: Iterable[str], *, size: int) -> text_lib.TextTokenizer:
  """Return a tokenizer whose pairs are the frequent ones of the texts.

  Args:
    texts: what to learn from.
    size: the most ids, special tokens and bytes included.

  Raises:
    ValueError: if there is no room for all bytes.
  """
  if size < MIN_SIZE:
    raise ValueError(f"size must be at least {MIN_SIZE}, got {size}")
  import tokenizers
  from tokenizers import decoders
  from tokenizers import models
  from tokenizers import normalizers
  from tokenizers import pre_tokenizers
  from tokenizers import trainers

  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.normalizer = normalizers.NFC()
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.train_from_iterator(
    texts,
    trainers.BpeTrainer(
      vocab_size=size,
      special_tokens=list(text_lib.SPECIAL_TOKENS),
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
  )
  return text_lib.wrap(tokenizer)


def read_texts(
  table: tables.Table, *, fields: dict[str, str], stream: TextIO
) -> Iterator[tuple[str, str]]:
  """Yield instruction and reasoning of all records that have them."""
  progress = metrics.Progress(table.length, stream=stream, what="text")
  for index in range(table.length):
    try:
      yield records.read_words(table.get(index), fields=fields)
    except records.BadRecord:
      continue
    finally:
      progress.update(index + 1)
  progress.close()


def lengths(
  texts: Sequence[str], tokenizer: text_lib.TextTokenizer
) -> tuple[int, ...]:
  """Return tokens of the median text, the 99th percentile and the longest."""
  counts = [len(tokenizer.encode(words)) for words in texts]
  return tuple(int(x) for x in np.percentile(counts, _PERCENTILES))


def define_flags() -> None:
  """Define the flags: late, for modules may share names."""
  text = flags.DEFINE_string
  text("source", None, "Records, as pretokenize takes them.", required=True)
  text("out", None, "Folder to write.", required=True)
  flags.DEFINE_integer("size", 1_024, "The most ids.")
  flags.DEFINE_list("fields", [], "Names of a record's parts: instruction=ask.")


def main(argv: Sequence[str]) -> None:
  """Do as the flags say."""
  if len(argv) > 1:
    raise app.UsageError(f"arguments must be flags, got {argv[1:]}")
  values = flags.FLAGS
  try:
    fields = pretokenize.parse_fields(values.fields)
    records.check_fields(fields)
    table = tables.open_table(values.source)
    pairs = list(read_texts(table, fields=fields, stream=sys.stderr))
    if not pairs:
      raise ValueError("records must have an instruction, got none that has")
    tokenizer = train(itertools.chain(*pairs), size=values.size)
    tokenizer.save(values.out)
  except (ValueError, OSError) as error:
    sys.exit(f"error: {error}")
  sys.stderr.write(f"{len(tokenizer)} ids from {len(pairs)} records\n")
  for name, texts in zip(
    ("instruction", "reasoning"), zip(*pairs, strict=True), strict=True
  ):
    half, most, longest = lengths(texts, tokenizer)
    sys.stderr.write(
      f"tokens of {name}: {half} in the median, {most} at 99 %, {longest} in "
      "the longest\n"
    )
  sys.stdout.write(f"{values.out}\n")


if __name__ == "__main__":
  define_flags()
  app.run(main)
