"""Train a byte-level text tokenizer on own instructions and reasonings.

  python -m paradiff.data.train_words --source=DIR/train.jsonl --out=NEW

Byte pairs (Sennrich et al., arXiv 1508.07909) over bytes: nothing that is
typed later is unknown, only longer. The special tokens that a model of ours
needs come first, with --family those of a published family. What is printed
says how long texts become, which is what `layout.prompt_len` and
`layout.text_len` of a model must have room for.
"""

import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

import numpy as np
from absl import app
from absl import flags

from paradiff import metrics
from paradiff import published
from paradiff.data import pretokenize
from paradiff.data import records
from paradiff.data import tables
from paradiff.data import text as text_lib
from paradiff.data import token_rows

_NUM_BYTES = 256  # each is a token
_PERCENTILES = (50, 99, 100)
_MARK = re.compile(r"</?\w+>|<\|\w+\|>")
_GAP = re.compile(_MARK.pattern + r"|\{prompt\}|\s*\n\s*")


def of_family(family: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Return the special tokens of a model's texts, and the words around them.

  Args:
    family: a name in `published.WITH_PICTURES`; None for the small models,
      which see an instruction and nothing around it.

  Raises:
    ValueError: if there is no such family.
  """
  if family is None:
    return text_lib.SPECIAL_TOKENS, ()
  if family not in published.WITH_PICTURES:
    raise ValueError(
      f"family must be one of {sorted(published.WITH_PICTURES)}, got {family!r}"
    )
  variant = published.WITH_PICTURES[family]
  words = [w for t in variant.tasks for w in (t.prompt, t.null_prompt) if w]
  found = (
    *published.marks_of(variant).values(),
    *_MARK.findall("".join(words)),
  )
  first = text_lib.SPECIAL_TOKENS[:3]
  plain = {part for text in words for part in _GAP.split(text)} - {""}
  return tuple(dict.fromkeys((*first, *found))), tuple(sorted(plain))


def train(
  texts: Iterable[str],
  *,
  size: int,
  special: Sequence[str] = text_lib.SPECIAL_TOKENS,
) -> text_lib.TextTokenizer:
  """Return a tokenizer whose pairs are the frequent ones of the texts.

  Args:
    texts: what to learn from.
    size: the most ids, special tokens and bytes included.
    special: the special tokens.

  Raises:
    ValueError: if there is no room for all bytes.
  """
  least = len(special) + _NUM_BYTES
  if size < least:
    raise ValueError(f"size must be at least {least}, got {size}")
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
      special_tokens=list(special),
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
  texts: Sequence[str],
  tokenizer: text_lib.TextTokenizer,
  *,
  around: str = token_rows.PLAIN,
) -> tuple[int, ...]:
  """Return tokens of the median text, the 99th percentile and the longest.

  Args:
    texts: to measure.
    tokenizer: words to ids.
    around: words that a model sees around each, which count too.
  """
  counts = [len(tokenizer.encode_between(around, words)) for words in texts]
  return tuple(int(x) for x in np.percentile(counts, _PERCENTILES))


def define_flags() -> None:
  """Define the flags: late, for modules may share names."""
  text = flags.DEFINE_string
  text("source", None, "Records, as pretokenize takes them.", required=True)
  text("out", None, "Folder to write.", required=True)
  flags.DEFINE_integer("size", 1_024, "The most ids.")
  text("family", None, "For a model of a published family: parallel_a, ...")
  flags.DEFINE_list("fields", [], "Names of a record's parts: instruction=ask.")


def main(argv: Sequence[str]) -> None:
  """Do as the flags say."""
  if len(argv) > 1:
    raise app.UsageError(f"arguments must be flags, got {argv[1:]}")
  values = flags.FLAGS
  try:
    fields = pretokenize.parse_fields(values.fields)
    records.check_fields(fields)
    special, around = of_family(values.family)
    table = tables.open_table(values.source)
    pairs = list(read_texts(table, fields=fields, stream=sys.stderr))
    if not pairs:
      raise ValueError("records must have an instruction, got none that has")
    # The words around instructions are in every record that a model learns.
    read = itertools.chain(*pairs, around * len(pairs))
    tokenizer = train(read, size=values.size, special=special)
    tokenizer.save(values.out)
  except (ValueError, OSError) as error:
    sys.exit(f"error: {error}")
  sys.stderr.write(f"{len(tokenizer)} ids from {len(pairs)} records\n")
  prompt = token_rows.PLAIN
  if values.family is not None:
    prompt = published.WITH_PICTURES[values.family].tasks[0].prompt
  for name, texts, words in zip(
    ("instruction", "reasoning"),
    zip(*pairs, strict=True),
    (prompt, token_rows.PLAIN),
    strict=True,
  ):
    half, most, longest = lengths(texts, tokenizer, around=words)
    sys.stderr.write(
      f"tokens of {name}: {half} in the median, {most} at 99 %, {longest} in "
      "the longest\n"
    )
  sys.stdout.write(f"{values.out}\n")


if __name__ == "__main__":
  define_flags()
  app.run(main)
