"""Progressive residual quantization: quantizes the error of a first quantizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import CacheSpec, CodePlane, KernelLayout, Packed, Quantizer
from methods.quantizers.grouped import staged
from methods.quantizers.nested import inner_of, named, named_in, refuse_rotation


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
            refuse_rotation(self, stage, spec, "RTN or Affine")
        self.base.check(spec)
        self.residual.check(spec)

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Encode with the base, then encode its error, computed in fp32."""
        # The error of what decoding will give, rounding of the metadata included.
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
        """Return the planes of both stages, or None if one of them has other terms."""
        # A stage with a channel's mean or scale, or with centroids, is more than a sum of planes.
        planes: list[CodePlane] = []
        for stage, name in ((self.base, "base"), (self.residual, "residual")):
            form = stage.kernel_layout()
            if form is None or not form.only_planes:
                return None
            planes += named_in(form, name).planes
        return KernelLayout(tuple(planes))
