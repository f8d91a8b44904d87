"""Sliding window, with or without a sink: the baseline of every eviction method."""

from __future__ import annotations

from dataclasses import dataclass

from harness.api import CacheSpec, Fate, History, Retention


@dataclass(frozen=True)
class Window(Retention):
    """Keeps the first `sink` and the newest `frames - sink` frames of the finished video.

    `frames` counts history only; the chunk being denoised comes on top.

    Source  StreamingLLM (arXiv 2309.17453), with frames for tokens.
    Raises  ValueError: no room for the newest chunk beside the sink.
    """

    frames: int
    sink: int = 0

    def __post_init__(self) -> None:
        """Refuse windows that cannot hold a frame."""
        if self.sink < 0 or self.frames <= self.sink:
            raise ValueError(
                f"Window.frames={self.frames}: choose more frames than the sink of {self.sink}"
            )

    def check(self, spec: CacheSpec) -> None:
        """The window must hold the sink and one chunk."""
        if self.frames < self.sink + spec.chunk_frames:
            raise ValueError(
                f"Window.frames={self.frames} cannot hold a sink of {self.sink} and a chunk of "
                f"{spec.chunk_frames}: choose at least {self.sink + spec.chunk_frames}"
            )

    def most_kept(self, num_frames: int) -> int:
        """The window."""
        return min(self.frames, num_frames)

    def decide(self, history: History) -> dict[int, Fate]:
        """Drop what is neither sink nor among the newest."""
        newest = set(history.frames[-(self.frames - self.sink) :])
        return {f: Fate.DROP for f in history.frames if f >= self.sink and f not in newest}
