"""Skip a pass while its input has changed little."""

from __future__ import annotations

from dataclasses import dataclass

from harness.api import Reuse


@dataclass(frozen=True)
class Drift(Reuse):
    """Skips while the drifts since the last evaluated pass sum to less than `threshold`.

    warmup: passes at the beginning of a chunk that are always run. protect_last: so is its last.

    Source  FlowCache (arXiv 2602.10825), section 3, chunkwise reuse, with the patch embedding as
    the feature that drifts; the rule is TeaCache's (arXiv 2411.19108).
    Raises  ValueError: a threshold that is not positive, a negative warm-up.
    """

    threshold: float
    warmup: int = 1
    protect_last: bool = True

    def __post_init__(self) -> None:
        """Refuse what never skips or makes no sense."""
        if not self.threshold > 0:
            raise ValueError(f"Drift.threshold={self.threshold}: give a positive number")
        if self.warmup < 0:
            raise ValueError(f"Drift.warmup={self.warmup}: give 0 passes or more")

    def skips(self, step: int, num_steps: int, drifts: list[float]) -> bool:
        """By the sum of drifts."""
        if step < self.warmup or (self.protect_last and step == num_steps - 1):
            return False
        return sum(drifts) < self.threshold
