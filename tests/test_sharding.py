import jax
import jax.numpy as jnp
import pytest
import toy

from paradiff import sharding
from paradiff.models import transformer


def test_make_mesh_has_three_named_axes():
  mesh = sharding.make_mesh(data=2, tensor=2)
  assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "tensor": 2}


@pytest.mark.parametrize("sizes", [{"data": 9}, {"fsdp": 0}, {"tensor": -2}])
def test_make_mesh_refuses_what_the_devices_cannot_hold(sizes):
  with pytest.raises(ValueError, match="at most the number of devices"):
    sharding.make_mesh(**sizes)


def test_make_mesh_takes_given_devices():
  devices = jax.devices()[4:6]
  mesh = sharding.make_mesh(data=2, devices=devices)
  assert mesh.devices.ravel().tolist() == devices


def test_spec_hand_worked():
  spec = jax.sharding.PartitionSpec
  assert sharding.spec(("batch", None)) == spec(("data", "fsdp"), None)
  assert sharding.spec(("vocab", "embed")) == spec("tensor", "fsdp")
  assert sharding.spec((None, "embed", "heads", None)) == spec(
    None, "fsdp", "tensor", None
  )


def test_spec_refuses_an_unknown_name():
  with pytest.raises(ValueError, match="embbed"):
    sharding.spec(("embbed", None))


@pytest.mark.parametrize("shape", toy.MESHES)
def test_shardings_split_every_matrix_and_keep_its_values(shape):
  tree = toy.params()
  placed = jax.device_put(
    tree,
    sharding.shardings(toy.mesh(shape), transformer.logical_axes(toy.CONFIG)),
  )
  share = {"q_proj": shape[1] * shape[2], "attn_norm": 1}
  for name, parts in share.items():
    array = placed["blocks"][name]
    assert array.addressable_shards[0].data.size * parts == array.size
  equal = jax.tree.map(lambda a, b: bool((a == b).all()), tree, placed)
  assert all(jax.tree.leaves(equal))


def test_constrain_is_nothing_without_a_mesh():
  x = jnp.ones((3, 2))
  assert sharding.constrain(x, ("batch", None)) is x


def test_constrain_places_rows_under_a_mesh():
  mesh = toy.mesh((2, 2, 2))
  with jax.set_mesh(mesh):
    x = jax.jit(lambda x: sharding.constrain(2 * x, ("batch", None)))(
      jnp.ones((8, 2))
    )
  assert x.sharding.spec[0] == ("data", "fsdp")
  assert x.addressable_shards[0].data.shape == (2, 2)
