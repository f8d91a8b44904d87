"""Grade: every frame stays, recent and important ones in more bits."""

from __future__ import annotations

from dataclasses import dataclass

from harness.api import KEEP
from methods.retention.ladder import Ladder


@dataclass(frozen=True)
class Grade(Ladder):
    """Recent and important frames lie in the best tier, all others in KEEP.

    Source  FLOWCACHE_ADAPTIVE of arXiv 2603.27469; with important=0, its FLOWCACHE_HYBRID. Both
    plan anew in every call and let frames rise again.
    Raises  ValueError: as `Ladder`; KEEP as the best tier, which would be no grading.
    """

    important: float = 0.2
    best: str = "high"

    def __post_init__(self) -> None:
        """Refuse a single tier."""
        super().__post_init__()
        if self.best == KEEP:
            raise ValueError(f"Grade.best={KEEP}: name a tier of the method, or choose KeepAll")

    @property
    def competes(self) -> bool:
        """For the important ones."""
        return self.important > 0

    def retained(self, factor: float, num_frames: int) -> int:
        """All."""
        return num_frames
