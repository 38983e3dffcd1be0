"""Laws of a workdir in an object store: whole files, nothing appended.

Checkpoints are Orbax's own affair; `test_gcs` has them.
"""

import itertools
import sys

import bucket
import miniature
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from experiments import common
from experiments import watch
from experiments.configs import sft_micro
from paradiff import metric_files
from paradiff import metrics
from paradiff import pipeline as pipeline_lib
from paradiff.data import caching
from paradiff.data import coded

ROOT = "bucket://runs/one"


@pytest.fixture(autouse=True)
def _empty_store():
  bucket.OBJECTS.clear()
  yield
  bucket.OBJECTS.clear()


def _names():
  return sorted(name.removeprefix("runs/one/") for name in bucket.OBJECTS)


def test_the_store_appends_nothing_and_hides_from_open():
  path = metric_files.epath.Path(ROOT) / "a"
  path.write_text("x")
  with pytest.raises(OSError, match="cannot be appended"):
    path.open("a")
  with pytest.raises(FileNotFoundError):
    open(path)


def test_lines_are_closed_parts_and_read_back_as_one():
  writer = metrics.Writer(ROOT)
  for step in (1, 2):
    writer.write_scalars(step, {"a": step})
  assert metrics.read(ROOT) == []  # gathered
  writer.flush()
  assert metrics.read(ROOT) == [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}]
  writer.write_scalars(3, {"a": 3})
  writer.close()
  assert [row["step"] for row in metrics.read(ROOT)] == [1, 2, 3]
  parts = [name for name in _names() if name.startswith("metrics/")]
  assert parts == ["metrics/00000.jsonl", "metrics/00001.jsonl"]
  assert not [name for name in _names() if name.endswith(".part")]


def test_a_part_is_written_every_few_seconds():
  now = itertools.count(step=4.0)
  parts = metric_files.Parts(ROOT, every_secs=10.0, clock=lambda: next(now))
  seen = []
  for step in range(1, 8):
    parts.add(metric_files.to_line({"step": step}))
    seen.append(len(metrics.read(ROOT)))
  assert seen == [0, 0, 3, 3, 3, 6, 6]


def test_a_run_goes_on_behind_its_checkpoint():
  writer = metrics.Writer(ROOT)
  for step in (1, 2, 3, 4):
    writer.write_scalars(step, {"a": step})
    writer.flush()
  writer = metrics.Writer(ROOT, resume_step=2)
  writer.write_scalars(3, {"a": -3})
  writer.close()
  rows = metrics.read(ROOT)
  assert [row["a"] for row in rows] == [1.0, 2.0, -3.0]
  metrics.Writer(ROOT).close()  # another run begins anew
  assert metrics.read(ROOT) == []


def test_tensorboard_reads_the_parts_as_one_run(tmp_path):
  writer = metrics.Writer(ROOT)
  for step in (1, 2, 3):
    writer.write_scalars(step, {"a": 10 * step})
    writer.flush()
  writer.close()
  for name in _names():
    if name.startswith("tensorboard/"):
      data = bucket.OBJECTS[f"runs/one/{name}"]
      (tmp_path / name.split("/")[1]).write_bytes(data)
  assert len(list(tmp_path.iterdir())) >= 3
  values = []
  for path in sorted(tmp_path.iterdir()):
    events = event_accumulator.EventAccumulator(str(path))
    events.Reload()
    if "a" in events.Tags()["scalars"]:
      values += [(e.step, e.value) for e in events.Scalars("a")]
  assert values == [(1, 10.0), (2, 20.0), (3, 30.0)]


def test_configs_samples_rows_and_models_go_there(tmp_path):
  common.check_workdir(ROOT)
  common.write_config(sft_micro.get_config(), ROOT)
  picture = np.zeros((8, 8, 3), np.uint8)
  watch.show(
    [(None, picture, picture)],
    [("a", "b", "c")],
    step=5,
    writer=metrics.Writer(ROOT),
  )
  made = caching.cached(f"{ROOT}/cache", "key", lambda: {"x": np.arange(3)})
  again = caching.cached(f"{ROOT}/cache", "key", lambda: {})
  np.testing.assert_array_equal(made["x"], again["x"])
  model = miniature.make_pipeline()
  model.save(f"{ROOT}/model")
  loaded = pipeline_lib.ParallelPipeline.from_pretrained(f"{ROOT}/model")
  assert loaded.variant == model.variant
  codes = np.zeros((4, 4), np.int32)
  row = coded.Coded("", "a", "b", None, codes)
  coded.write_shard(coded.shard_path(ROOT, "t", shard=0, num_shards=1), [row])
  assert set(_names()) >= {
    "config.json",
    "samples/0000005.png",
    "samples/0000005.txt",
    "cache/key.npz",
    "model/transformer.safetensors",
    "model/tokenizer.json",
    "paradiff-t.array_record-00000-of-00001",
  }


def test_a_store_without_its_package_is_refused_before_anything(monkeypatch):
  monkeypatch.setitem(sys.modules, "s3fs", None)
  with pytest.raises(ValueError, match="whose package is installed, got s3://"):
    common.check_workdir("s3://bucket/run")
