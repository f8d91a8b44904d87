"""Keeps every frame, for methods that only quantize."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from harness.api import KEEP, FramePolicy, History, Placement


@dataclass(frozen=True)
class KeepAll(FramePolicy):
    """Keeps every frame in KEEP; only the model's own window drops frames."""

    # By this word, orders of passes without a history accept the policy.
    keeps_all: ClassVar[bool] = True

    def max_frames(self, tier: str, num_frames: int) -> int:
        """Return `num_frames` for KEEP and 0 for other tiers."""
        return num_frames if tier == KEEP else 0

    def decide(self, history: History) -> Mapping[int, Placement]:
        """Return no placements: new frames go to KEEP."""
        return {}
