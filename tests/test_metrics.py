"""Laws of the averages, the metrics file and the progress display."""

import io
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from paradiff import metric_files
from paradiff import metrics


def test_window_averages_and_starts_anew():
  window = metrics.Window()
  for loss in (1.0, 2.0, 6.0):
    window.add({"train/loss": jnp.float32(loss)})
  assert window.take() == {"train/loss": 3.0}
  window.add({"train/loss": jnp.float32(5.0)})
  assert window.take() == {"train/loss": 5.0}


def test_scalars_of_one_step_share_a_line(tmp_path):
  writer = metrics.Writer(tmp_path)
  writer.write_scalars(1, {"a": 1.0})
  writer.write_scalars(1, {"b": np.float32(2.0)})
  writer.write_scalars(2, {"a": 3.0})
  writer.close()
  assert metrics.read(tmp_path) == [
    {"step": 1, "a": 1.0, "b": 2.0},
    {"step": 2, "a": 3.0},
  ]


def test_steps_must_ascend(tmp_path):
  writer = metrics.Writer(tmp_path)
  writer.write_scalars(3, {"a": 1.0})
  writer.flush()
  with pytest.raises(ValueError, match="step 3 after step 3"):
    writer.write_scalars(3, {"a": 1.0})


def test_resume_drops_later_and_half_written_lines(tmp_path):
  lines = [json.dumps({"step": s, "a": float(s)}) for s in (1, 2, 3, 4)]
  path = tmp_path / metric_files.FILE_NAME
  path.write_text("\n".join(lines) + '\n{"step": 5, "a"')
  writer = metrics.Writer(tmp_path, resume_step=2)
  assert [row["step"] for row in metrics.read(tmp_path)] == [1, 2]
  writer.write_scalars(3, {"a": 3.0})
  writer.close()
  assert [row["step"] for row in metrics.read(tmp_path)] == [1, 2, 3]
  metrics.Writer(tmp_path).close()
  assert metrics.read(tmp_path) == []


def test_a_damaged_line_is_named(tmp_path):
  path = tmp_path / metric_files.FILE_NAME
  path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
  with pytest.raises(ValueError, match=r"metrics\.jsonl.*'nonsense.*line 2"):
    metrics.Writer(tmp_path, resume_step=2)


def test_tensorboard_gets_every_kind(tmp_path):
  writer = metrics.Writer(tmp_path)
  writer.write_hparams({"optim/learning_rate": 0.1})
  writer.write_scalars(1, {"train/loss": 2.0})
  picture = np.zeros((2, 8, 8, 3), np.uint8)
  writer.write_images(1, {"grid": picture, "one": picture[0]})
  writer.write_texts(1, {"note": "hello"})
  writer.write_histograms(1, {"weights": np.arange(10.0)})
  writer.close()
  events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
  events.Reload()
  tags = events.Tags()
  assert tags["scalars"] == ["train/loss"]
  assert set(tags["images"]) == {"grid", "one"}
  assert tags["histograms"] == ["weights"]
  assert {"note/text_summary", "hparams/text_summary"} <= set(tags["tensors"])


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def test_progress_tells_speed_and_time_left():
  seconds = iter(range(0, 1000, 2))
  stream = io.StringIO()
  progress = metrics.Progress(
    100, stream=stream, every_secs=4.0, clock=lambda: float(next(seconds))
  )
  for step, loss in ((1, math.nan), (2, 0.5), (3, 0.5), (4, 0.5)):
    progress.update(step, loss=loss)
  progress.close()
  assert stream.getvalue().splitlines() == [
    "step 0/100",
    "step 2/100  0.5/s  3m16s left  loss 0.5",
    "step 4/100  0.5/s  3m12s left  loss 0.5",
  ]


def test_progress_redraws_one_line_on_a_terminal():
  seconds = iter(range(1000))
  stream = _Terminal()
  progress = metrics.Progress(
    2, stream=stream, clock=lambda: float(next(seconds))
  )
  progress.update(1)
  progress.update(2)
  progress.close()
  text = stream.getvalue()
  assert text.count("\r") == 3
  assert text.count("\n") == 1
  assert text.endswith("\n")


def test_format_secs_reads_naturally():
  got = [metrics.format_secs(s) for s in (-1.0, 45.2, 185.0, 7620.0)]
  assert got == ["0s", "45s", "3m05s", "2h07m"]
