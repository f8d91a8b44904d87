"""Sliding window with an optional sink: the baseline for eviction methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from harness.api import DROP, KEEP, Budget, CacheSpec, FramePolicy, History, Placement, VideoSize
from methods.retention.bounds import most_frames, require_counts


@dataclass(frozen=True)
class Window(FramePolicy):
    """Keeps the first `sink` frames and as many of the newest as the budget allows.

    budget: an amount and a unit, parsed by `Budget`. It covers history only, not the chunk being
    denoised.
    sink: frames, included in the budget. A model with its own window drops them too, unless the
    model has a sink.
    frames: the budget in whole frames, set by `sized`, not by the user.

    Source  StreamingLLM (arXiv 2309.17453), with frames instead of tokens.
    Raises  ValueError: a budget that cannot hold the sink and one chunk.
    """

    budget: str = "12 frames"
    sink: int = 0
    frames: int | None = None

    def __post_init__(self) -> None:
        require_counts(self, "sink")
        Budget(self.budget)

    def check(self, spec: CacheSpec) -> None:
        """Check that the budget holds the sink and one chunk."""
        # Once as a bound, before the video is known, and again with the number of `sized`.
        frames = most_frames(self.budget, spec) if self.frames is None else self.frames
        least = self.sink + spec.chunk_frames
        if frames < least:
            raise ValueError(
                f"Window.budget={self.budget} holds {frames} frames, not a sink of {self.sink} and "
                f"a chunk of {spec.chunk_frames}: choose at least {least} frames"
            )

    def sized(self, room: VideoSize) -> Self:
        """Return this policy with its budget in whole frames of the video."""
        frames = Budget(self.budget).frames(room)
        if frames <= self.sink:
            raise ValueError(
                f"Window.budget={self.budget} holds {frames} frames of this video, Window.sink="
                f"{self.sink}: choose more than the sink"
            )
        return replace(self, frames=frames)

    def max_frames(self, tier: str, num_frames: int, kept: int = 0) -> int:
        """Return the size of the window for KEEP and 0 for other tiers.

        kept: first frames of the video that another policy keeps. The budget counts those of them
        that are in the sink, but they take no room here.
        """
        # Only what really enters KEEP: the cache allocates this many frames at once.
        return min(self._held - min(kept, self.sink), num_frames) if tier == KEEP else 0

    def decide(self, history: History) -> Mapping[int, Placement]:
        """Drop the frames that are neither in the sink nor among the newest."""
        # `sized` has made sure that the budget exceeds the sink, so this is never a slice of -0.
        newest = set(history.frames[-(self._held - self.sink) :])
        return {f: DROP for f in history.frames if f >= self.sink and f not in newest}

    @property
    def _held(self) -> int:
        if self.frames is None:
            raise ValueError(f"Window.budget={self.budget}: not counted in frames, call sized()")
        return self.frames
