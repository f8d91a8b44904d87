"""Both ends exact: the first and the newest frames in a tier of their own, around any policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from harness.api import KEEP, CacheSpec, FramePolicy, History, Placement, VideoSize
from methods.retention.bounds import require_counts

EXACT = "exact"


@dataclass(frozen=True)
class Ends(FramePolicy):
    """The first `sink` frames and the newest `recent` ones lie in tier `exact`.

    What lies between is the whole history to the inner policy: it counts its shares and budgets
    over those frames, and a frame that leaves the newest ones is new to it. `recent` counts the
    newest chunk, which is the one the policy is asked about. A model with a window of its own
    drops the sink too, unless it has one itself. num_frames: of the video, set by `sized`,
    not by hand.

    Source  the RECENT2 rows of arXiv 2603.27469 (two chunks, the current one included); the sink
    of StreamingLLM (arXiv 2309.17453).
    Raises  ValueError: no frames at either end; an inner policy with a tier `exact`.
    """

    inner: FramePolicy
    sink: int = 0
    recent: int = 0
    num_frames: int | None = None

    def __post_init__(self) -> None:
        """Refuse ends without frames, and other kinds of policies."""
        require_counts(self, "sink", "recent")
        if self.sink + self.recent == 0:
            raise ValueError("Ends.sink=0 and Ends.recent=0: choose at least one frame at an end")
        if not isinstance(self.inner, FramePolicy):
            raise ValueError(f"Ends.inner={self.inner}: give a FramePolicy")
        if EXACT in self.inner.tiers:
            raise ValueError(f"Ends.inner={self.inner}: give a policy without a tier {EXACT}")

    @property
    def tiers(self) -> tuple[str, ...]:
        """Its own, then the inner policy's."""
        return (EXACT, *self.inner.tiers)

    @property
    def queries(self) -> int:  # type: ignore[override]  # the contract has plain attributes
        """As the inner policy asks."""
        return self.inner.queries

    @property
    def observes_noisy(self) -> bool:  # type: ignore[override]
        """As the inner policy does."""
        return self.inner.observes_noisy

    @property
    def splits(self) -> bool:  # type: ignore[override]
        """As the inner policy does."""
        return self.inner.splits

    @property
    def uneven(self) -> bool:  # type: ignore[override]
        """As the inner policy is."""
        return self.inner.uneven

    @property
    def span(self) -> int:  # type: ignore[override]
        """As the inner policy's."""
        return self.inner.span

    def check(self, spec: CacheSpec) -> None:
        """As the inner policy."""
        self.inner.check(spec)

    def sized(self, room: VideoSize) -> Self:
        """With the inner policy sized."""
        return replace(self, inner=self.inner.sized(room), num_frames=room.num_frames)

    def observe(self, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor | None:
        """The inner policy's note."""
        return self.inner.observe(k_BHTD, v_BHTD)

    def max_frames(self, tier: str, num_frames: int) -> int | None:
        """The ends, and the inner policy's of what lies between.

        Where the model's window is shorter than the video, its sink frames may leave it, and the
        inner policy gets their places.
        """
        if tier == EXACT:
            return min(num_frames, self.sink + self.recent)
        sink = self.sink if num_frames == self.num_frames else 0
        return self.inner.max_frames(tier, max(0, num_frames - self.recent - sink))

    def decide(self, history: History) -> Mapping[int, Placement]:
        """The ends, then the inner policy over the frames between them."""
        ends = {f for f in history.frames if f < self.sink}
        if self.recent:
            ends |= set(history.frames[-self.recent :])
        placements: dict[int, Placement] = dict.fromkeys(sorted(ends), EXACT)
        between = [f for f in history.frames if f not in ends]
        if not between:
            return placements
        # A frame that was exact is new to the inner policy, and a new one it leaves out is kept.
        placements |= {f: KEEP for f in between if history.tiers.get(f) == EXACT}
        known = {f: t for f, t in history.tiers.items() if f not in ends and t != EXACT}
        num_frames = history.num_frames - len(ends)
        seen = replace(history, frames=between, num_frames=num_frames, tiers=known)
        return {**placements, **self.inner.decide(seen)}
