"""The random numbers of a sampler step, apart from what is done with them."""

import flax.struct
import jax

from paradiff import layout as layout_lib


@flax.struct.dataclass
class Noise:
  """The random numbers of one step, an argument so that runs can be replayed.

  Attributes:
    text: float32[B, T] uniform in [0, 1), for the text draw.
    image: float32[B, N] uniform in [0, 1), for the picture draw.
    text_gumbel: float32[B, T], for text confidence.
    image_gumbel: float32[B, N], for picture confidence.
  """

  text: jax.Array
  image: jax.Array
  text_gumbel: jax.Array
  image_gumbel: jax.Array


def draw(layout: layout_lib.Layout, batch_size: int, key: jax.Array) -> Noise:
  """Draw the random numbers of one step from its key."""
  keys = jax.random.split(key, 4)
  text, image = (batch_size, layout.text_len), (batch_size, layout.image_len)
  return Noise(
    text=jax.random.uniform(keys[0], text),
    image=jax.random.uniform(keys[1], image),
    text_gumbel=jax.random.gumbel(keys[2], text),
    image_gumbel=jax.random.gumbel(keys[3], image),
  )
