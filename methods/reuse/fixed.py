"""Skip the same passes of every chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.api import Reuse


@dataclass(frozen=True)
class Fixed(Reuse):
    """Skips passes by their number, whatever the video: the control of every adaptive policy.

    steps: passes of a chunk that are skipped, from 1.

    Source  what the FLOWCACHE_NATIVE rows of arXiv 2603.27469 came to: one pass of four.
    Raises  ValueError: a pass below 1, since the first of a chunk has nothing to reuse.
    """

    steps: Sequence[int] = (1,)

    def __post_init__(self) -> None:
        """Refuse the first pass."""
        if any(step < 1 for step in self.steps):
            raise ValueError(f"Fixed.steps={list(self.steps)}: give passes from 1 on")

    def skips(self, step: int, num_steps: int, drifts: list[float]) -> bool:
        """By its number."""
        return step in self.steps
