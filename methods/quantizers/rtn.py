"""Round to nearest: the plainest quantizer, the floor the others must beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from harness.api import CodePlane
from methods.quantizers.grouped import FP16_MAX, SCALE_MIN, Grouped


@dataclass(frozen=True)
class RTN(Grouped):
    """Symmetric rounding; all 2**bits levels are used.

    The levels lie at (code - top) * scale with top = (2**bits - 1) / 2, half a step off zero, so
    that 2 bits mean four levels. The price: where one value of a group is much larger than all
    others, these are moved to half a step from zero, which is a third of that value at 2 bits. A
    group of n then has a relative error of up to sqrt(n - 1) / (2**bits - 1): for 16 values 1.29 at
    2 bits, 0.26 at 4 and 0.015 at 8; for 128 values 3.8, 0.75 and 0.044. `Affine` and `zero_level`
    do not have it. A scale below 2**-25, where fp16 ends, is stored as zero, and with it all values
    of the group: at 8 bits if the largest is below 3.8e-6.

    zero_level: put a level at zero and the largest magnitude 2**(bits-1) - 1 steps away, which
    leaves the lowest code unused and only three levels in 2 bits, as arXiv 2603.27469 did.

    Source  folklore baseline; no paper.
    """

    zero_level: bool = False

    @property
    def _top(self) -> float:
        """Steps from zero to the largest magnitude."""
        return float(2**self.bits - (2 if self.zero_level else 1)) / 2

    @property
    def _zero(self) -> float:
        """The code of zero; between two codes where zero is no level."""
        return float(2**self.bits - (0 if self.zero_level else 1)) / 2

    def fit(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        """One scale a group: the largest magnitude sits on the outermost level."""
        scale = low.abs().maximum(high.abs()) / self._top
        return {"scale": scale.clamp_max(FP16_MAX).half()}

    def measure(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        """As `fit`."""
        return {"scale": (low.abs().maximum(high.abs()) / self._top).clamp_min(SCALE_MIN)}

    def place(self, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """A level at zero is rounded to before its code is added, which is the finer arithmetic."""
        if self.zero_level:
            return (x / scale).round() + self._zero
        return (x / scale + self._zero).round()

    def plane(self) -> CodePlane:
        """Levels evenly around zero; kernels encode where the outermost are the extremes."""
        fit: Literal["absmax"] | None = "absmax" if self.plain and not self.zero_level else None
        return CodePlane(self.bits, self.group, self.axis, offset=-self._zero, fit=fit)

    def grid(self, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The zero follows from the scale and is not stored."""
        scale = parts["scale"].float()
        return scale, scale * -self._zero
