"""Skips the same denoising passes in every chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.api import Reuse


@dataclass(frozen=True, kw_only=True)
class Fixed(Reuse):
    """Skips passes by number, independent of the video: the control for adaptive policies.

    steps: numbers of the passes to skip in each chunk, from 1.

    Source  the FLOWCACHE_NATIVE rows of arXiv 2603.27469, which in effect skip one pass of four.
    Raises  ValueError: a pass below 1.
    """

    # With four steps a chunk, one pass of four, as those rows in effect.
    steps: Sequence[int] = (1,)

    def __post_init__(self) -> None:
        super().__post_init__()
        # The first pass of a chunk has no earlier pass to reuse.
        if any(step < 1 for step in self.steps):
            raise ValueError(f"Fixed.steps={list(self.steps)}: give passes from 1 on")

    def skips(self, step: int, num_steps: int, drifts: list[float]) -> bool:
        """Return whether `steps` contains the pass."""
        return step in self.steps
