"""Eight-bit floating point: E4M3 and E5M2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.api import CodePlane, KernelLayout, Packed, Quantizer
from methods.quantizers.grouped import FP16_MAX, FP16_MIN, staged
from methods.quantizers.levels import by_code, look_up, on_device

DTYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


@dataclass(frozen=True)
class FP8(Quantizer):
    """Rounds to the nearest number of the format, ties to even, saturating at its largest.

    format: `e4m3` or `e5m2`.
    scaled: divide each token of a head by a scale that maps its largest value to the largest
    number of the format. If false, values are cast directly, as is usual for caches in E5M2.

    Source  FP8 formats for deep learning (arXiv 2209.05433), section 3. Serving engines use one
    scale per layer or head; this class uses one per token and head.
    Shapes  x [B, H, F, T, D] -> codes u8 in the same shape; if scaled, scale [B, H, F, T] fp16.
    Raises  ValueError: an unknown format.
    """

    format: Literal["e4m3", "e5m2"] = "e4m3"
    scaled: bool = True

    def __post_init__(self) -> None:
        if self.format not in DTYPES:
            raise ValueError(f"FP8.format={self.format}: choose {' or '.join(DTYPES)}")

    @property
    def per_token(self) -> bool:
        """True: tokens share no scale."""
        return True

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Divide by the scale, clamp to the range of the format, and round."""
        dtype, x, parts = DTYPES[self.format], x_BHFTD.float(), {}
        largest = torch.finfo(dtype).max
        if self.scaled:
            # Not 0, also for a token of zeros, because it divides.
            scale = (x.abs().amax(-1) / largest).clamp(FP16_MIN, FP16_MAX).half()
            # Divide by the fp16 scale that is stored: its rounding error cancels when decoding.
            x = x / scale.float()[..., None]
            parts["scale"] = scale
        # Clamp first: torch's cast to E5M2 would give infinity. Without a scale, values beyond the
        # largest number saturate so, and those below half the smallest become 0. View as uint8,
        # since few operations accept the float8 dtypes.
        codes = x.clamp(-largest, largest).to(dtype).view(torch.uint8)
        return Packed({"codes": codes, **parts}, 8, (x.shape[3], x.shape[4]))

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Look the numbers up and multiply them by the scale of their token, if scaled."""
        # On a CPU, a table of 256 numbers is five times as fast as a cast from float8.
        numbers = on_device(by_code(DTYPES[self.format]), packed.device)
        for tile, x in staged(packed, out_BHFTD):
            look_up(tile.parts["codes"], 8, numbers, x)
            if self.scaled:
                x *= tile.parts["scale"].float()[..., None]

    def kernel_layout(self) -> KernelLayout:
        """Return a layout with the table of the format."""
        numbers, scale = by_code(DTYPES[self.format]), "scale" if self.scaled else None
        return KernelLayout((CodePlane(8, None, "channels", table=numbers, scale=scale),))
