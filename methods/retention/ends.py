"""Keeps the first and the newest frames in a tier of their own, around any frame policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from harness.api import KEEP, CacheSpec, FramePolicy, History, Placement, VideoSize
from methods.retention.bounds import require_counts
from methods.retention.window import Window

EXACT = "exact"


@dataclass(frozen=True)
class Ends(FramePolicy):
    """Stores the first `sink` frames and the newest `recent` frames in tier `exact`.

    The inner policy sees only the frames between them.

    inner: policy for the frames between the ends.
    sink: frames. A model with its own window drops them too, unless the model has a sink.
    recent: frames, including the newest chunk.
    num_frames: length of the video in frames, set by `sized`, not by the user.

    Source  the RECENT2 rows of arXiv 2603.27469 (two chunks, the current one included); the sink
    of StreamingLLM (arXiv 2309.17453).
    Raises  ValueError: no frames at either end; an inner policy that is not a `FramePolicy` or that
    has a tier `exact`.
    """

    inner: FramePolicy
    sink: int = 0
    recent: int = 0
    num_frames: int | None = None

    def __post_init__(self) -> None:
        require_counts(self, "sink", "recent")
        if self.sink + self.recent == 0:
            raise ValueError("Ends.sink=0 and Ends.recent=0: choose at least one frame at an end")
        if not isinstance(self.inner, FramePolicy):
            raise ValueError(f"Ends.inner={self.inner}: give a FramePolicy")
        # One tier would hold frames of both policies.
        if EXACT in self.inner.tiers:
            raise ValueError(f"Ends.inner={self.inner}: give a policy without a tier {EXACT}")

    @property
    def tiers(self) -> tuple[str, ...]:
        """Return `exact` and the tiers of the inner policy."""
        return (EXACT, *self.inner.tiers)

    @property
    def queries(self) -> int:  # type: ignore[override]  # the contract has plain attributes
        """Same as the inner policy."""
        return self.inner.queries

    @property
    def observes_noisy(self) -> bool:  # type: ignore[override]
        """Same as the inner policy."""
        return self.inner.observes_noisy

    @property
    def splits(self) -> bool:  # type: ignore[override]
        """Same as the inner policy."""
        return self.inner.splits

    @property
    def uneven(self) -> bool:  # type: ignore[override]
        """Same as the inner policy."""
        return self.inner.uneven

    @property
    def span(self) -> int:  # type: ignore[override]
        """Same as the inner policy."""
        return self.inner.span

    def check(self, spec: CacheSpec) -> None:
        """Check that the inner policy supports the model."""
        self.inner.check(spec)

    def sized(self, room: VideoSize) -> Self:
        """Return this policy with the length of the video and with the inner policy sized."""
        return replace(self, inner=self.inner.sized(room), num_frames=room.num_frames)

    def observe(self, k_BHFTD: Tensor, v_BHFTD: Tensor) -> Tensor | None:
        """Return the inner policy's notes."""
        return self.inner.observe(k_BHFTD, v_BHFTD)

    def max_frames(self, tier: str, num_frames: int) -> int | None:
        """Return the size of the ends for `exact`, else the inner policy's maximum between them."""
        if tier == EXACT:
            return min(num_frames, self.sink + self.recent)
        # A history shorter than the video is that of a model with a window. Sink frames may leave
        # that window, and the inner policy then gets their places.
        sink = self.sink if num_frames == self.num_frames else 0
        between = max(0, num_frames - self.recent - sink)
        if isinstance(self.inner, Window):  # the sink that its budget includes may be kept here
            return self.inner.max_frames(tier, between, kept=self.sink)
        return self.inner.max_frames(tier, between)

    def decide(self, history: History) -> Mapping[int, Placement]:
        """Place the ends, then ask the inner policy about the frames between them."""
        ends = {f for f in history.frames if f < self.sink}
        # A slice of -0 would be all frames.
        if self.recent:
            ends |= set(history.frames[-self.recent :])
        placements: dict[int, Placement] = dict.fromkeys(sorted(ends), EXACT)
        between = [f for f in history.frames if f not in ends]
        if not between:
            return placements
        # A frame that was exact is new to the inner policy. A new frame that the inner policy does
        # not mention goes to KEEP, so set that first; the inner decision overrides it.
        placements |= {f: KEEP for f in between if history.tiers.get(f) == EXACT}
        known = {f: t for f, t in history.tiers.items() if f not in ends and t != EXACT}
        # Shares and budgets of the inner policy count over the frames that it sees.
        num_frames = history.num_frames - len(ends)
        seen = replace(history, frames=between, num_frames=num_frames, tiers=known)
        return {**placements, **self.inner.decide(seen)}
