"""Asymmetric rounding with a floating-point zero point, as in KIVI and QuaRot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from harness.api import CodePlane, KernelLayout
from methods.quantizers.grouped import FP16_MAX, FP16_MIN, SCALE_MIN, Grouped


@dataclass(frozen=True)
class Affine(Grouped):
    """Places evenly spaced levels from the smallest to the largest value of a group.

    The zero point is the group's minimum as a float. Values beyond 65504, the largest fp16 number,
    are clamped to it.

    clamp_zero: round the zero point to a code and clamp it into the range of codes, as arXiv
    2603.27469 did: x = (code - zero) * scale.

    Source  KIVI (arXiv 2402.02750), section 3: keys per channel (axis=tokens), values per token
    and head (axis=channels).
    """

    clamp_zero: bool = False

    def fit(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        """Return the scale and the zero point of each group, fp16.

        The zero point is the group's minimum, or the code of zero if `clamp_zero` is set.
        """
        if self.clamp_zero:
            return {name: x.clamp_max(FP16_MAX).half() for name, x in self._clamped(low, high)}
        # The minimum is never clamped into the range of the codes, so groups far from zero and
        # constant groups keep their values.
        # Measure from the rounded zero, which decoding adds, so that the top level reaches `high`.
        zero = low.clamp(-FP16_MAX, FP16_MAX).half()
        scale = (high - zero.float()) / (2**self.bits - 1)
        # If fp16 rounded the step to 0, the whole group would decode to its minimum.
        return {"scale": scale.clamp(FP16_MIN, FP16_MAX).half(), "zero": zero}

    def measure(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        """Return the scale and the zero point of each group in the dtype of x."""
        if self.clamp_zero:
            return dict(self._clamped(low, high))
        return {"scale": ((high - low) / (2**self.bits - 1)).clamp_min(SCALE_MIN), "zero": low}

    def _clamped(self, low: Tensor, high: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the scale, and the zero point as a code in 0..2**bits - 1."""
        # The clamp shifts a group that does not contain zero towards zero, and turns a constant
        # group into 0. Encoding what was decoded shifts it again.
        top = 2**self.bits - 1
        scale = ((high - low) / top).clamp_min(SCALE_MIN)
        yield "scale", scale
        yield "zero", (-low / scale).round().clamp(0, top)

    def place(self, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Return the codes of x; `zero` is a code if `clamp_zero` is set, else the minimum."""
        return (x / scale + zero).round() if self.clamp_zero else ((x - zero) / scale).round()

    def kernel_layout(self) -> KernelLayout | None:
        """Return the layout for kernels, or None if `clamp_zero` is set."""
        # Kernels expect a zero point that is a value, not a code.
        return None if self.clamp_zero else super().kernel_layout()

    def plane(self) -> CodePlane:
        """Describe the codes for kernels; the zero point is a stored part."""
        fit: Literal["minmax"] | None = "minmax" if self.plain else None
        return CodePlane(self.bits, self.group, self.axis, zero="zero", fit=fit)

    def grid(self, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return scale and zero, fp32, so that x = code * scale + zero."""
        scale, zero = parts["scale"].float(), parts["zero"].float()
        return (scale, -zero * scale) if self.clamp_zero else (scale, zero)
