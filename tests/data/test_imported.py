"""Laws of the published pre-tokenizer's records: plain integers or nothing."""

import io
import os
import pickle

import numpy as np
import pytest

from paradiff.data import imported
from paradiff.data import records

OFFSET, CODES = 126_356, 8_192


def _pickle(ids, *, height=48, width=32, protocol=None):
  # `height` holds the width in pixels and `width` the height, as published.
  data = dict(input_ids=ids, length=len(ids), height=height, width=width)
  return pickle.dumps(data, protocol=protocol)


def _raw(**changes):
  return {
    "system_prompt": "",
    "user_prompt": "Make it blue.",
    "user_image": "files/0_0.pkl",
    "answer_text": "It is red.",
    "answer_image": "files/0_1.pkl",
    "id": 7,
    "len": 6,
    **changes,
  }


def _read(root, **changes):
  return imported.read(
    _raw(**changes), root=root, code_offset=OFFSET, codebook_size=CODES
  )


@pytest.fixture
def root(tmp_path):
  (tmp_path / "files").mkdir()
  for side in (0, 1):
    ids = [OFFSET + side + i for i in range(6)]
    (tmp_path / "files" / f"0_{side}.pkl").write_bytes(_pickle(ids))
  return tmp_path


def test_a_record_is_read(root):
  assert imported.is_published(_raw())
  assert not imported.is_published({"prompt": "x"})
  row = _read(root)
  assert (row.id, row.instruction) == ("7", "Make it blue.")
  assert row.reasoning == "It is red."
  np.testing.assert_array_equal(row.source, [[0, 1, 2], [3, 4, 5]])
  np.testing.assert_array_equal(row.target, [[1, 2, 3], [4, 5, 6]])
  assert _read(root, user_image="").source is None
  assert _read(root, answer_text="").reasoning == "Make it blue."


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_is_read(protocol):
  ids = [3, 70_000, 2**40]
  value = imported.unpickle(_pickle(ids, protocol=protocol))
  assert value["input_ids"] == ids
  assert value["height"] == 48


class _Evil:
  def __reduce__(self):
    return os.system, ("touch owned",)


class _Outside(pickle.Pickler):
  def persistent_id(self, obj):
    return "elsewhere" if obj == "x" else None


def test_a_pickle_runs_nothing(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
    with pytest.raises(ValueError, match="plain integers and strings"):
      imported.unpickle(pickle.dumps({"input_ids": _Evil()}, protocol))
  assert not list(tmp_path.iterdir())
  data = io.BytesIO()
  _Outside(data).dump(["x"])
  with pytest.raises(ValueError, match="PERSID"):
    imported.unpickle(data.getvalue())
  # Also where the opcodes were let through, no name is looked up.
  monkeypatch.setattr(
    imported, "_OPCODES", frozenset(o.name for o in pickle_opcodes())
  )
  with pytest.raises(ValueError, match=r"it asks for \w+\.system"):
    imported.unpickle(pickle.dumps(_Evil()))
  with pytest.raises(ValueError, match="outside"):
    imported.unpickle(data.getvalue())
  assert not list(tmp_path.iterdir())


def pickle_opcodes():
  import pickletools

  return pickletools.opcodes


def test_memory_is_not_taken_on_a_word():
  # A byte array of a stated terabyte, of which no byte is there.
  bomb = b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"."
  with pytest.raises(ValueError, match="plain integers"):
    imported.unpickle(bomb)
  with pytest.raises(ValueError, match="at most"):
    imported.unpickle(b"N" * (imported.MAX_BYTES + 1))


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"", "a pickle must be plain"),
    (_pickle([OFFSET] * 6)[:-9], "a pickle must be plain"),
    (pickle.dumps([1, 2]), "a pickle must hold"),
    (pickle.dumps({"input_ids": [1]}), "a pickle must hold"),
    (_pickle([OFFSET] * 5), "a token for each 16x16 pixels, got 5 for 48x32"),
    (_pickle([OFFSET] * 6, height=0), "a token for each 16x16"),
    (_pickle([OFFSET, "a"] * 3), "tokens must be integers"),
    (_pickle([OFFSET, True] * 3), "plain"),
    (_pickle([OFFSET - 1] * 6), "tokens must be picture codes"),
    (_pickle([OFFSET + CODES] * 6), "tokens must be picture codes"),
    (_pickle([2**90] * 6), "tokens must be picture codes"),
  ],
)
def test_what_is_no_picture_says_why(root, data, message):
  (root / "files" / "0_1.pkl").write_bytes(data)
  if message == "plain":
    message = "tokens must be integers"
  with pytest.raises(records.BadRecord, match=message):
    _read(root)


def test_a_record_without_its_parts_says_why(root):
  for changes, message in (
    ({"user_prompt": ""}, "instruction"),
    ({"answer_image": ""}, "output picture"),
    ({"answer_image": "files/none.pkl"}, "must be there"),
    ({"answer_image": "../x.pkl"}, "below"),
  ):
    with pytest.raises(records.BadRecord, match=message):
      _read(root, **changes)
