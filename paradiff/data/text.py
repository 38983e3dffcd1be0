"""Words to token ids and back.

`TextTokenizer` reads any folder with a `tokenizer.json`, a byte-level one of a
published model as well as the closed vocabulary that `build_word_tokenizer`
makes: there "Add a star, b2." becomes `add a star , b2 .`, one id each.
"""

import dataclasses
import difflib
import functools
import os
import tempfile
import typing
from collections.abc import Iterable, Sequence

from etils import epath

from paradiff.data import images

if typing.TYPE_CHECKING:
  import tokenizers
  import transformers

# The first ids of a word tokenizer, by the names of the published models.
SPECIAL_TOKENS = (
  "<|mdm_mask|>",
  "<|startoftext|>",
  "<|endoftext|>",
  "<|soi|>",
  "<|eoi|>",
  "<|interleave|>",
  "<|t2it|>",
)
_FILE = "tokenizer.json"
_MAX_NAMED = 8  # unknown words that one message lists
_BROKEN = "\N{REPLACEMENT CHARACTER}"  # for bytes that are no character


def _wrapper() -> "type[transformers.PreTrainedTokenizerFast]":
  """Import transformers: late, for it takes seconds."""
  # Without this it announces at each import that torch is missing.
  os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
  import transformers

  return transformers.PreTrainedTokenizerFast


@dataclasses.dataclass(frozen=True, eq=False)
class TextTokenizer:
  """A tokenizer that refuses what it cannot represent.

  Attributes:
    fast: the tokenizer of transformers that does the work.
  """

  fast: "transformers.PreTrainedTokenizerFast"

  @classmethod
  def load(cls, folder: epath.PathLike) -> "TextTokenizer":
    """Load the tokenizer of a folder, local or remote.

    Raises:
      FileNotFoundError: if the folder has no `tokenizer.json`.
      ValueError: if a file there is damaged, naming the folder.
    """
    source = epath.Path(folder)
    if not (source / _FILE).exists():
      raise FileNotFoundError(
        f"a tokenizer folder must hold {_FILE}, got {os.fspath(source)!r}"
      )
    wrapper = _wrapper()
    with tempfile.TemporaryDirectory() as local:
      for path in source.glob("*.json"):
        if "token" in path.name:
          (epath.Path(local) / path.name).write_bytes(path.read_bytes())
      try:
        return cls(wrapper.from_pretrained(local))
      except Exception as error:  # the parser raises bare exceptions
        raise ValueError(
          f"{os.fspath(source / _FILE)!r} must be a complete tokenizer, got: "
          f"{error}"
        ) from error

  def save(self, folder: epath.PathLike) -> None:
    """Write the tokenizer so that `load` and transformers read it."""
    target = epath.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as local:
      self.fast.save_pretrained(local)
      for path in epath.Path(local).iterdir():
        images.write_atomically(target / path.name, path.read_bytes())

  def __len__(self) -> int:
    """Return the number of ids, special ones included."""
    return len(self.fast)

  @functools.cached_property
  def ids(self) -> dict[str, int]:
    """The special tokens' ids by their strings."""
    added = self.fast.added_tokens_decoder
    return {token.content: i for i, token in added.items() if token.special}

  @functools.cached_property
  def _added(self) -> dict[int, str]:
    """Every token that was added to the words, special or not, by its id."""
    added = self.fast.added_tokens_decoder
    return {i: token.content for i, token in added.items()}

  def encode(self, text: str, *, max_len: int | None = None) -> list[int]:
    """Turn a text into ids, without special tokens around it.

    Args:
      text: at least one word, all of them known.
      max_len: the most tokens that there is room for.

    Returns:
      Ids in [0, len(self)), none of them special.

    Raises:
      ValueError: if the text is empty, too long, not Unicode, or has special
        tokens or words that the tokenizer lacks, naming them.
    """
    return self._fitting(self._checked(text), text, max_len)

  def encode_between(
    self, words: str, text: str, *, max_len: int | None = None
  ) -> list[int]:
    """Turn a text between fixed words, special tokens of theirs included.

    Args:
      words: what a model was trained to see around a text, which takes the
        place of `{prompt}`.
      text: as `encode` takes it.
      max_len: the most tokens that there is room for, `words` included.

    Raises:
      ValueError: as `encode`.
    """
    self._checked(text)
    whole = words.replace("{prompt}", text)
    ids = self.fast.encode(whole, add_special_tokens=False)
    return self._fitting(ids, text, max_len)

  def encode_marked(self, words: str) -> list[int]:
    """Turn fixed words into ids, special tokens of theirs included."""
    return list(self.fast.encode(words, add_special_tokens=False))

  def _checked(self, text: str) -> list[int]:
    """Return the ids of a text; refuse what would read as more than words."""
    if not isinstance(text, str):
      raise TypeError(f"text must be a string, got {type(text).__name__}")
    if not text.strip():
      raise ValueError(f"text must have at least one word, got {text!r}")
    try:
      text.encode()
    except UnicodeEncodeError as error:
      raise ValueError(f"text must be Unicode, got {text!r}") from error
    special = [token for token in self.ids if token in text]
    if special:
      raise ValueError(f"text must have no special tokens, got {special}")
    unknown = self._unknown(text)
    if unknown:
      raise ValueError(self._unknown_message(unknown))
    # Also what only reads as a mark once it is normalised, and marks that the
    # file does not call special.
    ids = self.fast.encode(text, add_special_tokens=False)
    marks = [self._added[i] for i in dict.fromkeys(ids) if i in self._added]
    if marks:
      raise ValueError(f"text must have no special tokens, got {marks}")
    return list(ids)

  def _fitting(
    self, ids: list[int], text: str, max_len: int | None
  ) -> list[int]:
    """Return the ids, or refuse more than there is room for."""
    if max_len is not None and len(ids) > max_len:
      raise ValueError(
        f"text must have at most {max_len} tokens, got {len(ids)}: "
        f"{_shorten(text)!r}"
      )
    return ids

  def decode(self, ids: Sequence[int]) -> str:
    """Turn ids into text; special ids leave no trace.

    Raises:
      ValueError: if an id is not in [0, len(self)).
    """
    wrong = [int(i) for i in ids if not 0 <= i < len(self)]
    if wrong:
      raise ValueError(f"text ids must be in [0, {len(self)}), got {wrong}")
    decoded = self.fast.decode([int(i) for i in ids], skip_special_tokens=True)
    return typing.cast(str, decoded)

  @functools.cached_property
  def has_own_spaces(self) -> bool:
    """Whether tokens bring the spaces between words, as bytes do."""
    decoder = self.fast.backend_tokenizer.decoder
    return decoder is not None and decoder.decode(["a", "b"]) == "ab"

  def pieces(self, ids: Sequence[int | None]) -> tuple[str | None, ...]:
    """Turn ids into text one by one; None stays None.

    With `has_own_spaces` the pieces of a text without None join to its
    `decode`: a character whose bytes are spread over several ids is the piece
    of the last of them. Beside a None half a character is left out.

    Raises:
      ValueError: as `decode`.
    """
    if not self.has_own_spaces:
      return tuple(None if i is None else self.decode([i]) for i in ids)
    pieces: list[str | None] = []
    open_ids: list[int] = []  # since the last whole character
    num_shown = 0  # characters of them that are in `pieces`
    for i, following in zip(ids, [*ids, None][1:], strict=True):
      if i is None:
        pieces.append(None)
        continue
      open_ids.append(i)
      text = self.decode(open_ids)
      is_open = text.endswith(_BROKEN) and following is not None
      whole = text[:-1] if is_open else text
      pieces.append(whole[num_shown:])
      num_shown = len(whole) if is_open else 0
      open_ids = open_ids if is_open else []
    if None in pieces:
      return tuple(p and p.replace(_BROKEN, "") for p in pieces)
    return tuple(pieces)

  def _unknown(self, text: str) -> list[str]:
    """Return the pieces of `text` that have no id, each once, in order."""
    backend = self.fast.backend_tokenizer
    if backend.normalizer is not None:
      text = backend.normalizer.normalize_str(text)
    pieces = [text]
    if backend.pre_tokenizer is not None:
      split = backend.pre_tokenizer.pre_tokenize_str(text)
      pieces = [piece for piece, _ in split]
    unk_id = self.fast.unk_token_id

    def is_known(piece: str) -> bool:
      try:
        tokens = backend.model.tokenize(piece)
      except Exception:  # a closed vocabulary raises a bare exception
        return False
      return bool(tokens) and all(token.id != unk_id for token in tokens)

    return [piece for piece in dict.fromkeys(pieces) if not is_known(piece)]

  def _unknown_message(self, unknown: list[str]) -> str:
    """Say which words are unknown, each with the known one nearest to it."""
    known = sorted(set(self.fast.get_vocab()) - set(self.ids))
    named = []
    for piece in unknown[:_MAX_NAMED]:
      near = difflib.get_close_matches(piece, known, n=1)
      hint = f" (perhaps {near[0]!r})" if near else ""
      named.append(f"{_shorten(piece)!r}{hint}")
    rest = len(unknown) - len(named)
    return (
      f"text must be made of the {len(known)} words that the tokenizer knows, "
      f"got {', '.join(named)}{f' and {rest} more' if rest else ''}"
    )


def wrap(tokenizer: "tokenizers.Tokenizer") -> TextTokenizer:
  """Name the special tokens of a tokenizer that has `SPECIAL_TOKENS`."""
  mask, start, end = SPECIAL_TOKENS[:3]
  return TextTokenizer(
    _wrapper()(
      tokenizer_object=tokenizer,
      bos_token=start,
      eos_token=end,
      pad_token=end,
      mask_token=mask,
    )
  )


def _shorten(text: str, width: int = 60) -> str:
  """Cut what a message quotes."""
  return text if len(text) <= width else f"{text[: width - 3]}..."


def build_word_tokenizer(
  words: Iterable[str],
) -> "transformers.PreTrainedTokenizerFast":
  """Make a tokenizer with one id a word and one a punctuation mark.

  Upper case is read as lower case; words are split at spaces and around every
  punctuation mark. There is no unknown token: other words cannot be encoded.

  Args:
    words: lower-case words and punctuation marks, each once.

  Returns:
    A tokenizer with `SPECIAL_TOKENS` first and then the words in their order.

  Raises:
    ValueError: if a word occurs twice or would be split or changed.
  """
  import tokenizers
  from tokenizers import decoders
  from tokenizers import models
  from tokenizers import normalizers
  from tokenizers import pre_tokenizers

  words = tuple(words)
  if len(set(words)) != len(words):
    twice = sorted({word for word in words if words.count(word) > 1})
    raise ValueError(f"words must be distinct, got {twice} more than once")
  tokens = (*SPECIAL_TOKENS, *words)
  ids = {token: i for i, token in enumerate(tokens)}
  tokenizer = tokenizers.Tokenizer(models.WordLevel(ids))
  tokenizer.normalizer = normalizers.Sequence(
    [normalizers.NFKC(), normalizers.Lowercase()]
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
  )
  # Every token gets a space before it; the clean-up takes it from . , ? and !
  tokenizer.decoder = decoders.Sequence(
    [
      decoders.WordPiece(prefix="##", cleanup=True),
      decoders.Replace(" :", ":"),
      decoders.Replace(" ;", ";"),
    ]
  )
  for word in words:
    normal = tokenizer.normalizer.normalize_str(word)
    pieces = tokenizer.pre_tokenizer.pre_tokenize_str(normal)
    if [piece for piece, _ in pieces] != [word]:
      raise ValueError(
        f"a word must be lower case and one piece, got {word!r}, which reads "
        f"as {[piece for piece, _ in pieces]}"
      )
  tokenizer.add_special_tokens(
    [
      tokenizers.AddedToken(token, special=True, normalized=False)
      for token in SPECIAL_TOKENS
    ]
  )
  return wrap(tokenizer).fast
