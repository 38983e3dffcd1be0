"""How near edits come to the truth, pixel by pixel.

For pairs whose true output is known. Errors are mean absolute differences in
percent of the range; beside the whole picture, of the pixels that the true
edit changes and of those that it keeps. Copying the input is right where
nothing is to change, so no one of the three says enough alone.
"""

import numpy as np

METRICS = ("error", "changed_error", "kept_error")
# Below it, a difference of levels in all channels is no change to see.
CHANGE_LEVELS = 16


def errors(
  output: np.ndarray, target: np.ndarray, source: np.ndarray | None
) -> tuple[float, float, float]:
  """Return the METRICS of one output, in [0, 100].

  Args:
    output: uint8[H, W, 3].
    target: uint8[H, W, 3], the truth.
    source: uint8[H, W, 3], the input; None if there was none: then every
      pixel is one to change.

  Returns:
    Errors; not a number where there are no such pixels.

  Raises:
    ValueError: if the pictures differ in size.
  """
  shapes = {
    picture.shape for picture in (output, target, source) if picture is not None
  }
  if len(shapes) != 1:
    raise ValueError(f"pictures must have one size, got {sorted(shapes)}")
  distance = np.abs(output.astype(np.int16) - target).mean(axis=-1)
  changed = np.ones(distance.shape, bool)
  if source is not None:
    moved = np.abs(source.astype(np.int16) - target).max(axis=-1)
    changed = moved >= CHANGE_LEVELS

  def mean(mask: np.ndarray) -> float:
    return float(distance[mask].mean() / 2.55) if mask.any() else float("nan")

  return mean(np.ones_like(changed)), mean(changed), mean(~changed)
