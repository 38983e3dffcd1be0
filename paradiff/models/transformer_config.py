"""Sizes and numerics of the backbone."""

import dataclasses
import math

from paradiff.models import attention

PADDINGS = ("left_out", "attended", "added")
# What the backward pass finds of a block besides its input; it makes the rest
# again. The matrices' products are nearly all the work of a block.
_ATTENTION = ("query", "key", "value", *attention.NAMES, "attn_out")
REMATS: dict[str, tuple[str, ...] | None] = {
  "none": None,
  "products": (*_ATTENTION, "gate", "up"),
  "attention": _ATTENTION,
  "full": (),
}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Sizes and numerics of the backbone.

  Attributes:
    vocab_size: rows of embedding and head.
    width: residual width D.
    num_layers: blocks.
    num_heads: attention heads H; must divide `width` into even head sizes.
    mlp_width: hidden width F of the gated MLP.
    norm_eps: RMSNorm epsilon.
    rope_theta: base of the rotary wavelengths.
    compute_dtype: "float32" or "bfloat16" for activations.
    remat: what the backward pass keeps of each block, of `REMATS`: all
      ("none"), the products with matrices ("products"), those of attention
      ("attention"), or the block's input alone ("full").
    attention: one of `attention.KINDS`.
    scan_unroll: blocks a scan iteration.
    padding: what tokens outside `valid_mask` do. "left_out": nothing, and
      positions do not count them. As published instead "attended": they take
      part like any other (A), or "added": the mask of 0 and 1 is added to the
      scores, so a padding key only loses a factor e to a real one (M).
    place_grids: shapes of the grids whose points have learned embeddings, all
      in one table of as many rows, first grid first; none as published. Rotary
      angles tell distances; a small model that has to name places learns them
      far sooner when it is told where it is.
  """

  vocab_size: int
  width: int
  num_layers: int
  num_heads: int
  mlp_width: int
  norm_eps: float = 1e-5
  rope_theta: float = 500_000.0
  compute_dtype: str = "float32"
  remat: str = "none"
  attention: str = "plain"
  scan_unroll: int = 1
  padding: str = "left_out"
  place_grids: tuple[tuple[int, ...], ...] = ()

  def __post_init__(self) -> None:
    sizes = ("vocab_size", "width", "num_layers", "num_heads", "mlp_width")
    for name in (*sizes, "scan_unroll"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
    grids = tuple(tuple(grid) for grid in self.place_grids)  # lists from json
    object.__setattr__(self, "place_grids", grids)
    if not all(grid and min(grid) > 0 for grid in grids):
      raise ValueError(
        f"place_grids must have positive sides, got {self.place_grids}"
      )
    if self.width % self.num_heads or (self.width // self.num_heads) % 2:
      raise ValueError(
        "num_heads must divide width into even head sizes, got "
        f"{self.num_heads=} {self.width=}"
      )
    if self.compute_dtype not in ("float32", "bfloat16"):
      raise ValueError(
        'compute_dtype must be "float32" or "bfloat16", got '
        f"{self.compute_dtype!r}"
      )
    for name, known in (
      ("remat", tuple(REMATS)),
      ("attention", attention.KINDS),
      ("padding", PADDINGS),
    ):
      if getattr(self, name) not in known:
        raise ValueError(
          f"{name} must be one of {known}, got {getattr(self, name)!r}"
        )
    if self.padding == "added" and self.attention != "plain":
      raise ValueError(
        'attention must be "plain" where padding is "added" to the scores, '
        f"got {self.attention!r}"
      )

  @property
  def head_size(self) -> int:
    """Size K of one attention head."""
    return self.width // self.num_heads

  @property
  def num_places(self) -> int:
    """Rows of the table of places."""
    return sum(math.prod(grid) for grid in self.place_grids)
