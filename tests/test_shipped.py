"""The models inside the package: whole, small, described, and of some use."""

import pathlib
import re

import numpy as np
import pytest

from paradiff import pipeline as pipeline_lib
from paradiff import shipped
from paradiff import variants
from paradiff.evaluate import scenes as evaluate
from paradiff.scenes import benchmark

ROOT = pathlib.Path(__file__).parents[1]
MAX_BYTES = 8 * 2**20


@pytest.mark.parametrize("name", shipped.SHIPPED)
def test_a_shipped_model_is_the_committed_variant(name):
  pipeline = pipeline_lib.ParallelPipeline.from_pretrained(name)
  # A model that was reinforced is of the variant that it began as.
  assert pipeline.variant == variants.VARIANTS[name.removesuffix("_rl")]


@pytest.mark.parametrize("name", shipped.SHIPPED)
def test_a_shipped_model_is_small_and_has_a_card(name):
  folder = pathlib.Path(shipped.find(name))
  sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
  assert sum(sizes.values()) <= MAX_BYTES, sizes
  card = (folder / "README.md").read_text()
  # The commands that made it name configs that exist.
  configs = re.findall(r"--config=(\S+)", card)
  assert configs
  assert all((ROOT / config).exists() for config in configs)
  assert "| copy input | untrained |" in card


@pytest.mark.parametrize("name", shipped.SHIPPED)
def test_a_shipped_model_changes_pictures_as_it_is_told(name):
  tasks = [task for task in benchmark.build() if task.kind == "edit"][::10]
  pipeline = pipeline_lib.ParallelPipeline.from_pretrained(name)
  answers = evaluate.answer(pipeline, tasks, batch_size=20)
  changed = [
    np.mean([row["image_alignment_changed"] for row in rows])
    for rows in (
      evaluate.score_outputs(tasks, answers),
      benchmark.copy_scores(tasks),
    )
  ]
  assert changed[0] > changed[1] + 0.2
