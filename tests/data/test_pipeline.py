"""Laws of the batch stream and of token rows."""

import jax
import numpy as np
import pytest

from paradiff import sharding
from paradiff.data import pipeline


def _source(size=20):
  index = np.arange(size, dtype=np.int32)
  return pipeline.ArraySource({"i": index, "x": np.stack([index, -index], 1)})


def _batches(size=20, **options):
  mesh = options.pop("mesh", None) or sharding.make_mesh()
  return pipeline.Batches(
    _source(size), **{"batch_size": 8, "seed": 3, "mesh": mesh, **options}
  )


def _take(batches, count):
  return [np.asarray(next(batches)["i"]) for _ in range(count)]


def test_each_epoch_is_another_permutation_of_the_source():
  seen = np.concatenate(_take(_batches(), 5))  # two epochs of 20
  first, second = seen[:20], seen[20:]
  np.testing.assert_array_equal(np.sort(first), np.arange(20))
  np.testing.assert_array_equal(np.sort(second), np.arange(20))
  assert (first != second).any()
  assert (first != np.arange(20)).any()


def test_rows_stay_together():
  batch = next(_batches())
  np.testing.assert_array_equal(batch["x"][:, 0], batch["i"])
  np.testing.assert_array_equal(batch["x"][:, 1], -batch["i"])


def test_order_depends_on_seed_and_position_only():
  whole = _take(_batches(), 6)
  resumed = _take(_batches(position=3), 3)
  np.testing.assert_array_equal(whole[3:], resumed)
  assert (np.stack(whole) != np.stack(_take(_batches(seed=4), 6))).any()


def test_state_counts_batches_handed_out_not_read_ahead():
  batches = _batches()
  _take(batches, 2)
  state = batches.get_state()
  assert state == {"position": 2}
  expected = _take(batches, 2)
  batches.set_state(state)
  np.testing.assert_array_equal(_take(batches, 2), expected)


def test_a_mesh_gets_the_same_batches_split_by_rows():
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  split = _batches(mesh=mesh)
  np.testing.assert_array_equal(_take(split, 2), _take(_batches(), 2))
  batch = next(split)
  assert batch["x"].sharding.shard_shape((8, 2)) == (2, 2)


def test_host_rows_cover_the_batch_without_a_gap():
  mesh = sharding.make_mesh(data=4, tensor=2)
  spec = jax.sharding.PartitionSpec("data")
  place = jax.sharding.NamedSharding(mesh, spec)
  assert pipeline.host_rows(place, (8,)) == (0, 8)


def test_reading_ahead_obeys_the_transfer_guard():
  batches = _batches()
  with jax.transfer_guard("disallow"):
    next(batches)
    next(batches)


def test_an_error_of_the_source_reaches_the_reader():
  class Broken(pipeline.ArraySource):
    def __getitem__(self, index):
      raise OSError("disk gone")

  broken = Broken({"i": np.arange(4)})
  with pytest.raises(OSError, match="disk gone"):
    next(
      pipeline.Batches(broken, batch_size=2, seed=0, mesh=sharding.make_mesh())
    )


def test_batches_that_do_not_split_are_refused():
  mesh = sharding.make_mesh(data=8)
  with pytest.raises(ValueError, match=r"multiple of 8.*got 4"):
    _batches(mesh=mesh, batch_size=4)
  with pytest.raises(ValueError, match="got 0"):
    _batches(batch_size=0)


def test_uneven_or_empty_arrays_are_refused():
  with pytest.raises(ValueError, match="'a': 2, 'b': 3"):
    pipeline.ArraySource({"a": np.zeros(2), "b": np.zeros(3)})
  with pytest.raises(ValueError, match="at least 1"):
    pipeline.ArraySource({"a": np.zeros(0)})


def test_scenes_are_a_function_of_seed_and_index():
  short = pipeline.ScenesSource(seed=1, size=3)
  long = pipeline.ScenesSource(seed=1, size=9)
  assert [short[i].prompt for i in range(3)] == [
    long[i].prompt for i in range(3)
  ]
  other = pipeline.ScenesSource(seed=2, size=3)
  assert any(short[i].target != other[i].target for i in range(3))
  assert len(long) == 9
  with pytest.raises(IndexError, match="got 3"):
    short[3]
  with pytest.raises(ValueError, match="split must be one of"):
    pipeline.ScenesSource(seed=1, size=3, split="dev")
  with pytest.raises(ValueError, match="size"):
    pipeline.ScenesSource(seed=1, size=0)


def _mixture(shares, **options):
  # Told apart by their numbers.
  rows = {
    name: pipeline.ArraySource({"i": first + np.arange(size, dtype=np.int32)})
    for name, first, size in (("a", 0, 20), ("b", 100, 7))
  }
  return pipeline.Batches(
    [list(zip(rows.values(), shares, strict=True))],
    **{"batch_size": 8, "seed": 3, "mesh": sharding.make_mesh(), **options},
  )


def test_sources_are_mixed_by_their_shares():
  seen = np.concatenate(_take(_mixture((3.0, 1.0)), 28))
  is_b = seen >= 100
  # In every stretch, not only in the mean.
  assert np.abs(np.cumsum(is_b) - np.arange(1, len(seen) + 1) / 4).max() <= 1
  # Each source is still shown whole, in an order of each epoch.
  (firsts,) = (seen[is_b][:14].reshape(2, 7),)
  np.testing.assert_array_equal(
    np.sort(firsts, axis=1), [100 + np.arange(7)] * 2
  )
  np.testing.assert_array_equal(np.sort(seen[~is_b][:20]), np.arange(20))


def test_a_mixture_resumes_where_it_was():
  whole = _take(_mixture((2.0, 1.0)), 6)
  np.testing.assert_array_equal(
    whole[4:], _take(_mixture((2.0, 1.0), position=4), 2)
  )


def test_one_source_of_a_mixture_is_that_source():
  rows = _source()
  alone = [
    np.asarray(b["i"]) for b, _ in zip(_batches(), range(4), strict=False)
  ]
  mesh = sharding.make_mesh()
  mixed = pipeline.Batches([[(rows, 0.3)]], batch_size=8, seed=3, mesh=mesh)
  np.testing.assert_array_equal(alone, _take(mixed, 4))
  for shares in ((0.0, 1.0), (1.0, -1.0)):
    with pytest.raises(ValueError, match="shares of sources must be positive"):
      _mixture(shares)


def test_other_processes_read_the_same_batches_from_any_position():
  alone = _batches(11, batch_size=4)
  shared = _batches(11, batch_size=4, num_workers=2)
  try:
    for position in (0, 5):
      for batches in (alone, shared):
        batches.set_state({"position": position})
      for _ in range(4):
        one, other = next(alone), next(shared)
        jax.tree.map(np.testing.assert_array_equal, one, other)
    assert shared.get_state() == {"position": 9}
  finally:
    alone.close()
    shared.close()


def test_fewer_than_no_workers_are_refused():
  with pytest.raises(ValueError, match="num_workers must be at least 0"):
    _batches(num_workers=-1)
