"""Laws of checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from paradiff import checkpoints
from paradiff import sharding
from paradiff import train_state

IDENTITY = {"variant": "micro", "config": {"seed": 1, "optim": {"b1": 0.9}}}


def _state(value=0.0):
  params = {"blocks": {"w": jnp.arange(32.0).reshape(8, 4) + value}}
  state = train_state.create(params, optax.adam(0.1), jax.random.key(7))
  return state.replace(step=jnp.int32(value))


def _equal(one, other):
  def data(state):
    state = state.replace(key=jax.random.key_data(state.key))
    return jax.device_get(state)

  jax.tree.map(np.testing.assert_array_equal, data(one), data(other))


def _open(folder, **options):
  return checkpoints.Checkpointer(
    folder, **{"identity": IDENTITY, "num_kept": 2, **options}
  )


def test_restore_gives_back_state_and_position_bit_for_bit(tmp_path):
  saver = _open(tmp_path)
  assert saver.restore(_state()) is None
  saver.save(_state(3.0), step=3, position=11)
  saver.close()
  state, position = _open(tmp_path).restore(_state())
  assert position == 11
  _equal(state, _state(3.0))
  assert jax.random.uniform(state.key) == jax.random.uniform(_state().key)


def test_a_donated_state_is_saved_as_it_was(tmp_path):
  saver = _open(tmp_path)
  update = jax.jit(
    lambda s: s.replace(params=jax.tree.map(lambda x: x + 1.0, s.params)),
    donate_argnums=0,
  )
  state = _state(1.0)
  saver.save(state, step=1, position=1)
  for _ in range(20):
    state = update(state)
  saver.wait()
  _equal(saver.restore(_state())[0], _state(1.0))


def test_newest_few_are_kept_and_the_best_apart_from_them(tmp_path):
  saver = _open(tmp_path, best_metric="eval/score")
  for step, score in enumerate((0.9, 0.8, 0.7, 0.6), start=1):
    saver.save(
      _state(step), step=step, position=step, metrics={"eval/score": score}
    )
  saver.wait()
  assert saver.latest_step == 4  # scores fell, and still the newest stands
  assert saver.best_step == 1
  folders = {p.name for p in (tmp_path / "checkpoints").iterdir()}
  assert {"3", "4"} <= folders
  assert not {"1", "2"} & folders
  _equal(saver.restore(_state())[0], _state(4.0))
  saver.close()
  assert _open(tmp_path, best_metric="eval/score").best_step == 1


def test_a_state_without_scores_is_kept_to_resume_from(tmp_path):
  saver = _open(tmp_path, best_metric="loss", best_mode="min")
  saver.save(_state(1.0), step=1, position=1, metrics={"loss": 2.0})
  saver.save(_state(2.0), step=2, position=2)
  saver.save(_state(3.0), step=3, position=3, metrics={"loss": 1.0})
  saver.wait()
  assert (saver.latest_step, saver.best_step) == (3, 3)


def test_what_a_killed_save_left_is_never_restored(tmp_path):
  saver = _open(tmp_path)
  saver.save(_state(1.0), step=1, position=1)
  saver.close()
  done = tmp_path / "checkpoints" / "1"
  half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
  (half / "state").mkdir(parents=True)
  for file in (done / "state").iterdir():
    if file.is_file():
      (half / "state" / file.name).write_bytes(file.read_bytes()[:10])
  again = _open(tmp_path)
  assert again.latest_step == 1
  again.save(_state(2.0), step=2, position=2)
  again.wait()
  _equal(again.restore(_state())[0], _state(2.0))


def test_another_identity_is_refused_naming_both(tmp_path):
  saver = _open(tmp_path)
  saver.save(_state(1.0), step=1, position=1)
  saver.close()
  other = {"variant": "tiny", "config": {"seed": 1, "optim": {"b1": 0.95}}}
  with pytest.raises(ValueError, match="variant: 'micro', here 'tiny'") as e:
    _open(tmp_path, identity=other).restore(_state())
  assert "config/optim/b1: 0.9, here 0.95" in str(e.value)
  assert "seed" not in str(e.value)


def test_other_shapes_are_refused_naming_the_checkpoint(tmp_path):
  saver = _open(tmp_path)
  saver.save(_state(1.0), step=1, position=1)
  saver.close()
  params = {"blocks": {"w": jnp.zeros((2, 3))}}
  other = train_state.create(params, optax.adam(0.1), jax.random.key(0))
  with pytest.raises(ValueError, match="checkpoints/1 must hold") as error:
    _open(tmp_path).restore(other)
  assert "blocks/w: (8, 4), here (2, 3)" in str(error.value)


def _damage(folder, what):
  if what == "foreign":
    for file in list(folder.rglob("*"))[::-1]:
      file.rmdir() if file.is_dir() else file.unlink()
    (folder / "something.txt").write_text("not ours")
    return
  for file in (folder / ("meta" if what == "meta" else "state")).rglob("*"):
    if file.is_file() and file.stat().st_size > 8:
      file.write_bytes(file.read_bytes()[:8])


DAMAGES = ("truncated", "foreign", "meta")


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_checkpoint_is_refused_naming_it(tmp_path, what):
  saver = _open(tmp_path)
  saver.save(_state(1.0), step=1, position=1)
  saver.close()
  folder = tmp_path / "checkpoints" / "1"
  _damage(folder, what)
  with pytest.raises(checkpoints.Damaged, match="checkpoints/1"):
    _open(tmp_path).restore(_state())
  assert folder.exists()  # nothing else is there: it stays where it is


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, what):
  saver = _open(tmp_path)
  for step in (1, 2):
    saver.save(_state(step), step=step, position=10 * step)
  saver.close()
  root = tmp_path / "checkpoints"
  _damage(root / "2", what)
  lines = []
  again = _open(tmp_path, report=lines.append)
  state, position = again.restore(_state())
  _equal(state, _state(1.0))
  assert (position, again.latest_step) == (10, 1)
  (line,) = lines
  assert "checkpoints/2 must be a complete checkpoint" in line
  assert "from step 1" in line
  # It is put aside, and its place is free for the same step made anew.
  assert (root / "2.damaged").is_dir()
  again.save(_state(2.0), step=2, position=20)
  again.close()
  last = _open(tmp_path, report=lines.append)
  _equal(last.restore(_state())[0], _state(2.0))
  assert len(lines) == 1


def test_another_run_is_refused_though_an_older_checkpoint_would_fit(tmp_path):
  saver = _open(tmp_path)
  saver.save(_state(1.0), step=1, position=1)
  saver.close()
  other = _open(tmp_path, identity={"variant": "tiny"})
  other.save(_state(2.0), step=2, position=2)
  other.close()
  with pytest.raises(ValueError, match="variant: 'tiny', here 'micro'"):
    _open(tmp_path).restore(_state())
  assert (tmp_path / "checkpoints" / "2").exists()


def test_restore_onto_another_mesh(tmp_path):
  saver = _open(tmp_path)
  saver.save(_state(1.0), step=1, position=1)
  mesh = sharding.make_mesh(fsdp=4, tensor=2)
  places = train_state.state_shardings(
    _state(), mesh=mesh, logical_axes={"blocks": {"w": ("embed", "mlp")}}
  )
  saver.wait()
  like = jax.device_put(_state(), places)
  state, _ = saver.restore(like)
  assert state.params["blocks"]["w"].sharding == places.params["blocks"]["w"]
  _equal(state, _state(1.0))


def test_out_of_range_options_are_refused(tmp_path):
  with pytest.raises(ValueError, match="num_kept"):
    _open(tmp_path, num_kept=0)
  with pytest.raises(ValueError, match="best_mode"):
    _open(tmp_path, best_mode="most")


def test_check_shapes_names_source_and_differences():
  found = {"a": np.ones((2, 3)), "extra": np.ones(1)}
  expected = {"a": np.ones((3, 2)), "lost": np.ones(1)}
  with pytest.raises(ValueError, match=r"file\.x must hold") as error:
    checkpoints.check_shapes(found, expected, source="file.x")
  for part in ("a: (2, 3), here (3, 2)", "extra: (1,), here 'absent'", "lost"):
    assert part in str(error.value)
  checkpoints.check_shapes(found, found, source="file.x")
