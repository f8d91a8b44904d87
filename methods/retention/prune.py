"""Prune and soft prune: keep the recent and the important frames, drop or pool the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from harness.api import DROP, POOL, Budget, CacheSpec, VideoSize
from methods.retention.bounds import most_frames, require_shares
from methods.retention.ladder import Counts, Ladder, share_of


@dataclass(frozen=True)
class Prune(Ladder):
    """Of the frames that are neither recent nor important, the share `keep` stays.

    keep: a share, at least one frame, 0 for none; in the order of their scores. budget: instead of
    it, how much may stay in all, as `Budget` reads it: shares are then of the frames that stay, the
    newest and the best of the older ones. frames: the budget in whole frames, set by `sized`,
    not by hand. A frame that left does not come back.

    Source  FLOWCACHE_PRUNE of arXiv 2603.27469. Theirs leaves zeroed tokens in the attention and
    lets them compete on; here they are gone.
    Raises  ValueError: as `Ladder`; not just one of keep and budget.
    """

    keep: float | None = 0.5
    budget: str | None = None
    frames: int | None = None
    rest: ClassVar[str] = DROP

    def __post_init__(self) -> None:
        """Refuse shares outside 0..1, and two ways to say how much stays."""
        super().__post_init__()
        name = type(self).__name__
        if (self.keep is None) == (self.budget is None):
            raise ValueError(
                f"{name}.keep={self.keep} and {name}.budget={self.budget}: give one of them, the "
                "other null"
            )
        if self.keep is not None:
            require_shares(self, "keep")
        if self.budget is not None:
            Budget(self.budget)

    def check(self, spec: CacheSpec) -> None:
        """A budget must hold a chunk."""
        if self.budget is None:
            return
        frames = most_frames(self.budget, spec) if self.frames is None else self.frames
        if frames < spec.chunk_frames:
            raise ValueError(
                f"{type(self).__name__}.budget={self.budget} holds {frames} frames, not a chunk of "
                f"{spec.chunk_frames}: choose at least {spec.chunk_frames} frames"
            )

    def sized(self, room: VideoSize) -> Self:
        """With the budget, if there is one, in whole frames."""
        if self.budget is None:
            return self
        frames = Budget(self.budget).frames(room)
        if frames < 1:
            raise ValueError(
                f"{type(self).__name__}.budget={self.budget} holds no whole frame of this video: "
                "choose more"
            )
        return replace(self, frames=frames)

    def counts(self, num_frames: int, layer: int = 0, num_layers: int = 1) -> Counts:
        """Of the frames that fit, where there is a budget."""
        if self.budget is None:
            return super().counts(num_frames, layer, num_layers)
        if self.frames is None:
            name = type(self).__name__
            raise ValueError(f"{name}.budget={self.budget}: not counted in frames, call sized()")
        return super().counts(min(num_frames, self.frames), layer, num_layers)

    def retained(self, factor: float, num_frames: int) -> int:
        """The share; all that fits, where there is a budget."""
        return num_frames if self.keep is None else share_of(self.keep * factor, num_frames)


@dataclass(frozen=True)
class SoftPrune(Prune):
    """As `Prune`, but a frame that leaves stays as one token, the mean of its keys and values.

    The token carries the logit bias log(n) of the n tokens it stands for, so it draws as much
    attention as n copies of it would. Pooled tokens come on top of a budget: one of each frame's.

    Source  FLOWCACHE_SOFT_PRUNE of arXiv 2603.27469, which holds the n copies.
    """

    rest: ClassVar[str] = POOL
