"""Four-bit floating point (E2M1) with one scale per block of channels: MXFP4 and NVFP4."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import CacheSpec, CodePlane, KernelLayout, Packed, Quantizer
from harness.api.bits import pack
from methods.quantizers.grouped import staged
from methods.quantizers.levels import by_code, look_up, on_device

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LARGEST = MAGNITUDES[-1]
# Numbers by code: a sign bit, two of exponent, one of mantissa.
E2M1 = (*MAGNITUDES, *(-m for m in MAGNITUDES))
E4M3 = torch.float8_e4m3fn
E8M0 = torch.float8_e8m0fnu


@dataclass(frozen=True)
class FP4(Quantizer):
    """Base class: divides each block by its scale and rounds to E2M1; subclasses define the scale.

    block: channels per scale.

    Shapes  x [B, H, F, T, D] -> codes [B, H, F, T, D / 2] u8, two codes per byte as packed by
    `harness.api.bits`, and the subclass's scales.
    Raises  ValueError: a head width that is not a multiple of `block`.
    """

    block: ClassVar[int]

    def check(self, spec: CacheSpec) -> None:
        """Check that blocks divide the head width."""
        if spec.head_dim % self.block:
            raise ValueError(
                f"{type(self).__name__}: {spec.head_dim} channels of a head are not made of blocks "
                f"of {self.block}: choose RTN or FP8"
            )

    @abstractmethod
    def scales(self, largest: Tensor) -> dict[str, Tensor]:
        """Return the scale parts to store; largest: magnitude per block [B, H, F, T, N] fp32."""

    @abstractmethod
    def scale(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the scale of each block [B, H, F, T, N] fp32 from the stored parts."""

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Round to the nearest E2M1 number; ties go to even, large values saturate."""
        blocks = x_BHFTD.float().unflatten(-1, (-1, self.block))
        parts = self.scales(blocks.abs().amax(-1))
        # A block of zeros has a scale of 0, which must not divide.
        scaled = blocks / self.scale(parts).clamp_min(1e-38)[..., None]
        codes = pack(nearest_e2m1(scaled).flatten(-2), 4)
        return Packed({"codes": codes, **parts}, 4, (x_BHFTD.shape[3], x_BHFTD.shape[4]))

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Look the numbers up and multiply them by the scale of their block."""
        numbers = on_device(E2M1, packed.device)
        for tile, x in staged(packed, out_BHFTD):
            look_up(tile.parts["codes"], 4, numbers, x)
            blocks = x.unflatten(-1, (-1, self.block))
            blocks *= self.scale(tile.parts)[..., None]

    def kernel_layout(self) -> KernelLayout:
        """Return a layout with the table of E2M1."""
        return KernelLayout((self.plane(),))

    @abstractmethod
    def plane(self) -> CodePlane:
        """Describe the codes and their scales for kernels."""


@dataclass(frozen=True)
class MXFP4(FP4):
    """MXFP4: blocks of 32 channels whose scale is a power of two.

    Source  OCP Microscaling Formats (MX) v1.0, MXFP4 and its conversion from scalars: the exponent
    of the scale is the exponent of the largest value minus 2, the exponent of the largest number.
    Shapes  scale [B, H, F, T, D / 32] u8, the bits of E8M0: exponent + 127.
    """

    block: ClassVar[int] = 32

    @property
    def per_token(self) -> bool:
        """True: tokens share no scale."""
        return True

    def scales(self, largest: Tensor) -> dict[str, Tensor]:
        """Return floor(log2(largest)) - 2 as E8M0 codes."""
        # Rounded down, as specified: values between 6 and 8 times the scale saturate at 6 and lose
        # up to a quarter.
        # `frexp` is exact where log2 rounds. Its mantissas lie in 0.5..1, hence the extra - 1.
        exponent = torch.frexp(largest).exponent - 1 - 2
        # Code 255 is NaN in E8M0. A block of zeros gets the smallest scale.
        code = (exponent + 127).clamp(0, 254).where(largest > 0, 0)
        return {"scale": code.to(torch.uint8)}

    def scale(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return 2 ** exponent of each block."""
        return parts["scale"].view(E8M0).float()

    def plane(self) -> CodePlane:
        """Describe the codes and their scales in E8M0."""
        return CodePlane(4, self.block, "channels", scale_table=by_code(E8M0), table=E2M1)


@dataclass(frozen=True)
class NVFP4(FP4):
    """NVFP4: blocks of 16 channels with an E4M3 scale, times one fp32 unit per head and frame.

    Source  NVIDIA's NVFP4 as in LongLive 2.0 (arXiv 2605.18739). The largest value of a block maps
    to 6 and the largest block scale to 448. LongLive's least-squares rule is not implemented.
    Shapes  scale [B, H, F, T, D / 16] u8, the bits of E4M3; unit [B, H, F] fp32.
    """

    block: ClassVar[int] = 16

    def scales(self, largest: Tensor) -> dict[str, Tensor]:
        """Return the E4M3 scale of each block and the fp32 unit of each head and frame."""
        # The unit makes the largest scale of a head and frame the largest E4M3 number. Without it,
        # scales below 2**-10 would become 0.
        top = torch.finfo(E4M3).max
        unit = largest.amax((-1, -2)) / (LARGEST * top)
        scale = largest / LARGEST / unit.clamp_min(1e-38)[..., None, None]
        return {"scale": scale.clamp_max(top).to(E4M3).view(torch.uint8), "unit": unit}

    def scale(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return block scale times unit."""
        return parts["scale"].view(E4M3).float() * parts["unit"][..., None, None]

    def plane(self) -> CodePlane:
        """Describe the codes, their scales in E4M3, and the unit."""
        scales = by_code(E4M3)
        return CodePlane(4, self.block, "channels", scale_table=scales, unit="unit", table=E2M1)


def nearest_e2m1(x: Tensor) -> Tensor:
    """Return the codes of the nearest E2M1 numbers, uint8, in the shape of x.

    A value halfway between two numbers gets the one whose mantissa bit is 0 (the even code).
    """
    magnitude = x.abs()
    codes = torch.signbit(x).to(torch.uint8).mul_(8)
    # The code of a magnitude is the number of midpoints below it.
    for i, (low, high) in enumerate(pairwise(MAGNITUDES)):
        # Ties go to even codes: up from an odd code, down to an even one.
        middle = (low + high) / 2
        codes += magnitude >= middle if i % 2 else magnitude > middle
    return codes
