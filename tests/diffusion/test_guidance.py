import jax.numpy as jnp
import numpy as np
import pytest
import toy

from paradiff.diffusion import guidance


def test_guide_hand_worked():
  scales = guidance.Guidance(text=2.0, both=-1.0)
  got = guidance.guide(
    jnp.array([1.0, 0.0]),
    {"text": jnp.array([0.5, 1.0]), "both": jnp.array([0.0, 3.0])},
    scales,
  )
  # 1 + 2 (1 - 0.5) - (1 - 0) and 0 + 2 (0 - 1) - (0 - 3)
  np.testing.assert_allclose(got, [1.0, 1.0])


def test_only_scales_other_than_zero_make_branches():
  assert guidance.Guidance().branches == ()
  assert guidance.Guidance(image=4.0).branches == ("image",)
  assert guidance.Guidance(text=-1.0, both=0.5).branches == ("text", "both")


def test_guidance_without_branches_is_the_conditional():
  logits = jnp.array([1.0, 2.0])
  assert guidance.guide(logits, {}, guidance.Guidance()) is logits


def test_guidance_moves_away_from_the_unconditional():
  cond, other = jnp.array([2.0, 0.0]), jnp.array([0.0, 2.0])
  got = guidance.guide(cond, {"text": other}, guidance.Guidance(text=1.0))
  np.testing.assert_allclose(got, [4.0, -2.0])


@pytest.mark.parametrize(
  ("name", "columns"), [("text", 14), ("image", 6), ("both", 6)]
)
def test_each_branch_lacks_what_its_name_says(name, columns):
  condition, answer = toy.conditions(3), toy.answers(3)
  null, same = guidance.without(
    toy.LAYOUT, toy.VOCAB, condition, answer, branch=name
  )
  assert same is answer
  prefix = np.asarray(null.prefix)
  assert prefix.shape == (3, columns)
  has_picture = (prefix >= toy.VOCAB.code_offset).any()
  assert has_picture == (name == "text")
  prompt = prefix[:, -toy.LAYOUT.prompt_len :]
  assert (prompt == toy.VOCAB.eos_id).all() == (name != "image")
