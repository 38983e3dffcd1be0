"""Laws of pre-tokenizing: nothing lost, nothing stopped, nothing done twice."""

import dataclasses
import io
import json

import jax
import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from paradiff import sharding
from paradiff.data import coded
from paradiff.data import coding
from paradiff.data import encoding
from paradiff.data import pretokenize
from paradiff.data import tables
from paradiff.models import image_tokenizer as image_tokenizer_lib

NUM = 23
BAD = {3: "p/none.png", 7: "broken.png", 18: ""}


def _picture(seed, size):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (size[1], size[0], 3), np.uint8)


@pytest.fixture
def source(tmp_path):
  """Records of pictures of two aspects; three cannot be used."""
  root = tmp_path / "own"
  (root / "p").mkdir(parents=True)
  lines = []
  for i in range(NUM):
    size = (48, 32) if i % 3 else (32, 32)
    names = [f"p/{i}_{side}.png" for side in "ab"]
    for side, name in enumerate(names):
      picture = PIL.Image.fromarray(_picture((i, side), size))
      picture.save(root / name)
    if i in BAD:
      names[1] = BAD[i]
    lines.append(
      {
        "id": f"r{i}",
        "input_image": names[0] if i % 5 else "",
        "instruction": f"number {i}",
        "reasoning": f"it is {i}",
        "output_image": names[1],
      }
    )
  (root / "broken.png").write_bytes(b"x")
  path = root / "train.jsonl"
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  return path


def _encode(pictures):
  """A stand-in: a code is the sum of the bytes of its 16x16 pixels."""
  num, height, width = pictures.shape[:3]
  cells = pictures.reshape(num, height // 16, 16, width // 16, 16, 3)
  return cells.astype(np.int64).sum(axis=(2, 4, 5)) % 997


def _job(source, out, *, encode=_encode, **options):
  options = coding.Options(
    **{"picture_size": 32, "fit": "near", "shard_size": 5, **options}
  )
  table = tables.open_table(source)
  return coding.Job(
    out=out,
    table=table,
    options=options,
    encode=encode,
    codebook_size=997,
    identity={
      "records": table.digest,
      "options": dataclasses.asdict(options),
      "image_tokenizer": "stand-in",
    },
    batch_size=4,
    num_threads=3,
  )


def _run(job, **workers):
  return coding.run(job, stream=io.StringIO(), **workers)


def _check_rows(rows):
  good = [i for i in range(NUM) if i not in BAD]
  assert [row.id for row in rows] == [f"r{i}" for i in good]
  for i, row in zip(good, rows, strict=True):
    assert row.instruction == f"number {i}"
    assert row.reasoning == f"it is {i}"
    # Of about the area of 32x32 there is 32x32 alone: the centre is cut.
    size, left = ((48, 32), 8) if i % 3 else ((32, 32), 0)
    for side, codes in enumerate((row.source, row.target)):
      if side == 0 and i % 5 == 0:
        assert codes is None
        continue
      cut = _picture((i, side), size)[:, left : left + 32]
      np.testing.assert_array_equal(codes, _encode(cut[None])[0])


def test_every_record_is_coded_or_told_of(source, tmp_path):
  shapes = []

  def encode(pictures):
    shapes.append(pictures.shape)
    return _encode(pictures)

  out = tmp_path / "out"
  reports = _run(_job(source, out, encode=encode))
  assert set(shapes) == {(4, 32, 32, 3)}  # one shape a size: compiles once
  rows = coded.CodedSource(out)
  assert len(rows) == NUM - len(BAD)
  _check_rows([rows[i] for i in range(len(rows))])
  lines = (out / coding.SKIPPED).read_text().splitlines()
  skipped = [json.loads(line) for line in lines]
  assert [line["index"] for line in skipped] == sorted(BAD)
  assert [line["kind"] for line in skipped] == [
    "a picture must be there",
    "a picture must be readable",
    "a record must have an output picture",
  ]
  told = "\n".join(coding.summary(reports))
  assert "20 examples, 3 skipped" in told
  assert "record 7: a picture must be readable" in told


def test_tfds_reads_the_folder_as_any_dataset(source, tmp_path):
  _run(_job(source, tmp_path / "out", split="own"))
  builder = tfds.builder_from_directory(tmp_path / "out")
  assert builder.info.splits["own"].num_examples == NUM - len(BAD)
  row = builder.as_data_source("own")[2]
  assert row["instruction"] == b"number 2"
  assert len(builder.as_data_source("own[:5]")) == 5
  with pytest.raises(ValueError, match=r"split must be one of \['own'\]"):
    coded.CodedSource(tmp_path / "out")


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_any_number_of_workers_write_the_same(source, tmp_path, num_workers):
  _run(_job(source, tmp_path / "whole"))
  ends = [
    _run(_job(source, tmp_path / "out"), worker=w, num_workers=num_workers)
    for w in range(num_workers)
  ]
  assert [end is None for end in ends] == [True] * (num_workers - 1) + [False]
  _same(tmp_path / "out", tmp_path / "whole")


def _same(folder, other):
  names = sorted(path.name for path in other.iterdir() if path.is_file())
  assert names == sorted(p.name for p in folder.iterdir() if p.is_file())
  for name in names:
    assert (folder / name).read_bytes() == (other / name).read_bytes(), name


def test_a_stopped_job_goes_on_and_does_nothing_twice(source, tmp_path):
  _run(_job(source, tmp_path / "whole"))
  left = 3

  def failing(pictures):
    nonlocal left
    left -= 1
    if left < 0:
      raise KeyboardInterrupt
    return _encode(pictures)

  with pytest.raises(KeyboardInterrupt):
    _run(_job(source, tmp_path / "out", encode=failing))
  with pytest.raises(FileNotFoundError, match="must be a complete folder"):
    coded.CodedSource(tmp_path / "out")
  done = sorted((tmp_path / "out" / "reports").iterdir())
  assert 0 < len(done) < 5
  counts = []

  def counting(pictures):
    counts.append(len(pictures))
    return _encode(pictures)

  _run(_job(source, tmp_path / "out", encode=counting))
  _same(tmp_path / "out", tmp_path / "whole")
  first = len(counts)
  _run(_job(source, tmp_path / "out", encode=counting))
  assert len(counts) == first


def test_another_job_does_not_mix_in(source, tmp_path):
  _run(_job(source, tmp_path / "out"))
  with pytest.raises(ValueError, match="options.*seed"):
    _run(_job(source, tmp_path / "out", seed=1))
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "letter.txt").write_text("")
  with pytest.raises(ValueError, match="with other files"):
    _run(_job(source, tmp_path / "mine"))


def test_without_a_usable_record_there_is_no_dataset(source, tmp_path):
  source.write_text('{"instruction": "x"}\n{}\n')
  with pytest.raises(ValueError, match=r"(?s)got none.*2 skipped"):
    _run(_job(source, tmp_path / "out"))
  with pytest.raises(FileNotFoundError):
    coded.CodedSource(tmp_path / "out")
  source.write_text("\n")
  with pytest.raises(ValueError, match="must have records"):
    _run(_job(source, tmp_path / "empty"))


def test_a_random_crop_is_the_same_for_both_pictures(source, tmp_path):
  job = _job(source, tmp_path / "out", fit="square", random_crop=True, seed=3)
  starts = set()
  for i in (1, 2, 4, 11):
    draft = coding.load(job.table, job.options, 997, i)
    for side, cut in enumerate((draft.source, draft.target)):
      whole = _picture((i, side), (48, 32))
      (start,) = (
        left
        for left in range(17)
        if np.array_equal(whole[:, left : left + 32], cut)
      )
      starts.add((i, start))
  assert len(starts) == 4  # one a pair
  assert len({start for _, start in starts}) > 1


def test_squashed_pictures_keep_every_part(source, tmp_path):
  job = _job(source, tmp_path / "out", fit="squash")
  draft = coding.load(job.table, job.options, 997, 1)
  assert draft.target.shape == draft.source.shape == (32, 32, 3)
  with pytest.raises(ValueError, match="random_crop needs a fit that crops"):
    coding.Options(picture_size=32, fit="squash", random_crop=True)
  with pytest.raises(ValueError, match="fit must be one of"):
    coding.Options(picture_size=32, fit="stretch")


def test_published_records_are_taken_as_they_are(tmp_path):
  import pickle

  ids = [126_356 + i for i in range(6)]
  data = dict(input_ids=ids, length=6, height=48, width=32)
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "a.pkl").write_bytes(pickle.dumps(data))
  record = dict(
    user_prompt="x", user_image="", answer_text="", answer_image="a.pkl"
  )
  (tmp_path / "in" / "all_records.json").write_text(json.dumps([record] * 3))
  _run(_job(tmp_path / "in", tmp_path / "out"))
  rows = coded.CodedSource(tmp_path / "out")
  assert len(rows) == 3
  np.testing.assert_array_equal(rows[1].target, [[0, 1, 2], [3, 4, 5]])


CONFIG = image_tokenizer_lib.ImageTokenizerConfig(
  picture_size=32,
  code_bits=6,
  base_channels=4,
  encoder_multipliers=(1, 1, 1, 1),
  encoder_blocks=(1, 1, 1, 1),
  decoder_multipliers=(1, 1, 1, 1),
  decoder_blocks=(1, 1, 1, 1),
  norm_groups=2,
  mid_attention=False,
)


@pytest.mark.parametrize("num_devices", [1, 4])
def test_encoding_over_a_mesh_is_encoding(num_devices):
  params = image_tokenizer_lib.init(CONFIG, jax.random.key(0))
  mesh = sharding.make_mesh(data=num_devices)
  encode = encoding.make_encode(CONFIG, params, mesh=mesh)
  pictures = np.stack([_picture(i, (48, 32)) for i in range(4)])
  floats = image_tokenizer_lib.to_float(CONFIG, jax.numpy.asarray(pictures))
  codes = image_tokenizer_lib.encode(CONFIG, params, floats)
  np.testing.assert_array_equal(
    encode(pictures), np.asarray(codes).reshape(4, 4, 6)
  )


def test_scenes_come_out_as_they_are_drawn(tmp_path):
  job = pretokenize.make_job(
    source="scenes",
    out=str(tmp_path / "out"),
    image_tokenizer="micro",
    options={"shard_size": 8},
    scenes=(20, 5),
    batch_size=8,
  )
  assert job.batch_size % jax.device_count() == 0
  _run(job)
  rows = coded.CodedSource(tmp_path / "out")
  assert len(rows) == 20
  assert rows.facts["options"]["picture_size"] == 64
  from paradiff import pipeline as pipeline_lib
  from paradiff.data import pipeline as data_lib
  from paradiff.scenes import render

  model = pipeline_lib.ParallelPipeline.from_pretrained("micro")
  for i in (0, 7, 19):
    example = data_lib.ScenesSource(seed=5, size=20)[i]
    pictures = render.render(example.target)[None]
    np.testing.assert_array_equal(
      rows[i].target.reshape(1, -1), model.encode_pictures(pictures)
    )
    assert rows[i].instruction == example.prompt
    assert (rows[i].source is None) == (example.source is None)


def test_wrong_options_are_refused_before_anything_is_read():
  make = lambda **kw: pretokenize.make_job(  # noqa: E731
    **{
      "source": "scenes",
      "out": "unused",
      "image_tokenizer": "micro",
      "options": {},
      **kw,
    }
  )
  with pytest.raises(ValueError, match="multiples of 16, got"):
    make(options={"picture_size": 40})
  with pytest.raises(FileNotFoundError, match="nowhere"):
    make(image_tokenizer="nowhere")
  with pytest.raises(ValueError, match="must read part=name, got 'target'"):
    pretokenize.parse_fields(["source=a", "target"])
  with pytest.raises(ValueError, match="worker must lie in"):
    coding.run(make(), worker=2, num_workers=2, stream=io.StringIO())
