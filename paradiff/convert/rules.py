"""Which published tensor becomes which parameter: data, read in both ways.

A rule has a published name, our path and a transform. `{word}` stands for a
number: one that is only in the published name counts layers, which our leaf
stacks on its leading axis; `{~word}` counts from the other end. Worked example:
`model.transformer.blocks.{layer}.q_proj.weight` -> `blocks/q_proj` by
"heads_in" says that blocks/q_proj[2] of shape [D, H, K] is the transpose of
the published [H K, D] tensor of block 2.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class Transform:
  """A permutation of axes after some of them were split; loses nothing.

  Attributes:
    axes: our axis i is axis `axes[i]` of the split published tensor; None
      leaves a tensor of any rank as it is.
    groups: how many split axes each published axis consists of.
    tiles: block of ours to copy at a time, so that the strided side stays in
      the processor's cache; 0 is a whole axis.
  """

  axes: tuple[int, ...] | None = None
  groups: tuple[int, ...] = ()
  tiles: tuple[int, ...] = ()

  def accepts(self, rank: int) -> bool:
    """Whether a parameter of `rank` axes can be this transform's result."""
    return self.axes is None or len(self.axes) == rank

  def published_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the published shape of a parameter of `shape`."""
    if self.axes is None:
      return shape
    split = iter(self._split(shape))
    return tuple(
      math.prod(next(split) for _ in range(group)) for group in self.groups
    )

  def to_ours(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a published tensor seen as a parameter of `shape`; no copy."""
    if self.axes is None:
      return array
    return array.reshape(self._split(shape)).transpose(self.axes)

  def to_published(self, array: np.ndarray) -> np.ndarray:
    """Return a parameter as its published tensor, contiguous."""
    if self.axes is not None:
      shape = self.published_shape(array.shape)
      array = array.transpose(np.argsort(self.axes)).reshape(shape)
    return np.ascontiguousarray(array)

  def _split(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[self.axes.index(i)] for i in range(len(shape)))  # type: ignore[union-attr]


TRANSFORMS = {
  "same": Transform(),
  "transpose": Transform((1, 0), (1, 1), (256, 256)),
  # [H K, D] -> [D, H, K], and [D, H K] -> [H, K, D].
  "heads_in": Transform((2, 0, 1), (2, 1), (256, 2, 0)),
  "heads_out": Transform((1, 2, 0), (1, 2), (2, 0, 256)),
  # [H K] -> [H, K].
  "heads_bias": Transform((0, 1), (2,)),
  # A convolution's kernel, OIHW -> HWIO.
  "conv": Transform((2, 3, 1, 0), (1, 1, 1, 1)),
}


@dataclasses.dataclass(frozen=True)
class Rule:
  """One published name, or one a layer, and what becomes of it.

  Attributes:
    pattern: the published name.
    target: the path of our leaf, names joined by "/"; None ignores it.
    transform: a name in TRANSFORMS.
  """

  pattern: str
  target: str | None
  transform: str = "same"

  def __post_init__(self) -> None:
    if self.transform not in TRANSFORMS:
      raise ValueError(
        f"transform must be in {list(TRANSFORMS)}, got {self.transform!r}"
      )


def _block(name: str, target: str, transform: str = "same") -> Rule:
  prefix = "model.transformer.blocks.{layer}"
  return Rule(f"{prefix}.{name}.weight", f"blocks/{target}", transform)


BACKBONE = (
  Rule("model.transformer.wte.weight", "embed"),
  _block("attn_norm", "attn_norm"),
  _block("q_proj", "q_proj", "heads_in"),
  _block("k_proj", "k_proj", "heads_in"),
  _block("v_proj", "v_proj", "heads_in"),
  _block("attn_out", "attn_out", "heads_out"),
  _block("ff_norm", "ff_norm"),
  _block("ff_proj", "gate", "transpose"),
  _block("up_proj", "up", "transpose"),
  _block("ff_out", "down", "transpose"),
  Rule("model.transformer.ln_f.weight", "final_norm"),
  Rule("model.transformer.ff_out.weight", "head"),
)


def _conv(pattern: str, target: str) -> Iterator[Rule]:
  yield Rule(f"{pattern}.weight", f"{target}/kernel", "conv")
  yield Rule(f"{pattern}.bias", f"{target}/bias")


def _norm(pattern: str, target: str) -> Iterator[Rule]:
  yield Rule(f"{pattern}.weight", f"{target}/scale")
  yield Rule(f"{pattern}.bias", f"{target}/bias")


def _residual(
  pattern: str, target: str, *, shortcut: str | None
) -> Iterator[Rule]:
  """Yield the rules of a residual block; its shortcut by the published name."""
  for number in (1, 2):
    yield from _norm(f"{pattern}.norm{number}", f"{target}/norm{number}")
    yield from _conv(f"{pattern}.conv{number}", f"{target}/conv{number}")
  if shortcut is not None:
    yield from _conv(f"{pattern}.{shortcut}", f"{target}/nin_shortcut")


def _amused() -> Iterator[Rule]:
  """Yield the rules of diffusers' VQModel; its decoder counts from coarse."""
  for side, pattern, target, resampling in (
    ("encoder", "down_blocks.{level}", "down_{level}", "downsample"),
    ("decoder", "up_blocks.{level}", "up_{~level}", "upsample"),
  ):
    yield from _conv(f"{side}.conv_in", f"{side}/conv_in")
    yield from _residual(
      f"{side}.{pattern}.resnets.{{block}}",
      f"{side}/{target}/block_{{block}}",
      shortcut="conv_shortcut",
    )
    yield from _conv(
      f"{side}.{pattern}.{resampling}rs.0.conv",
      f"{side}/{target}/{resampling}/conv",
    )
    for number in (0, 1):
      yield from _residual(
        f"{side}.mid_block.resnets.{number}",
        f"{side}/mid/block_{number + 1}",
        shortcut=None,
      )
    yield from _norm(f"{side}.conv_norm_out", f"{side}/norm_out")
    yield from _conv(f"{side}.conv_out", f"{side}/conv_out")
  yield from _conv("quant_conv", "encoder/quant_conv")
  yield from _conv("post_quant_conv", "decoder/post_quant_conv")
  yield Rule("quantize.embedding.weight", "codebook")


def _magvitv2() -> Iterator[Rule]:
  """Yield the rules of MAGVITv2, whose names are ours with other joints."""
  for side, stage, resampling, convolution in (
    ("encoder", "down", "downsample", "quant_conv"),
    ("decoder", "up", "upsample", "post_quant_conv"),
  ):
    yield from _conv(f"{side}.conv_in", f"{side}/conv_in")
    yield from _residual(
      f"{side}.{stage}.{{level}}.block.{{block}}",
      f"{side}/{stage}_{{level}}/block_{{block}}",
      shortcut="nin_shortcut",
    )
    yield from _conv(
      f"{side}.{stage}.{{level}}.{resampling}.conv",
      f"{side}/{stage}_{{level}}/{resampling}/conv",
    )
    for number in (1, 2):
      yield from _residual(
        f"{side}.mid.block_{number}",
        f"{side}/mid/block_{number}",
        shortcut=None,
      )
    attention = (f"{side}.mid.attn_1", f"{side}/mid/attn_1")
    yield from _norm(f"{attention[0]}.norm", f"{attention[1]}/norm")
    for name in ("q", "k", "v", "proj_out"):
      yield from _conv(f"{attention[0]}.{name}", f"{attention[1]}/{name}")
    yield from _norm(f"{side}.norm_out", f"{side}/norm_out")
    yield from _conv(f"{side}.conv_out", f"{side}/conv_out")
    yield from _conv(f"{side}.{convolution}", f"{side}/{convolution}")
  # Buffers that follow from the number of bits: every code's signs, and the
  # weight of every bit.
  yield Rule("quantize.embedding", None)
  yield Rule("quantize.power_vals", None)


AMUSED = tuple(_amused())
MAGVITV2 = tuple(_magvitv2())
