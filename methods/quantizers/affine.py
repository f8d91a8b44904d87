"""Asymmetric rounding with a float zero point: what KIVI and QuaRot quantize with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from harness.api import CodePlane, KernelLayout
from methods.quantizers.grouped import FP16_MAX, FP16_MIN, SCALE_MIN, Grouped


@dataclass(frozen=True)
class Affine(Grouped):
    """Levels evenly spread from the smallest to the largest value of a group.

    The zero point is the group's minimum as a float, never clamped into the range of the codes,
    so groups far from zero and constant groups keep their values. Values beyond 65504, where fp16
    ends, are moved towards it.

    clamp_zero: round the zero point to a code and clamp it into the range of codes, as arXiv
    2603.27469 did: x = (code - zero) * scale. A group that does not reach zero is moved there,
    constant groups become 0, and every encoding of what was decoded moves them again.

    Source  KIVI (arXiv 2402.02750), section 3: keys per channel (axis=tokens), values per token
    and head (axis=channels).
    """

    clamp_zero: bool = False

    def fit(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        """Scale and zero a group; the zero is the minimum, or its code if clamped."""
        if self.clamp_zero:
            return {name: x.clamp_max(FP16_MAX).half() for name, x in self._clamped(low, high)}
        zero = low.clamp(-FP16_MAX, FP16_MAX).half()
        scale = (high - zero.float()) / (2**self.bits - 1)
        # A step rounded to nothing would move a whole group to its minimum.
        return {"scale": scale.clamp(FP16_MIN, FP16_MAX).half(), "zero": zero}

    def measure(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        """As `fit`."""
        if self.clamp_zero:
            return dict(self._clamped(low, high))
        return {"scale": ((high - low) / (2**self.bits - 1)).clamp_min(SCALE_MIN), "zero": low}

    def _clamped(self, low: Tensor, high: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Scale, and the zero as a code within the range of codes."""
        top = 2**self.bits - 1
        scale = ((high - low) / top).clamp_min(SCALE_MIN)
        yield "scale", scale
        yield "zero", (-low / scale).round().clamp(0, top)

    def place(self, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """By the code of zero, or by the distance from the minimum."""
        return (x / scale + zero).round() if self.clamp_zero else ((x - zero) / scale).round()

    def kernel_layout(self) -> KernelLayout | None:
        """None with a clamped zero: kernels read zeros that are values."""
        return None if self.clamp_zero else super().kernel_layout()

    def plane(self) -> CodePlane:
        """The zero is stored."""
        fit: Literal["minmax"] | None = "minmax" if self.plain else None
        return CodePlane(self.bits, self.group, self.axis, zero="zero", fit=fit)

    def grid(self, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Both are stored."""
        scale, zero = parts["scale"].float(), parts["zero"].float()
        return (scale, -zero * scale) if self.clamp_zero else (scale, zero)
