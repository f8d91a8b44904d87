"""Four-bit floating point, E2M1, with a scale for a block of channels: MXFP4 and NVFP4."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import CacheSpec, Packed, Quantizer
from harness.api.bits import pack
from methods.quantizers.grouped import staged
from methods.quantizers.levels import look_up

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LARGEST = MAGNITUDES[-1]
E2M1 = (
    *MAGNITUDES,
    *(-m for m in MAGNITUDES),
)  # by code: a sign bit, two of exponent, one of mantissa
E4M3 = torch.float8_e4m3fn
E8M0 = torch.float8_e8m0fnu


@dataclass(frozen=True)
class FP4(Quantizer):
    """E2M1 codes of x over the scale of its block; leaves say what a scale is.

    Shapes  x [B, H, F, T, D] -> codes [B, H, F, T, D / 2] u8, two in a byte as `harness.api.bits`
    packs them, and the leaf's scales.
    Raises  ValueError: a head that is not made of whole blocks.
    """

    block: ClassVar[int]

    def check(self, spec: CacheSpec) -> None:
        """Blocks must split a head evenly."""
        if spec.head_dim % self.block:
            raise ValueError(
                f"{type(self).__name__}: {spec.head_dim} channels of a head are not made of blocks "
                f"of {self.block}: choose RTN or FP8"
            )

    @abstractmethod
    def scales(self, largest: Tensor) -> dict[str, Tensor]:
        """Scales to store for blocks whose largest magnitudes are [B, H, F, T, N] fp32."""

    @abstractmethod
    def scale(self, parts: Mapping[str, Tensor]) -> Tensor:
        """What a block is multiplied by [B, H, F, T, N] fp32."""

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Nearest number, ties to even, saturating."""
        blocks = x_BHFTD.float().unflatten(-1, (-1, self.block))
        parts = self.scales(blocks.abs().amax(-1))
        scaled = blocks / self.scale(parts).clamp_min(1e-38)[..., None]
        codes = pack(nearest_e2m1(scaled).flatten(-2), 4)
        return Packed({"codes": codes, **parts}, 4, (x_BHFTD.shape[3], x_BHFTD.shape[4]))

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Numbers looked up, times the scale of their block."""
        numbers = _numbers(packed.device)
        for tile, x in staged(packed, out_BHFTD):
            look_up(tile.parts["codes"], 4, numbers, x)
            blocks = x.unflatten(-1, (-1, self.block))
            blocks *= self.scale(tile.parts)[..., None]


@dataclass(frozen=True)
class MXFP4(FP4):
    """Blocks of 32 channels with a power of two as scale.

    Source  OCP Microscaling Formats (MX) v1.0, MXFP4 and its conversion from scalars: the scale's
    exponent is the largest value's minus that of the largest number, 2. The price of that rule:
    what lies between 6 and 8 times the scale is cut down to 6, by up to a quarter.
    Shapes  scale [B, H, F, T, D / 32] u8, the bits of E8M0: exponent + 127.
    """

    block: ClassVar[int] = 32

    @property
    def per_token(self) -> bool:
        """A block lies in a token."""
        return True

    def scales(self, largest: Tensor) -> dict[str, Tensor]:
        """floor(log2(largest)) - 2, exactly: `frexp` gives mantissas from 0.5 to 1."""
        exponent = torch.frexp(largest).exponent - 1 - 2
        code = (exponent + 127).clamp(0, 254).where(largest > 0, 0)
        return {"scale": code.to(torch.uint8)}

    def scale(self, parts: Mapping[str, Tensor]) -> Tensor:
        """2 ** exponent."""
        return parts["scale"].view(E8M0).float()


@dataclass(frozen=True)
class NVFP4(FP4):
    """Blocks of 16 channels with a scale in E4M3, in units of a scale of their head and frame.

    Source  NVIDIA's NVFP4 as in LongLive 2.0 (arXiv 2605.18739); the largest value of a block goes
    to 6, the largest block scale to 448 (their rule of least squared error is not this one).
    Shapes  scale [B, H, F, T, D / 16] u8, the bits of E4M3; unit [B, H, F] fp32.
    """

    block: ClassVar[int] = 16

    def scales(self, largest: Tensor) -> dict[str, Tensor]:
        """Both levels."""
        top = torch.finfo(E4M3).max
        unit = largest.amax((-1, -2)) / (LARGEST * top)
        scale = largest / LARGEST / unit.clamp_min(1e-38)[..., None, None]
        return {"scale": scale.clamp_max(top).to(E4M3).view(torch.uint8), "unit": unit}

    def scale(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The product of both."""
        return parts["scale"].view(E4M3).float() * parts["unit"][..., None, None]


@cache
def _numbers(device: torch.device) -> Tensor:
    return torch.tensor(E2M1, device=device)


def nearest_e2m1(x: Tensor) -> Tensor:
    """Codes uint8 of the nearest E2M1 numbers, of x's shape.

    Halfway between two, the one whose mantissa bit is 0: the lower if its code is even.
    """
    magnitude = x.abs()
    codes = torch.signbit(x).to(torch.uint8).mul_(8)
    for i, (low, high) in enumerate(pairwise(MAGNITUDES)):
        middle = (low + high) / 2
        codes += magnitude >= middle if i % 2 else magnitude > middle
    return codes
