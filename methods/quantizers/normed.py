"""A token's length is kept apart: only its direction is quantized."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import CacheSpec, Packed, Quantizer
from methods.quantizers.grouped import FP16_MAX, FP16_MIN, staged
from methods.quantizers.nested import joined


@dataclass(frozen=True)
class Normed(Quantizer):
    """Divides each token of a head by its root mean square as stored: values of order one.

    The root mean square is the norm over sqrt(D). It is stored instead of the norm because it does
    not leave the range of fp16 before the values do.

    Tokens of unlike lengths then share a group without the long ones setting the step for all.

    Source  TurboQuant (arXiv 2504.19874), section 1, which stores norms in floating point; around
    other quantizers ours.
    Shapes  the inner quantizer's, and norm [B, H, F, T] fp16, over sqrt(D).
    Raises  ValueError: a norm inside a norm.
    """

    inner: Quantizer

    @property
    def per_token(self) -> bool:
        """As the inner quantizer."""
        return self.inner.per_token

    def check(self, spec: CacheSpec) -> None:
        """The inner quantizer must serve the model."""
        self.inner.check(spec)

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """The size as stored is what is divided by, so its rounding costs nothing."""
        x = x_BHFTD.float()
        rms = (x.norm(dim=-1) * x.shape[-1] ** -0.5).clamp_max(FP16_MAX).half()
        unit = rms.float().clamp_min(FP16_MIN)[..., None]
        return joined(self.inner.encode(x / unit), {"norm": rms})

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """As the inner quantizer, times the sizes."""
        for tile, x in staged(packed, out_BHFTD):
            self.inner.stage(tile, x)
            x *= tile.parts["norm"].float()[..., None]

    def rotation(self, width: int, device: torch.device) -> Tensor | None:
        """That of the inner quantizer: lengths do not turn."""
        return self.inner.rotation(width, device)
