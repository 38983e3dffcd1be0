"""Laws of tables: every kind of file gives the same records by number."""

import json
from concurrent import futures

import pyarrow as pa
import pytest
from pyarrow import ipc
from pyarrow import parquet

from paradiff.data import records
from paradiff.data import tables

ROWS = [
  {"text": f"word {i} é", "image": {"bytes": bytes([i])}} for i in range(7)
]
PLAIN = [{"text": f"word {i} é"} for i in range(7)]


def _write(path, rows):
  match path.suffix:
    case ".jsonl":
      # An empty line and no line end at the end.
      path.write_text("\n\n".join(json.dumps(row) for row in rows))
    case ".json":
      path.write_text(json.dumps(rows))
    case ".parquet":
      parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    case ".arrow":
      table = pa.Table.from_pylist(rows)
      with ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)
  return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".arrow"])
def test_every_kind_gives_the_same_records(tmp_path, suffix):
  table = tables.open_table(_write(tmp_path / f"rows{suffix}", PLAIN))
  assert table.length == 7
  assert table.root == tmp_path
  order = [6, 0, 3, 2, 5, 1, 4]
  with futures.ThreadPoolExecutor(3) as pool:
    assert list(pool.map(table.get, order)) == [PLAIN[i] for i in order]
  for index in (-1, 7):
    with pytest.raises(IndexError, match=r"\[0, 7\)"):
      table.get(index)


def test_parquet_carries_pictures(tmp_path):
  table = tables.open_table(_write(tmp_path / "rows.parquet", ROWS))
  assert table.get(4)["image"]["bytes"] == bytes([4])


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow"])
def test_the_files_of_a_folder_are_one_table(tmp_path, suffix):
  (tmp_path / "data").mkdir()
  _write(tmp_path / "data" / f"train-00001-of-00002{suffix}", PLAIN[4:])
  _write(tmp_path / "data" / f"train-00000-of-00002{suffix}", PLAIN[:4])
  _write(tmp_path / "data" / f"test-00000-of-00001{suffix}", PLAIN[:1])
  (tmp_path / "dataset_info.json").write_text("{}")
  (tmp_path / "README.md").write_text("")
  table = tables.open_table(tmp_path)
  assert [table.get(i) for i in range(7)] == PLAIN
  assert table.root == tmp_path
  assert tables.open_table(tmp_path, split="test").length == 1
  with pytest.raises(ValueError, match="of the name dev, or of one name, got"):
    tables.open_table(tmp_path, split="dev")


def test_the_digest_follows_the_content(tmp_path):
  path = _write(tmp_path / "rows.jsonl", PLAIN)
  before = tables.open_table(path).digest
  assert tables.open_table(path).digest == before
  path.write_text(path.read_text().replace("word 3", "word 8"))
  assert tables.open_table(path).digest != before


def test_a_bad_line_is_bad_alone(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_text('{"text": "a"}\n{"text": \n[1]\n{"text": "b"}\n')
  table = tables.open_table(path)
  assert table.length == 4
  assert table.get(3) == {"text": "b"}
  with pytest.raises(records.BadRecord, match="a line must be JSON"):
    table.get(1)
  with pytest.raises(records.BadRecord, match="JSON object, got list"):
    table.get(2)


def test_what_is_no_table_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match="source must exist"):
    tables.open_table(tmp_path / "none.jsonl")
  (tmp_path / "x.csv").write_text("")
  with pytest.raises(ValueError, match="source must end in one of"):
    tables.open_table(tmp_path / "x.csv")
  with pytest.raises(ValueError, match=r"or of one name, got \[\]"):
    tables.open_table(tmp_path)
  _write(tmp_path / "a.jsonl", PLAIN)
  _write(tmp_path / "b.parquet", PLAIN)
  with pytest.raises(ValueError, match="name one of them"):
    tables.open_table(tmp_path)
  (tmp_path / "c.parquet").write_bytes(b"PAR1")
  with pytest.raises(ValueError, match="must be a Parquet file"):
    tables.open_table(tmp_path / "c.parquet")
  (tmp_path / "d.arrow").write_bytes(b"x")
  with pytest.raises(ValueError, match="must be an Arrow stream"):
    tables.open_table(tmp_path / "d.arrow")
  (tmp_path / "e.json").write_text("{}")
  with pytest.raises(ValueError, match="must hold a list of records, got dict"):
    tables.open_table(tmp_path / "e.json")


def test_a_dataset_of_the_hub_is_fetched(tmp_path, monkeypatch):
  import huggingface_hub

  _write(tmp_path / "train.parquet", PLAIN)
  calls = []

  def download(name, **options):
    calls.append((name, options))
    return str(tmp_path)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  table = tables.open_table("hf://datasets/owner/name@v1")
  assert table.get(2) == PLAIN[2]
  options = {"revision": "v1", "repo_type": "dataset"}
  assert calls == [("owner/name", {**options, "allow_patterns": ["*.parquet"]})]
  with pytest.raises(ValueError, match="source must read"):
    tables.open_table("hf://owner/name")

  def fail(*_, **__):
    raise OSError("no network")

  monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
  with pytest.raises(FileNotFoundError, match="no network"):
    tables.open_table("hf://datasets/owner/name")
