"""Progressive residual quantization: what the first codes missed is quantized again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.api import CacheSpec, Form, Packed, Plane, Quantizer
from methods.quantizers.grouped import tiles


@dataclass(frozen=True)
class PRQ(Quantizer):
    """The sum of two quantizers: x = base(x) + residual(x - base(x)).

    Source  Quant VideoGen (arXiv 2602.02958), progressive residual quantization, with uniform
    codes in both stages as the PRQ rows of arXiv 2603.27469 use them.
    Raises  ValueError: a stage that rotates.
    """

    base: Quantizer
    residual: Quantizer

    def check(self, spec: CacheSpec) -> None:
        """Both stages must serve the model, in the same space."""
        for stage in (self.base, self.residual):
            if stage.rotation(spec.head_dim, torch.device("cpu")) is not None:
                raise ValueError(f"PRQ: {type(stage).__name__} rotates: choose RTN or Affine")
        self.base.check(spec)
        self.residual.check(spec)

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Encode, then encode the error in fp32."""
        base = self.base.encode(x_BHFTD)
        rest = self.residual.encode(x_BHFTD.float() - self.base.decode(base, torch.float32))
        parts = {**_named(base, "base"), **_named(rest, "residual")}
        return Packed(parts, base.bits + rest.bits, base.page)

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Sum both stages in fp32."""
        total = rest = torch.empty(0)
        for heads, frames in tiles(packed):
            tile = packed.view(heads, frames)
            if total.shape != tile.shape:
                total = torch.empty(tile.shape, dtype=torch.float32, device=packed.device)
                rest = torch.empty_like(total)
            self.base.stage(_stage_of(tile, "base"), total)
            self.residual.stage(_stage_of(tile, "residual"), rest)
            out_BHFTD[:, heads, frames] = total.add_(rest)

    def form(self) -> Form | None:
        """The planes of both, where both have them."""
        base, rest = self.base.form(), self.residual.form()
        if base is None or rest is None or not (base.planes and rest.planes):
            return None
        return Form((*_renamed(base, "base"), *_renamed(rest, "residual")))


def _named(packed: Packed, stage: str) -> dict[str, Tensor]:
    return {f"{stage}_{name}": part for name, part in packed.parts.items()}


def _stage_of(packed: Packed, stage: str) -> Packed:
    """The parts of one stage under their own names."""
    start = f"{stage}_"
    parts = {n.removeprefix(start): x for n, x in packed.parts.items() if n.startswith(start)}
    return replace(packed, parts=parts)


def _renamed(form: Form, stage: str) -> list[Plane]:
    """Planes that look for their parts under the names given here."""
    return [
        replace(
            plane,
            codes=f"{stage}_{plane.codes}",
            scale=f"{stage}_{plane.scale}",
            zero=plane.zero and f"{stage}_{plane.zero}",
        )
        for plane in form.planes
    ]
