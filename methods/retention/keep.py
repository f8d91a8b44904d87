"""Keep every frame: quantizers alone."""

from __future__ import annotations

from dataclasses import dataclass

from harness.api import Fate, History, Retention


@dataclass(frozen=True)
class KeepAll(Retention):
    """Nothing ever leaves the cache, except what the model's own window drops."""

    def most_kept(self, num_frames: int) -> int:
        """All of them."""
        return num_frames

    def decide(self, history: History) -> dict[int, Fate]:
        """No frame changes."""
        return {}
