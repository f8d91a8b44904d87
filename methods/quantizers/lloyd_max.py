"""Rounds to fixed levels that are optimal for a normal distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from torch import Tensor

from harness.api import CacheSpec, CodePlane, KernelLayout, Packed, Quantizer
from harness.api.bits import pack
from methods.quantizers.grouped import require_whole_bytes, staged
from methods.quantizers.levels import look_up, nearest, on_device


@dataclass(frozen=True)
class LloydMax(Quantizer):
    """Rounds to the levels with the least mean squared error for a standard normal distribution.

    It stores no metadata.

    Source  TurboQuant (arXiv 2504.19874), algorithm 1. It uses the distribution of one coordinate
    on the unit sphere; this class uses the normal distribution, its limit in many dimensions.
    Shapes  x [B, H, F, T, D] -> codes [B, H, F, T, D * bits / 8] u8.
    Raises  ValueError: bits not 2 or 4; codes that do not fill whole bytes.
    """

    bits: int = 4

    def __post_init__(self) -> None:
        if self.bits not in (2, 4):
            raise ValueError(f"LloydMax.bits={self.bits}: choose 2 or 4")

    @property
    def per_token(self) -> bool:
        """True: there is no metadata."""
        return True

    def check(self, spec: CacheSpec) -> None:
        """Check that codes fill whole bytes."""
        require_whole_bytes(self, self.bits, spec)

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Store the code of the level nearest to each value."""
        # The levels fit values of mean 0 and deviation 1: an outer quantizer must normalize them
        # (`QuaRot` of `Normed`).
        levels = on_device(normal_levels(2**self.bits), x_BHFTD.device)
        codes = nearest(x_BHFTD.float(), levels)
        page = (x_BHFTD.shape[3], x_BHFTD.shape[4])
        return Packed({"codes": pack(codes, self.bits)}, self.bits, page)

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Look the levels up."""
        levels = on_device(normal_levels(2**self.bits), packed.device)
        for tile, x in staged(packed, out_BHFTD):
            look_up(tile.parts["codes"], self.bits, levels, x)

    def kernel_layout(self) -> KernelLayout:
        """Return a layout with a table and no scale."""
        table = normal_levels(2**self.bits)
        return KernelLayout((CodePlane(self.bits, None, "channels", scale=None, table=table),))


# Cached, since every layer and pass asks. Plain Python numbers, the same on every device.
@cache
def normal_levels(count: int) -> tuple[float, ...]:
    """Return the Lloyd-Max levels of the standard normal distribution, ascending.

    They are the fixed point of Lloyd's iteration: each level is the mean of the distribution
    between the midpoints to its neighbours.
    """
    # The start does not matter, because a normal distribution has a single fixed point.
    levels = [4 * (i + 0.5) / count - 2 for i in range(count)]
    moved = 1.0
    while moved > 1e-10:  # well below the precision of fp32
        middles = [(a + b) / 2 for a, b in pairwise(levels)]
        cells = pairwise([-math.inf, *middles, math.inf])
        # The mean of a standard normal variable between a and b.
        means = [(_density(a) - _density(b)) / (_share(b) - _share(a)) for a, b in cells]
        moved = max(abs(a - b) for a, b in zip(levels, means, strict=True))
        levels = means
    return tuple(levels)


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _share(x: float) -> float:
    """Return the standard normal probability of a value below x."""
    return (1 + math.erf(x / math.sqrt(2))) / 2
