"""Keep every frame: quantizers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.api import KEEP, Fate, FramePolicy, History


@dataclass(frozen=True)
class KeepAll(FramePolicy):
    """Nothing ever leaves the cache, except what the model's own window drops."""

    def most(self, tier: str, num_frames: int) -> int:
        """All of them."""
        return num_frames if tier == KEEP else 0

    def decide(self, history: History) -> Mapping[int, Fate]:
        """No frame changes."""
        return {}
