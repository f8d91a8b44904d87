"""Asymmetric rounding with a float zero point: what KIVI and QuaRot quantize with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from harness.api import Plane
from methods.quantizers.grouped import FP16_MAX, Grouped


@dataclass(frozen=True)
class Affine(Grouped):
    """Levels evenly spread from the smallest to the largest value of a group.

    The zero point is the group's minimum as a float, never clamped into the range of the codes,
    so groups far from zero and constant groups keep their values.

    Source  KIVI (arXiv 2402.02750), section 3: keys per channel (axis=tokens), values per token
    and head (axis=channels).
    """

    def fit(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        """Scale and zero a group; the zero is the minimum."""
        zero = low.clamp(-FP16_MAX, FP16_MAX).half()
        scale = (high - zero.float()) / (2**self.bits - 1)
        return {"scale": scale.clamp(0, FP16_MAX).half(), "zero": zero}

    def plane(self) -> Plane:
        """The zero is stored."""
        return Plane(self.bits, self.group, self.axis, zero="zero", fit="minmax")

    def grid(self, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Both are stored."""
        return parts["scale"].float(), parts["zero"].float()
