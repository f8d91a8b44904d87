"""Eight-bit floating point: E4M3 and E5M2."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from harness.api import Packed, Quantizer
from methods.quantizers.grouped import FP16_MAX, FP16_MIN, staged
from methods.quantizers.levels import look_up

DTYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


@dataclass(frozen=True)
class FP8(Quantizer):
    """Rounds to the nearest number of the format, ties to even, saturating at its largest.

    scaled: divide each token of a head by a scale that puts its largest value on the largest number
    of the format; without, values are stored as they come, as caches in E5M2 usually are: what is
    beyond the format's largest number is cut down to it, what is below half its smallest is lost.

    Source  FP8 formats for deep learning (arXiv 2209.05433), section 3; scales as serving engines
    use them, there a layer or head, here a token and head.
    Shapes  x [B, H, F, T, D] -> codes, same shape, the bits of the format as u8 (which, unlike the
    format's own dtype, every operation takes); scaled: scale [B, H, F, T] fp16.
    Raises  ValueError: another format.
    """

    format: Literal["e4m3", "e5m2"] = "e4m3"
    scaled: bool = True

    def __post_init__(self) -> None:
        """Refuse other formats."""
        if self.format not in DTYPES:
            raise ValueError(f"FP8.format={self.format}: choose {' or '.join(DTYPES)}")

    @property
    def per_token(self) -> bool:
        """A row and a scale a token."""
        return True

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Scale as stored, clamp, round."""
        dtype, x, parts = DTYPES[self.format], x_BHFTD.float(), {}
        largest = torch.finfo(dtype).max
        if self.scaled:
            scale = (x.abs().amax(-1) / largest).clamp(FP16_MIN, FP16_MAX).half()
            x = x / scale.float()[..., None]
            parts["scale"] = scale
        codes = x.clamp(-largest, largest).to(dtype).view(torch.uint8)
        return Packed({"codes": codes, **parts}, 8, (x.shape[3], x.shape[4]))

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """By a table of the format's 256 numbers: on a CPU, five times as fast as casting."""
        numbers = table(DTYPES[self.format], packed.device)
        for tile, x in staged(packed, out_BHFTD):
            look_up(tile.parts["codes"], 8, numbers, x)
            if self.scaled:
                x *= tile.parts["scale"].float()[..., None]


@cache
def table(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The numbers [256] fp32 that the bytes of an 8-bit format stand for."""
    return torch.arange(256, dtype=torch.uint8).view(dtype).float().to(device)
