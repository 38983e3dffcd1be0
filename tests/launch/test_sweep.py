"""Sweeps: what a config declares is checked, numbered, run and compared."""
# mypy: disallow-untyped-defs=False

import io
import os
import pathlib
import signal
import subprocess
import sys
import time

import launched
import mini_sft
import pytest

from experiments import common
from launch import compare
from launch import runs
from launch import sweep
from paradiff import metrics

CONFIG = "tests/mini_sft.py"
STEPS = "--config.num_steps=160"  # of the runs that are really run
HEAD = """
import ml_collections


def get_config(what="x"):
  config = ml_collections.ConfigDict()
  config.variant = "micro"
  config.image_tokenizer = what
  config.num_steps = 4
  config.seed = 0
  config.optim = dict(learning_rate=1e-3)
  config.data = dict(size=8)
  return config


"""


def _file(tmp_path, body):
  path = tmp_path / "config.py"
  path.write_text(HEAD + body)
  return str(path)


def _read(tmp_path, body, *overrides):
  path = _file(tmp_path, f"def sweep(add):\n  {body}\n")
  return sweep.read("sft", path, str(tmp_path / "root"), overrides)


def test_a_run_is_the_command_with_its_changes(tmp_path):
  found = _read(tmp_path, 'add({"optim.learning_rate": 0.5, "seed": 3})')
  assert found.command(0) == [
    *(sys.executable, "-m", "experiments.sft"),
    f"--config={tmp_path}/config.py",
    "--config.optim.learning_rate=0.5",
    "--config.seed=3",
    f"--workdir={tmp_path}/root/000",
  ]
  with pytest.raises(IndexError, match=r"index must lie in \[0, 1\).*got 1"):
    found.command(1)


def test_a_config_may_take_an_argument(tmp_path):
  path = _file(tmp_path, 'def sweep(add):\n  add({"num_steps": 5})\n')
  found = sweep.read("sft", f"{path}:y", str(tmp_path))
  assert f"--config={path}:y" in found.command(0)


@pytest.mark.parametrize(
  ("body", "message"),
  [
    ('add({"optim.learning_rat": 1.0})', "run 0 .*learning_rate"),
    ('add({"optim.learning_rate": "fast"})', "run 0 .*learning_rate"),
    ('add({"num_steps": 2}); add({"num_steps": 2.5})', "run 1 .*num_steps"),
    ('add({"optim": dict(learning_rate=1.0)})', "must be numbers, words"),
    ('add({"num_steps": 2}); add({"num_steps": 2})', "must differ"),
    ("pass", "must add a run"),
  ],
)
def test_a_wrong_run_is_refused_by_name_before_any_starts(
  tmp_path, body, message
):
  with pytest.raises(ValueError, match=message):
    _read(tmp_path, body)
  assert not (tmp_path / "root").exists()


def test_an_override_is_of_every_run(tmp_path):
  body = 'add({"seed": 1}); add({"seed": 2})'
  words = ("--config.num_steps=10", "--config.optim.learning_rate=0.5")
  found = _read(tmp_path, body, *words)
  for index in (0, 1):
    assert found.command(index)[4:7] == [*words, f"--config.seed={index + 1}"]
  runs.write(found)
  with pytest.raises(ValueError, match=r"sweep\.json must hold this sweep"):
    runs.write(_read(tmp_path, body))


@pytest.mark.parametrize(
  ("word", "message"),
  [
    ("--config.seed=3", r"does not vary, got \['seed'\]"),
    ("--config.num_step=3", "num_step"),
    ("--config.num_steps=three", "num_steps"),
    ("--config.num_steps=2.5", "num_steps"),
    ("--config.optim.rate=2.5", "rate"),
    ("--config.num_steps", "num_steps"),
    ("num_steps=3", r"must be --config\.x=y, got \['num_steps=3'\]"),
  ],
)
def test_a_wrong_override_is_refused(tmp_path, word, message):
  with pytest.raises(ValueError, match=message):
    _read(tmp_path, 'add({"seed": 1})', "--config.variant=micro", word)


@pytest.mark.parametrize(
  ("change", "overrides"),
  [
    ('"loss.text_weight": "none"', ()),
    ('"seed": 1', ("--config.loss.text_weight=none",)),
  ],
)
def test_a_value_out_of_range_is_refused_too(tmp_path, change, overrides):
  config = pathlib.Path(CONFIG).read_text().split("def sweep")[0]
  path = tmp_path / "mini.py"
  path.write_text(f"{config}def sweep(add):\n  add({{{change}}})\n")
  with pytest.raises(ValueError, match="run 0 .*text_weight must be one of"):
    sweep.read("sft", str(path), str(tmp_path / "root"), overrides)


def test_the_plan_shows_the_overrides(tmp_path):
  path = _file(tmp_path, 'def sweep(add):\n  add({"seed": 1})\n')
  done = subprocess.run(
    [
      *(sys.executable, "-m", "launch.sweep", "--experiment=sft"),
      *(f"--config={path}", f"--workdir={tmp_path}", "--config.num_steps=10"),
    ],
    cwd=launched.ROOT,
    env=launched.environment(tmp_path),
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  assert "--config.num_steps=10 --config.seed=1 --workdir=" in done.stdout


def test_a_file_without_a_sweep_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r"must define sweep\(add\)"):
    sweep.read("sft", _file(tmp_path, ""), str(tmp_path))
  with pytest.raises(FileNotFoundError, match="must be a Python file"):
    sweep.read("sft", str(tmp_path / "none.py"), str(tmp_path))
  with pytest.raises(ValueError, match="experiment must be one of"):
    sweep.read("stf", CONFIG, str(tmp_path))


@pytest.mark.parametrize("name", sweep.INDEX_VARIABLES)
def test_every_engine_hands_over_a_number(name):
  assert sweep.index_of({name: "3"}) == 3
  assert sweep.index_of({}) is None
  other = {n: "4" for n in sweep.INDEX_VARIABLES if n != name}
  with pytest.raises(ValueError, match="must have one number"):
    sweep.index_of({name: "3", **other})


def test_a_folder_holds_one_sweep(tmp_path):
  one = _read(tmp_path, 'add({"num_steps": 5})')
  runs.write(one)
  runs.write(one)
  other = _read(tmp_path, 'add({"num_steps": 6})')
  with pytest.raises(ValueError, match=r"sweep\.json must hold this sweep"):
    runs.write(other)


class Stub(runs.Sweep):
  """Runs of a line of Python each."""

  def command(self, index):
    return [sys.executable, "-c", self.runs[index]["code"]]


def _local(tmp_path, codes, parallel=1):
  lines = tuple({"code": code} for code in codes)
  stub = Stub("sft", "none.py", str(tmp_path), lines)
  stream = io.StringIO()
  return runs.Local(stub, parallel, stream), stream


def test_a_failed_run_stops_no_other_and_is_done_again(tmp_path):
  flag = tmp_path / "flag"
  fickle = f"import os, sys; sys.exit(0 if os.path.exists('{flag}') else 5)"
  codes = (fickle, f"open('{tmp_path}/ran', 'a').write('x')")
  local, stream = _local(tmp_path, codes)
  assert local.run() == {0: 5, 1: 0}
  assert f"run 0 left with code 5, see {tmp_path}/000/log.txt" in (
    stream.getvalue()
  )
  flag.write_text("")
  again, stream = _local(tmp_path, codes)
  assert again.run() == {0: 0}
  assert "1 of 2 runs to do" in stream.getvalue()
  assert (tmp_path / "ran").read_text() == "x"


def test_as_many_run_at_a_time_as_are_asked_for(tmp_path):
  code = (
    "import os, pathlib, time\n"
    f"root = pathlib.Path('{tmp_path}')\n"
    "(root / f'on{os.getpid()}').touch()\n"
    "seen = len(list(root.glob('on*')))\n"
    "(root / 'seen').open('a').write(f'{seen}\\n')\n"
    "time.sleep(1.0)\n"
    "(root / f'on{os.getpid()}').unlink()\n"
  )
  local, _ = _local(tmp_path, [code] * 4, parallel=2)
  assert set(local.run().values()) == {0}
  assert max(map(int, (tmp_path / "seen").read_text().split())) == 2
  with pytest.raises(ValueError, match="parallel must be at least 1"):
    _local(tmp_path, ["pass"], parallel=0)


def _start(root, *flags):
  log = pathlib.Path(f"{root}.log").open("a")
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "launch.sweep", "--experiment=sft"),
      *(f"--config={CONFIG}", f"--workdir={root}", *flags),
    ],
    cwd=launched.ROOT,
    env=launched.environment(root.parent),
    stdout=log,
    stderr=log,
  )


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
  """Four runs of a sweep; it was told to stop while the first one ran."""
  root = tmp_path_factory.mktemp("sweep") / "root"
  tokenizer = root.parent / "tokenizer"
  mini_sft.write_image_tokenizer(tokenizer)
  text = (launched.ROOT / CONFIG).read_text()
  config = root.parent / "config.py"
  # Long enough to be stopped: a notice may take a second.
  text = text.replace(
    'config.image_tokenizer = ""', f'config.image_tokenizer = "{tokenizer}"'
  ).replace("batch_size = 8", "batch_size = 64")
  config.write_text(text)
  flags = (f"--config={config}", "--local", STEPS)
  process = _start(root, *flags)
  first = launched.signal_when(
    process, lambda: launched.last_step(root / "000") >= 4, signal.SIGTERM
  )
  begun = sorted(path.name for path in root.iterdir() if path.is_dir())
  second = _start(root, *flags, "--parallel=2").wait(timeout=600)
  return root, first, begun, second


def test_a_sweep_that_is_told_to_stop_goes_on_where_it_was(swept):
  root, first, begun, second = swept
  assert (first, second) == (143, 0)
  assert begun == ["000"]  # nothing new was begun
  log = (root / "000" / "log.txt").read_text()
  assert "told to stop, saved step" in log and "resuming at step" in log
  for index in range(4):
    folder = runs.folder(root, index)
    assert (folder / common.DONE_NAME).exists()
    assert metrics.read(folder)[-1]["step"] == 160


def test_the_runs_are_compared_in_a_table_and_a_plot(swept):
  root = swept[0]
  done = subprocess.run(
    [
      *(sys.executable, "-m", "launch.compare", f"--workdir={root}"),
      "--metrics=train/loss_text,train/loss_image",
    ],
    cwd=launched.ROOT,
    env=launched.environment(root),
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  text = (root / compare.TABLE_NAME).read_text()
  assert text in done.stdout and "4 done" in done.stdout
  rows = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in text.splitlines()
  ]
  assert rows[0][1:4] == ["optim.learning_rate", "loss.text_weight", "state"]
  last = metrics.read(root / "002")[-1]
  assert rows[4] == [
    *("2", "0.002", "inv_t", "done"),
    f"{last['train/loss_text']:.4g} at 160",
    f"{last['train/loss_image']:.4g} at 160",
  ]
  plot = (root / compare.PLOT_NAME).read_bytes()
  # Four lines in each of two panels, in colours of their own.
  for colour in (b"#1f77b4", b"#ff7f0e", b"#2ca02c", b"#d62728"):
    assert plot.count(b"stroke: " + colour) >= 2


def test_what_cannot_be_compared_is_said(swept, tmp_path):
  with pytest.raises(ValueError, match="must be among .*train/loss"):
    compare.read(swept[0], ["train/lost"])
  with pytest.raises(FileNotFoundError, match="one of launch.sweep"):
    compare.read(tmp_path, ["train/loss"])


def test_the_number_of_an_engine_becomes_the_run_itself(swept):
  root = swept[0]
  environment = launched.environment(root.parent)
  environment["SLURM_ARRAY_TASK_ID"] = "1"
  (root / "001" / common.DONE_NAME).unlink()
  before = time.time()
  process = subprocess.Popen(
    [
      *(sys.executable, "-m", "launch.sweep", "--experiment=sft"),
      *(f"--config={root.parent / 'config.py'}", f"--workdir={root}", STEPS),
    ],
    cwd=launched.ROOT,
    env=environment,
    stderr=subprocess.PIPE,
  )
  _, error = process.communicate(timeout=300)
  assert process.returncode == 0
  assert b"resuming at step 160" in error
  assert (root / "001" / common.DONE_NAME).exists()  # the run says so itself
  written = [
    os.path.getmtime(root / f"{i:03d}" / "config.json") for i in (0, 1)
  ]
  assert written[0] < before < written[1]  # that one and no other
