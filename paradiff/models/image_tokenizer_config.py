"""Sizes and conventions of an image tokenizer, and the two published ones."""

import dataclasses
import math

QUANTISERS = ("lookup_free", "codebook")
PIXEL_RANGES = {"signed": (-1.0, 1.0), "unit": (0.0, 1.0)}


@dataclasses.dataclass(frozen=True)
class ImageTokenizerConfig:
  """Sizes of the image tokenizer; the defaults are MAGVITv2 as published.

  Attributes:
    picture_size: side of the pictures in pixels, a multiple of `factor`.
    code_bits: bits of a lookup-free code, in [1, 16]; there are 2**code_bits
      codes. A codebook does not read it.
    base_channels: channels that the multipliers multiply.
    encoder_multipliers: one a level, finest first. The number of levels sets
      the down-sampling: it is 2**(levels - 1).
    encoder_blocks: residual blocks of every encoder level.
    decoder_multipliers: one a level, finest first too.
    decoder_blocks: residual blocks of every decoder level.
    norm_groups: groups of every norm; divides every level's channels.
    mid_attention: whether the lowest resolution has an attention block.
    quantiser: "lookup_free" (the signs of the latents are the code's bits) or
      "codebook" (the code is the nearest row of a learned table).
    num_codes: rows of the codebook; 0 if lookup-free.
    latent_channels: channels of a codebook's row; 0 if lookup-free.
    pixel_range: what the network sees: "signed" [-1, 1] or "unit" [0, 1].
    truncates: whether conversion to bytes rounds down instead of to nearest.

  Raises:
    ValueError: if the sizes contradict each other or an option is unknown.
  """

  picture_size: int = 256
  code_bits: int = 13
  base_channels: int = 128
  encoder_multipliers: tuple[int, ...] = (1, 2, 2, 4, 4)
  encoder_blocks: tuple[int, ...] = (4, 3, 4, 3, 4)
  decoder_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
  decoder_blocks: tuple[int, ...] = (4, 4, 3, 4, 3)
  norm_groups: int = 32
  mid_attention: bool = True
  quantiser: str = "lookup_free"
  num_codes: int = 0
  latent_channels: int = 0
  pixel_range: str = "signed"
  truncates: bool = False

  def __post_init__(self) -> None:
    self._check_options()
    self._check_levels()
    for name, low, high in (
      ("base_channels", 1, math.inf),
      ("norm_groups", 1, math.inf),
    ):
      value = getattr(self, name)
      if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}], got {value}")
    uneven = [
      c
      for c in self.encoder_channels + self.decoder_channels
      if c % self.norm_groups
    ]
    if uneven:
      raise ValueError(
        "norm_groups must divide the channels of every level, got "
        f"{self.norm_groups=} and levels of {uneven} channels"
      )
    if self.picture_size < 1 or self.picture_size % self.factor:
      raise ValueError(
        "picture_size must be a multiple of the down-sampling "
        f"{self.factor}, got {self.picture_size}"
      )

  def _check_options(self) -> None:
    """Check the quantiser with the sizes it owns, and the pixels' range."""
    for name, allowed in (
      ("quantiser", QUANTISERS),
      ("pixel_range", tuple(PIXEL_RANGES)),
    ):
      value = getattr(self, name)
      if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
    sizes = f"{self.num_codes=} {self.latent_channels=}"
    if self.quantiser == "codebook":
      if self.num_codes < 1 or self.latent_channels < 1:
        raise ValueError(
          "num_codes and latent_channels must be positive with a codebook, "
          f"got {sizes}"
        )
    elif self.num_codes or self.latent_channels:
      raise ValueError(
        "num_codes and latent_channels must be 0 without a codebook, got "
        f"{sizes}"
      )
    elif not 1 <= self.code_bits <= 16:
      raise ValueError(f"code_bits must lie in [1, 16], got {self.code_bits}")

  def _check_levels(self) -> None:
    """Check that every level has its numbers; make the lists of json tuples."""
    lengths = {}
    for name in (
      "encoder_multipliers",
      "encoder_blocks",
      "decoder_multipliers",
      "decoder_blocks",
    ):
      values = tuple(getattr(self, name))
      object.__setattr__(self, name, values)
      lengths[name] = len(values)
      if any(not isinstance(v, int) or v < 1 for v in values):
        raise ValueError(f"{name} must be integers >= 1, got {values}")
    if len(set(lengths.values())) != 1 or not self.encoder_multipliers:
      raise ValueError(
        f"each level needs an entry in every tuple, got {lengths}"
      )

  @property
  def factor(self) -> int:
    """Pixels a code covers, a side."""
    return 2 ** (len(self.encoder_multipliers) - 1)

  @property
  def grid_size(self) -> int:
    """Codes a side of a picture of `picture_size`."""
    return self.picture_size // self.factor

  @property
  def num_tokens(self) -> int:
    """Codes a picture of `picture_size`: N."""
    return self.grid_size**2

  @property
  def codebook_size(self) -> int:
    """Number of distinct codes: C."""
    if self.quantiser == "codebook":
      return self.num_codes
    return 2**self.code_bits

  @property
  def latent_size(self) -> int:
    """Channels of the latents: a codebook row's, or one a bit."""
    if self.quantiser == "codebook":
      return self.latent_channels
    return self.code_bits

  @property
  def encoder_channels(self) -> tuple[int, ...]:
    """Channels of the encoder's levels, finest first."""
    return tuple(self.base_channels * m for m in self.encoder_multipliers)

  @property
  def decoder_channels(self) -> tuple[int, ...]:
    """Channels of the decoder's levels, finest first."""
    return tuple(self.base_channels * m for m in self.decoder_multipliers)


# `showlab/magvitv2`, of MMaDA-Parallel-M.
MAGVITV2 = ImageTokenizerConfig()

# diffusers' `VQModel` of aMUSEd (arXiv 2401.01808), of MMaDA-Parallel-A.
AMUSED = ImageTokenizerConfig(
  picture_size=512,
  encoder_multipliers=(1, 2, 2, 4, 6),
  encoder_blocks=(2, 2, 2, 2, 2),
  decoder_multipliers=(1, 2, 2, 4, 6),
  decoder_blocks=(3, 3, 3, 3, 3),
  mid_attention=False,
  quantiser="codebook",
  num_codes=8192,
  latent_channels=64,
  pixel_range="unit",
)
