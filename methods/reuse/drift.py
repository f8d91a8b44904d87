"""Skips a denoising pass if its input has changed little."""

from __future__ import annotations

from dataclasses import dataclass

from harness.api import Reuse


@dataclass(frozen=True)
class Drift(Reuse):
    """Skips while the drifts since the last evaluated pass sum to less than `threshold`.

    threshold: sum of relative L1 changes, above 0.
    warmup: number of passes at the start of a chunk that always run.
    protect_last: whether the last pass of a chunk always runs.

    Source  FlowCache (arXiv 2602.10825), section 3, chunkwise reuse, applied to the patch
    embedding; the rule is TeaCache's (arXiv 2411.19108).
    Raises  ValueError: a threshold that is not positive; a negative warmup.
    """

    threshold: float
    warmup: int = 1
    protect_last: bool = True

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise ValueError(f"Drift.threshold={self.threshold}: give a positive number")
        if self.warmup < 0:
            raise ValueError(f"Drift.warmup={self.warmup}: give 0 passes or more")

    def skips(self, step: int, num_steps: int, drifts: list[float]) -> bool:
        """Return whether the drifts sum to less than the threshold and the pass may be skipped."""
        if step < self.warmup or (self.protect_last and step == num_steps - 1):
            return False
        return sum(drifts) < self.threshold
