"""Progressive residual quantization: quantizes the error of a first quantizer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.api import CacheSpec, CodePlane, KernelLayout, Packed, Quantizer
from methods.quantizers.grouped import staged
from methods.quantizers.nested import inner_of, named


@dataclass(frozen=True)
class PRQ(Quantizer):
    """The sum of two quantizers: x = base(x) + residual(x - base(x)).

    Source  Quant VideoGen (arXiv 2602.02958), progressive residual quantization, with uniform
    codes in both stages as the PRQ rows of arXiv 2603.27469 use them.
    Raises  ValueError: a stage that rotates.
    """

    base: Quantizer
    residual: Quantizer

    @property
    def per_token(self) -> bool:
        """Whether both stages are."""
        return self.base.per_token and self.residual.per_token

    def check(self, spec: CacheSpec) -> None:
        """Check that both stages support the model and do not rotate."""
        for stage in (self.base, self.residual):
            if stage.rotation(spec.head_dim, torch.device("cpu")) is not None:
                raise ValueError(f"PRQ: {type(stage).__name__} rotates: choose RTN or Affine")
        self.base.check(spec)
        self.residual.check(spec)

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Encode with the base, then encode its error, computed in fp32."""
        base = self.base.encode(x_BHFTD)
        rest = self.residual.encode(x_BHFTD.float() - self.base.decode(base, torch.float32))
        parts = {**named(base, "base"), **named(rest, "residual")}
        return Packed(parts, base.bits + rest.bits, base.page)

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Decode both stages and add them in fp32."""
        rest = torch.empty(0)  # reused by all tiles: fresh memory is slow on a CPU
        for tile, total in staged(packed, out_BHFTD):
            if rest.shape != tile.shape:
                rest = torch.empty_like(total)
            self.base.stage(inner_of(tile, "base"), total)
            self.residual.stage(inner_of(tile, "residual"), rest)
            total.add_(rest)

    def kernel_layout(self) -> KernelLayout | None:
        """Return the planes of both stages, or None if a stage is not made of planes alone."""
        base, rest = self.base.kernel_layout(), self.residual.kernel_layout()
        if base is None or rest is None or not (base.planes and rest.planes):
            return None
        # A layout has room for the mean and scale of the sum, not for those of a stage.
        if any(x.channel_scale or x.channel_mean for x in (base, rest)):
            return None
        return KernelLayout((*_renamed(base, "base"), *_renamed(rest, "residual")))


def _renamed(form: KernelLayout, stage: str) -> list[CodePlane]:
    """Return the planes with the part names that `named` gives."""
    return [
        replace(
            plane,
            codes=f"{stage}_{plane.codes}",
            scale=f"{stage}_{plane.scale}",
            zero=plane.zero and f"{stage}_{plane.zero}",
        )
        for plane in form.planes
    ]
