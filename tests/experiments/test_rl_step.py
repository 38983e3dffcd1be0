"""The arithmetic that the ParaRL benchmark holds times against."""
# mypy: disallow-untyped-defs=False

import dataclasses
import io

import jax
import mini_rl
import pytest

from benchmarks import rl_step
from experiments import rl_setup
from paradiff.models import counts
from paradiff.models import transformer


def test_flops_of_a_forward_hand_worked():
  config = transformer.TransformerConfig(
    vocab_size=8, width=4, num_layers=2, num_heads=2, mlp_width=6
  )
  # A layer of 3 tokens: 4 matrices 4x4 and 3 of 4x6, then scores and sums.
  layer = 2 * 3 * (4 * 16 + 3 * 24) + 2 * (2 * 3 * 3 * 4)
  assert counts.forward_flops(config, 3, 10) == 2 * layer + 2 * 4 * 10


def test_flops_agree_with_the_compiler(tmp_path):
  config = mini_rl.get_config()
  config.model = mini_rl.write_model(tmp_path / "model")
  run = rl_setup.set_up(config, folder=tmp_path, stream=io.StringIO())
  network, length = run.variant.transformer, 64
  # A scan is counted once: one layer each, and their difference.
  costs = []
  for num_layers in (1, 2):
    deep = dataclasses.replace(
      network, num_layers=num_layers, scan_unroll=num_layers, place_grids=()
    )
    params = jax.eval_shape(
      lambda deep=deep: transformer.init(deep, jax.random.key(0))
    )
    tokens = jax.ShapeDtypeStruct((1, length), "int32")
    valid = jax.ShapeDtypeStruct((1, length), "bool")
    lowered = jax.jit(
      lambda p, t, v, deep=deep: transformer.trunk(deep, p, t, valid_mask=v)
    ).lower(params, tokens, valid)
    costs.append(lowered.cost_analysis()["flops"])
  one = dataclasses.replace(network, num_layers=1)
  counted = counts.forward_flops(one, length, 0)
  # The compiler also counts norms, softmax and rotations.
  assert counted <= costs[1] - costs[0] <= 1.35 * counted
  found = rl_step.count(run)
  assert found.rollout > 0
  # Three slices, four passes each, against four steps that cost one.
  assert found.update == pytest.approx(3.0 * found.rollout, rel=0.2)


def test_the_table_gives_the_share():
  secs = {name: [1.0, 2.0] for name in rl_step.PHASES}
  text = rl_step.table(secs, rl_step.Counts(rollout=1e9, update=4e9))
  assert "2.00 of the time, 4.00 of the operations: 0.50 times" in text
