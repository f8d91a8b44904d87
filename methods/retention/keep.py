"""Keep every frame: quantizers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.api import KEEP, FramePolicy, History, Placement


@dataclass(frozen=True)
class KeepAll(FramePolicy):
    """Nothing ever leaves the cache, except what the model's own window drops."""

    def max_frames(self, tier: str, num_frames: int) -> int:
        """All of them."""
        return num_frames if tier == KEEP else 0

    def decide(self, history: History) -> Mapping[int, Placement]:
        """No frame changes."""
        return {}
