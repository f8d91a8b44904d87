"""Sliding window, with or without a sink: the baseline of every eviction method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from harness.api import DROP, KEEP, Budget, CacheSpec, FramePolicy, History, Placement, VideoSize
from methods.retention.bounds import most_frames, require_counts


@dataclass(frozen=True)
class Window(FramePolicy):
    """Keeps the first `sink` frames and the newest ones that the budget still holds.

    budget: an amount and its unit, as `Budget` reads it, of history only; the chunk being denoised
    comes on top. sink: in frames, inside the budget. A model with a window of its own drops the
    sink too, unless it has one itself. frames: the budget in whole frames, set by `sized`,
    not by hand.

    Source  StreamingLLM (arXiv 2309.17453), with frames for tokens.
    Raises  ValueError: no room for the newest chunk beside the sink.
    """

    budget: str = "12 frames"
    sink: int = 0
    frames: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no budget or no sink."""
        require_counts(self, "sink")
        Budget(self.budget)

    def check(self, spec: CacheSpec) -> None:
        """The window must hold the sink and one chunk."""
        frames = most_frames(self.budget, spec) if self.frames is None else self.frames
        least = self.sink + spec.chunk_frames
        if frames < least:
            raise ValueError(
                f"Window.budget={self.budget} holds {frames} frames, not a sink of {self.sink} and "
                f"a chunk of {spec.chunk_frames}: choose at least {least} frames"
            )

    def sized(self, room: VideoSize) -> Self:
        """With the budget in whole frames."""
        frames = Budget(self.budget).frames(room)
        if frames <= self.sink:
            raise ValueError(
                f"Window.budget={self.budget} holds {frames} frames of this video, Window.sink="
                f"{self.sink}: choose more than the sink"
            )
        return replace(self, frames=frames)

    def max_frames(self, tier: str, num_frames: int) -> int:
        """The window."""
        return min(self._held, num_frames) if tier == KEEP else 0

    def decide(self, history: History) -> Mapping[int, Placement]:
        """Drop what is neither sink nor among the newest."""
        newest = set(history.frames[-(self._held - self.sink) :])
        return {f: DROP for f in history.frames if f >= self.sink and f not in newest}

    @property
    def _held(self) -> int:
        if self.frames is None:
            raise ValueError(f"Window.budget={self.budget}: not counted in frames, call sized()")
        return self.frames
