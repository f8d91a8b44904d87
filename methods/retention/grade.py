"""Keeps every frame and stores recent and important ones with more bits."""

from __future__ import annotations

from dataclasses import dataclass

from harness.api import KEEP
from methods.retention.ladder import Ladder


@dataclass(frozen=True)
class Grade(Ladder):
    """Stores recent and important frames in the best tier and all others in KEEP.

    Source  FLOWCACHE_ADAPTIVE of arXiv 2603.27469; with important=0, its FLOWCACHE_HYBRID. Both
    decide again in every call and let frames return to the best tier.
    Raises  ValueError: see `Ladder`; best=KEEP, which would leave a single tier.
    """

    important: float = 0.2
    best: str = "high"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.best == KEEP:
            raise ValueError(f"Grade.best={KEEP}: name a tier of the method, or choose KeepAll")

    @property
    def competes(self) -> bool:
        """True if some frames are chosen by importance."""
        return self.important > 0

    def retained(self, factor: float, num_frames: int) -> int:
        """Return `num_frames`: no frame leaves."""
        # So nothing is left for the placement `rest`.
        return num_frames
