"""A token's length is kept apart: only its direction is quantized."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import CacheSpec, Packed, Quantizer
from methods.quantizers.grouped import FP16_MAX, staged
from methods.quantizers.nested import joined

LEAST = 2.0**-24  # the smallest number of fp16: what is shorter is stored as zero


@dataclass(frozen=True)
class Normed(Quantizer):
    """Divides each token of a head by its norm as stored, times sqrt(D): values of order one.

    Tokens of unlike lengths then share a group without the long ones setting the step for all.

    Source  TurboQuant (arXiv 2504.19874), section 1, which stores norms in floating point; around
    other quantizers ours.
    Shapes  the inner quantizer's, and norm [B, H, F, T] fp16.
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
        """The norm as stored is what is divided by, so its rounding costs nothing."""
        x = x_BHFTD.float()
        norm = x.norm(dim=-1).clamp_max(FP16_MAX).half()
        unit = norm.float().clamp_min(LEAST)[..., None] * x.shape[-1] ** -0.5
        return joined(self.inner.encode(x / unit), {"norm": norm})

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """As the inner quantizer, times the norms."""
        for tile, x in staged(packed, out_BHFTD):
            self.inner.stage(tile, x)
            x *= tile.parts["norm"].float()[..., None] * x.shape[-1] ** -0.5

    def rotation(self, width: int, device: torch.device) -> Tensor | None:
        """That of the inner quantizer: norms do not turn."""
        return self.inner.rotation(width, device)
