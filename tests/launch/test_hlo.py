"""Laws of what is read from a compiled program's text.

Compared with a count by hand and, compiled for eight CPU devices, with what
the mathematics of a sharded product sends.
"""
# mypy: disallow-untyped-defs=False

import jax
import jax.numpy as jnp
import pytest

from launch import hlo
from paradiff import sharding

# A loop of five rounds, each with a gathered array of 64 bfloat16 numbers over
# four devices; a sum over two, whose channel stands in two fusions; and, in a
# sub-computation, a permutation.
_GATHER = "replica_groups=mesh['a'=4,'b'=2] {'a'}, dimensions={0}"
_SUM = "channel_id=2, replica_groups=[4,2]<=[8], to_apply=%add"
_PAIRS = "channel_id=3, source_target_pairs={{0,1},{1,0}}"
_SCATTER = "replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}"
TEXT = f"""
HloModule jit_f

%add (a: f32[], b: f32[]) -> f32[] {{
  ROOT %s = f32[] add(%a, %b)
}}

%cond (p: (s32[], bf16[16])) -> pred[] {{
  %limit = s32[]{{:T(128)}} constant(5)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}}

%body (p: (s32[], bf16[16])) -> (s32[], bf16[16]) {{
  %g = bf16[64]{{0:T(1024)(2,1)}} all-gather(%x), channel_id=1, {_GATHER}
  ROOT %t = (s32[], bf16[16]) tuple(%i, %x)
}}

%part.1 (q: f32[32]) -> f32[32] {{
  ROOT %r = f32[32]{{0}} all-reduce(%q), {_SUM}
}}

%part.2 (q: f32[32]) -> f32[32] {{
  ROOT %r = f32[32]{{0}} all-reduce(%q), {_SUM}
}}

ENTRY %main (x: bf16[16]) -> f32[32] {{
  %w = (s32[], bf16[16]) while(%t0), condition=%cond, body=%body
  %c = (f32[8], f32[8], u32[], u32[]) collective-permute-start(%z), {_PAIRS}
  %d = f32[8]{{0}} collective-permute-done(%c)
  %e = f32[4]{{0}} reduce-scatter(%y), channel_id=4, {_SCATTER}, to_apply=%add
  %f1 = f32[32] fusion(%u), kind=kLoop, calls=%part.1
  ROOT %f2 = f32[32] fusion(%u), kind=kLoop, calls=%part.2
}}
"""


def test_loops_channels_and_groups_are_counted():
  assert hlo.traffic(TEXT) == {
    "all-gather": hlo.Traffic(5, 5 * 128 * 3 / 4),
    "all-reduce": hlo.Traffic(1, 2 * 128 / 2),
    "reduce-scatter": hlo.Traffic(1, 4 * 16 * 3 / 4),
    "collective-permute": hlo.Traffic(1, 32.0),
  }


@pytest.mark.parametrize("num_layers", [1, 6])
def test_a_sharded_stack_gathers_each_layer(num_layers):
  mesh = sharding.make_mesh(fsdp=8)
  width = 16
  place = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(None, None, "fsdp")
  )
  rows = jax.sharding.NamedSharding(mesh, sharding.spec(("batch", None)))
  weights = jax.ShapeDtypeStruct(
    (num_layers, width, width), jnp.float32, sharding=place
  )
  x = jax.ShapeDtypeStruct((8, width), jnp.float32, sharding=rows)

  def run(weights, x):
    def layer(x, w):
      whole = jax.lax.with_sharding_constraint(
        w, jax.sharding.PartitionSpec(None, None)
      )
      return sharding.constrain(jnp.tanh(x @ whole), ("batch", None)), None

    return jax.lax.scan(layer, x, weights)[0]

  with jax.set_mesh(mesh):
    text = (
      jax.jit(run, out_shardings=rows).lower(weights, x).compile().as_text()
    )
  sent = hlo.traffic(text)
  assert set(sent) == {"all-gather"}
  assert sent["all-gather"].count == num_layers
  assert sent["all-gather"].num_bytes == num_layers * width**2 * 4 * 7 / 8
