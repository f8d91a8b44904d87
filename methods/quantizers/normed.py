"""Stores the norm of each token separately and quantizes only its direction."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.api import CacheSpec, KernelLayout, Packed, Quantizer
from methods.quantizers.grouped import FP16_MAX, FP16_MIN, staged
from methods.quantizers.nested import joined


@dataclass(frozen=True)
class Normed(Quantizer):
    """Divides each token of a head by its root mean square, so that values are of order one.

    Source  TurboQuant (arXiv 2504.19874), section 1, which stores norms in floating point. The
    combination with other quantizers is ours.
    Shapes  the inner quantizer's parts, and norm [B, H, F, T] fp16, divided by sqrt(D).
    Raises  ValueError: a `Normed` inside a `Normed`.
    """

    inner: Quantizer

    @property
    def per_token(self) -> bool:
        """Same as the inner quantizer."""
        return self.inner.per_token

    def check(self, spec: CacheSpec) -> None:
        """Check that the inner quantizer supports the model."""
        self.inner.check(spec)

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Divide by the root mean square, then encode with the inner quantizer."""
        # Tokens with different norms can then share a group: the long ones no longer set the step
        # for all of them.
        x = x_BHFTD.float()
        # Store the norm over sqrt(D): the norm itself would overflow fp16 before the values do.
        rms = (x.norm(dim=-1) * x.shape[-1] ** -0.5).clamp_max(FP16_MAX).half()
        # Divide by the fp16 number that is stored: its rounding error cancels when decoding.
        unit = rms.float().clamp_min(FP16_MIN)[..., None]
        return joined(self.inner.encode(x / unit), {"norm": rms})

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Decode with the inner quantizer and multiply by the root mean squares."""
        for tile, x in staged(packed, out_BHFTD):
            self.inner.stage(tile, x)
            x *= tile.parts["norm"].float()[..., None]

    def kernel_layout(self) -> KernelLayout | None:
        """Return the inner quantizer's layout with the norms, or None if it has other terms."""
        form = self.inner.kernel_layout()
        if form is None or not form.only_planes:
            return None
        return replace(form, token_scale="norm")

    def rotation(self, width: int, device: torch.device) -> Tensor | None:
        """Return the inner quantizer's rotation."""
        # A rotation keeps norms, so dividing before or after it is the same.
        return self.inner.rotation(width, device)
