"""Skips a denoising pass if its input has changed little."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from harness.api import Feature, Reuse
from methods.reuse.features import PatchEmbedding


@dataclass(frozen=True, kw_only=True)
class Drift(Reuse):
    """Skips while the drifts since the last evaluated pass sum to less than `threshold`.

    threshold: a number; without `rescale` it must be above 0. Minus infinity skips none.

    Source  FlowCache (arXiv 2602.10825), section 3, chunkwise reuse; the rule is TeaCache's
    (arXiv 2411.19108). By default the feature is the patch embedding.
    Raises  ValueError: a threshold that is not a number, or not positive without `rescale`; no
            feature.
    """

    threshold: float
    feature: Feature | None = field(default_factory=PatchEmbedding)
    protect_last: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        number = isinstance(self.threshold, int | float) and not isinstance(self.threshold, bool)
        # No comparison with NaN holds, so nothing would ever be skipped, without a word.
        if not number or math.isnan(self.threshold):
            raise ValueError(
                f"Drift.threshold={self.threshold}: give a number, as method.reuse.threshold=0.1"
            )
        # Without a polynomial drifts are never negative, so nothing would ever be skipped.
        if self.rescale is None and not self.threshold > 0:
            raise ValueError(f"Drift.threshold={self.threshold}: give a positive number")
        # The base class takes null, for policies that decide by step alone.
        if self.feature is None:
            raise ValueError("Drift.feature=null: give a Feature from methods.reuse.features")

    def skips(self, step: int, num_steps: int, drifts: list[float]) -> bool:
        """Return whether the drifts sum to less than the threshold."""
        # Since the last pass that ran: many small changes end a series of skips as one large does.
        return self.accumulated(drifts) < self.threshold
