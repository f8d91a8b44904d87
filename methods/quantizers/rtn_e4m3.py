"""RTN with one-byte scales instead of two-byte scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.api import CodePlane, KernelLayout
from methods.quantizers.levels import by_code
from methods.quantizers.rtn import RTN

E4M3 = torch.float8_e4m3fn


@dataclass(frozen=True)
class RTNE4M3(RTN):
    """RTN with E4M3 scales, times one fp32 unit per head and frame.

    Source  the residuals of Quant VideoGen (arXiv 2602.02958). The paper puts a level at zero, like
    zero_level: -1, 0 and 1 at 2 bits. Without zero_level, four levels have an error of 0.49 on
    noise, where three have 0.70, and of 2.6 on one outlier in a group of 64 zeros.
    Shapes  as RTN, but scale u8 (the bits of E4M3) and unit [B, H, F] fp32.
    """

    @property
    def per_token(self) -> bool:
        """False: all tokens of a frame share the unit."""
        return False

    def fit(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        """Return E4M3 scales and their unit, which maps the largest scale to the largest E4M3."""
        # The paper stores scales without a unit, so those below 2**-10 become zero.
        top = torch.finfo(E4M3).max
        scale = low.abs().maximum(high.abs()) / self._top
        unit = scale.amax((-1, -2)) / top
        small = (scale / unit.clamp_min(1e-38)[..., None, None]).clamp_max(top)
        return {"scale": small.to(E4M3).view(torch.uint8), "unit": unit}

    def kernel_layout(self) -> KernelLayout | None:
        """Return the layout for kernels, or None for groups of tokens."""
        # A code times a scale of 24 bits is not exact. For groups of tokens torch rounds only after
        # adding the zero, which the loops cannot repeat.
        return super().kernel_layout() if self.axis == "channels" else None

    def plane(self) -> CodePlane:
        """Describe the codes, their scales in E4M3, and the unit."""
        return replace(super().plane(), scale_table=by_code(E4M3), unit="unit", fit=None)

    def grid(self, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return scale and zero, fp32; the zero follows from the scale."""
        scale = parts["scale"].view(E4M3).float() * parts["unit"][..., None, None]
        return scale, scale * -self._zero
