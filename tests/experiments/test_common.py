"""Laws of configs at the door and of the guard around a loop."""
# mypy: disallow-untyped-defs=False

import dataclasses
import json
import pathlib

import jax.numpy as jnp
import ml_collections
import pytest

from experiments import common
from experiments.configs import sft_micro
from experiments.configs import sft_tiny


@dataclasses.dataclass(frozen=True)
class Inner:
  a: int
  b: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True)
class Outer:
  name: str
  inner: Inner = Inner(a=0)
  maybe: Inner | None = None
  free: dict = dataclasses.field(default_factory=dict)


def _config(**values):
  return ml_collections.ConfigDict(values)


def test_build_fills_defaults_and_nested_sections():
  built = common.build(Outer, _config(name="x", inner=dict(a=3, b=[4, 5])))
  assert built == Outer(name="x", inner=Inner(a=3, b=(4, 5)))
  assert common.build(Outer, _config(name="x", maybe=dict(a=1))).maybe == Inner(
    a=1
  )
  assert common.build(Outer, _config(name="x", free=dict(z=1))).free == {"z": 1}


def test_build_names_unknown_missing_and_fixed_keys():
  with pytest.raises(ValueError, match=r"Inner.*\['a', 'b'\].*\['c'\]"):
    common.build(Outer, _config(name="x", inner=dict(a=1, c=2)))
  with pytest.raises(ValueError, match=r"Outer must be given \['name'\]"):
    common.build(Outer, _config())
  with pytest.raises(ValueError, match=r"among \['b'\], got \['a'\]"):
    common.build(Inner, _config(a=2), a=1)
  assert common.build(Inner, _config(b=(7,)), a=1) == Inner(a=1, b=(7,))


def test_override_replaces_nested_fields_only():
  base = Outer(name="x", inner=Inner(a=3, b=(4,)))
  changed = common.override(base, _config(inner=dict(a=9)))
  assert changed == Outer(name="x", inner=Inner(a=9, b=(4,)))
  assert common.override(base, {}) == base
  with pytest.raises(ValueError, match=r"Inner.*\['c'\]"):
    common.override(base, _config(inner=dict(c=1)))


def test_identity_leaves_out_what_may_change():
  config = _config(seed=1, log=dict(every=5), optim=dict(b1=0.9))
  identity = common.identity(config, variant="micro")
  assert identity == {
    "config": {"seed": 1, "optim": {"b1": 0.9}},
    "variant": "micro",
  }


def test_config_is_written_and_flattened(tmp_path):
  config = _config(seed=1, optim=dict(betas=(0.9, 0.99)))
  common.write_config(config, tmp_path / "new")
  written = json.loads((tmp_path / "new" / "config.json").read_text())
  assert written == {"seed": 1, "optim": {"betas": [0.9, 0.99]}}
  assert common.flat(config) == {"seed": 1, "optim/betas": [0.9, 0.99]}


def _step(loss, norm=1.0):
  return {"train/loss": jnp.float32(loss), "train/grad_norm": jnp.float32(norm)}


def test_guard_reads_a_step_once_the_next_is_there():
  guard = common.Guard()
  guard.push(1, _step(2.0))
  assert guard.loss != guard.loss  # not read yet
  guard.push(2, _step(3.0))
  assert guard.loss == 2.0
  guard.drain()
  assert guard.loss == 3.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("what", ["loss", "norm"])
def test_guard_names_the_step_that_is_not_finite(bad, what):
  guard = common.Guard()
  guard.push(6, _step(1.0))
  guard.push(7, _step(**{"loss": 1.0, what: bad}))
  with pytest.raises(common.NonFinite, match="at step 7"):
    guard.push(8, _step(1.0))


@pytest.mark.parametrize("module", [sft_micro, sft_tiny])
def test_committed_configs_name_their_own_command(module):
  name = pathlib.Path(module.__file__).name
  assert f"experiments/configs/{name}" in module.__doc__
  assert module.get_config().variant in name
