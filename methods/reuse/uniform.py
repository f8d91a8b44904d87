"""Skips a given share of the denoising passes, spread evenly."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.api import Reuse


@dataclass(frozen=True, kw_only=True)
class Uniform(Reuse):
    """Skips the share `ratio` of a chunk's passes, spread evenly over those that may be skipped.

    It is the control for every adaptive policy: set `ratio` to the skip ratio that the other one
    realised. The number of skipped passes is rounded to the nearest whole number.

    ratio: share of all passes, guarded ones included, 0 to below 1.

    Raises  ValueError: a ratio outside 0..1.
    """

    ratio: float
    protect_last: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        number = isinstance(self.ratio, int | float) and not isinstance(self.ratio, bool)
        if not number or not 0 <= self.ratio < 1:
            raise ValueError(f"Uniform.ratio={self.ratio}: give a share from 0 to below 1")

    def check(self, num_steps: int) -> None:
        """Raise ValueError if the guards leave too few steps for the ratio."""
        super().check(num_steps)
        # The ratio is of all steps, as a row's `skip_ratio` is, but guarded ones always run.
        free, wanted = len(self._free(num_steps)), round(self.ratio * num_steps)
        if wanted > free:
            raise ValueError(
                f"Uniform.ratio={self.ratio} skips {wanted} of {num_steps} steps, but only {free} "
                f"may be skipped: choose at most {free / num_steps:.2g}, or a shorter warmup"
            )

    def skips(self, step: int, num_steps: int, drifts: list[float]) -> bool:
        """Return whether the step is one of those that are skipped."""
        # Guarded steps are not asked about, so `step` is a free one.
        free, wanted = self._free(num_steps), round(self.ratio * num_steps)
        place = free.index(step)
        # The last free step before each whole multiple of 1 / wanted is skipped.
        return math.floor((place + 1) * wanted / len(free)) > math.floor(place * wanted / len(free))

    def _free(self, num_steps: int) -> list[int]:
        """Return the steps that may be skipped; the first has nothing to reuse."""
        # Asked of the guards, so that warm-up and last step may be set as for the other policy.
        return [n for n in range(1, num_steps) if not self.guards(n, num_steps)]
