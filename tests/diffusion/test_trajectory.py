import jax.numpy as jnp
import numpy as np
import toy

from paradiff import layout as layout_lib
from paradiff.diffusion import trajectory

LAYOUT = layout_lib.Layout(grid=(1, 2), prompt_len=1, text_len=2)
MASK = toy.VOCAB.mask_id


def _start():
  #                    soi c1 c2    eoi bos w1   w2
  answer = jnp.array([[0, 30, MASK, 4, 1, MASK, MASK]])
  return trajectory.start(LAYOUT, answer, mask_id=MASK, num_steps=5)


def test_start_hand_worked():
  state = _start()
  np.testing.assert_array_equal(state.commit_step, [[-1, -1, 5, -1, -1, 5, 5]])
  assert state.num_image_masks.tolist() == [1]
  assert state.num_text_masks.tolist() == [2]
  assert (state.commit_logp == 0.0).all()


def test_commit_and_canvas_at_hand_worked():
  state = trajectory.commit(
    _start(),
    LAYOUT.text_index,
    proposal=jnp.array([[8, 9]]),
    logp=jnp.array([[-0.5, -0.25]]),
    selected=jnp.array([[False, True]]),
    step=jnp.int32(1),
  )
  np.testing.assert_array_equal(state.tokens, [[0, 30, MASK, 4, 1, MASK, 9]])
  np.testing.assert_array_equal(state.predicted, [[0, 30, MASK, 4, 1, 8, 9]])
  state = trajectory.commit(
    state,
    LAYOUT.text_index,
    proposal=jnp.array([[10, 11]]),  # 11 may not replace the committed 9
    logp=jnp.array([[-1.0, -2.0]]),
    selected=jnp.array([[True, False]]),
    step=jnp.int32(3),
  )
  run = trajectory.finish(state, num_steps=5)
  np.testing.assert_array_equal(run.tokens, [[0, 30, MASK, 4, 1, 10, 9]])
  np.testing.assert_array_equal(state.predicted, run.tokens)
  np.testing.assert_array_equal(run.commit_step, [[-1, -1, 5, -1, -1, 3, 1]])
  np.testing.assert_array_equal(run.commit_logp[0, 5:], [-1.0, -0.25])
  for step, text in ((0, [MASK, MASK]), (1, [MASK, MASK]), (2, [MASK, 9])):
    canvas = trajectory.canvas_at(run, step, mask_id=MASK)
    np.testing.assert_array_equal(canvas[0], [0, 30, MASK, 4, 1, *text])
  np.testing.assert_array_equal(
    trajectory.canvas_at(run, 4, mask_id=MASK)[0, 5:], [10, 9]
  )
