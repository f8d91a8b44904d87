"""Round to nearest: the plainest quantizer, the floor the others must beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from harness.api import Plane
from methods.quantizers.grouped import FP16_MAX, Grouped


@dataclass(frozen=True)
class RTN(Grouped):
    """Symmetric rounding; all 2**bits levels are used.

    The levels lie at (code - top) * scale with top = (2**bits - 1) / 2, half a step off zero, so
    that 2 bits mean four levels. (Scaling by max|x| with a level at zero leaves only three.)

    Source  folklore baseline; no paper.
    """

    @property
    def _top(self) -> float:
        return float(2**self.bits - 1) / 2

    def fit(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        """One scale a group: the largest magnitude sits on the outermost level."""
        scale = low.abs().maximum(high.abs()) / self._top
        return {"scale": scale.clamp_max(FP16_MAX).half()}

    def plane(self) -> Plane:
        """The levels lie symmetrically around zero."""
        return Plane(self.bits, self.group, self.axis, offset=-self._top, fit="absmax")

    def grid(self, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The zero follows from the scale and is not stored."""
        scale = parts["scale"].float()
        return scale, scale * -self._top
