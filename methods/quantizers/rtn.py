"""Round to nearest: the simplest quantizer and the baseline for the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from harness.api import CodePlane
from methods.quantizers.grouped import FP16_MAX, SCALE_MIN, Grouped


@dataclass(frozen=True)
class RTN(Grouped):
    """Rounds symmetrically to all 2**bits levels.

    The levels are (code - top) * scale with top = (2**bits - 1) / 2.

    zero_level: put a level at zero and the largest magnitude 2**(bits-1) - 1 steps away, as arXiv
    2603.27469 did.

    Source  folklore baseline; no paper.
    """

    zero_level: bool = False

    @property
    def _top(self) -> float:
        """Return the number of steps from zero to the largest magnitude."""
        return float(2**self.bits - (2 if self.zero_level else 1)) / 2

    @property
    def _zero(self) -> float:
        """Return the code of zero; it lies between two codes if zero is not a level."""
        # Levels half a step off zero use all codes: 2 bits give four levels. With a level at zero
        # the lowest code stays unused, and 2 bits give three.
        # The price: if one value of a group is much larger than the others, these move to half a
        # step from zero, at 2 bits a third of that value. A group of n values then has a relative
        # error of up to sqrt(n - 1) / (2**bits - 1): for 16 values 1.29 at 2 bits, 0.26 at 4 and
        # 0.015 at 8; for 128 values 3.8, 0.75 and 0.044. `Affine` and `zero_level` avoid this.
        return float(2**self.bits - (0 if self.zero_level else 1)) / 2

    def fit(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        """Return one scale per group, fp16, that maps its largest magnitude to the last level."""
        # A scale below 2**-25 is stored as zero, and all values of the group become zero. At 8 bits
        # this happens if the largest magnitude is below 3.8e-6.
        scale = low.abs().maximum(high.abs()) / self._top
        return {"scale": scale.clamp_max(FP16_MAX).half()}  # beyond it, fp16 is infinite

    def measure(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        """Return one scale per group in the dtype of x."""
        return {"scale": (low.abs().maximum(high.abs()) / self._top).clamp_min(SCALE_MIN)}

    def place(self, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Return the codes of x; `zero` is unused."""
        if self.zero_level:
            # BF16 rounds a small quotient more finely than its sum with the code of zero.
            return (x / scale).round() + self._zero
        return (x / scale + self._zero).round()

    def plane(self) -> CodePlane:
        """Describe the codes for kernels."""
        # Kernels can encode only if the outermost levels are the extremes, so not with zero_level.
        fit: Literal["absmax"] | None = "absmax" if self.plain and not self.zero_level else None
        return CodePlane(self.bits, self.group, self.axis, offset=-self._zero, fit=fit)

    def grid(self, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return scale and zero, fp32; the zero follows from the scale and is not stored."""
        scale = parts["scale"].float()
        return scale, scale * -self._zero
