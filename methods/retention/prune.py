"""Keeps recent and important frames and drops (`Prune`) or pools (`SoftPrune`) the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from harness.api import DROP, POOL, Budget, CacheSpec, VideoSize
from methods.retention.bounds import most_frames, require_shares
from methods.retention.ladder import Counts, Ladder, share_of


@dataclass(frozen=True)
class Prune(Ladder):
    """Keeps the share `keep` of the frames that are neither recent nor important.

    A dropped frame does not come back.

    keep: share of those frames, best scores first, at least one frame; 0 for none.
    budget: the total that may stay, parsed by `Budget`; replaces `keep`. Shares then refer to the
    frames that stay, the newest and the best of the older ones.
    frames: the budget in whole frames, set by `sized`, not by the user.

    Source  FLOWCACHE_PRUNE of arXiv 2603.27469. There, dropped frames stay in the attention as
    zeroed tokens and keep competing; here they leave the cache.
    Raises  ValueError: see `Ladder`; both or neither of keep and budget.
    """

    keep: float | None = 0.5
    budget: str | None = None
    frames: int | None = None
    rest: ClassVar[str] = DROP

    def __post_init__(self) -> None:
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
        """Check that the budget holds one chunk."""
        if self.budget is None:
            return
        # A new chunk is decided about whole, so it must fit even if all else is dropped.
        frames = most_frames(self.budget, spec) if self.frames is None else self.frames
        if frames < spec.chunk_frames:
            raise ValueError(
                f"{type(self).__name__}.budget={self.budget} holds {frames} frames, not a chunk of "
                f"{spec.chunk_frames}: choose at least {spec.chunk_frames} frames"
            )

    def sized(self, room: VideoSize) -> Self:
        """Return this policy with its budget, if any, in whole frames of the video."""
        if self.budget is None:
            return self
        # Rounded down: a frame can only stay or leave whole.
        frames = Budget(self.budget).frames(room)
        if frames < 1:
            raise ValueError(
                f"{type(self).__name__}.budget={self.budget} holds no whole frame of this video: "
                "choose more"
            )
        return replace(self, frames=frames)

    def counts(self, num_frames: int, layer: int = 0, num_layers: int = 1) -> Counts:
        """Return the number of frames on each rung, within the budget if there is one."""
        if self.budget is None:
            return super().counts(num_frames, layer, num_layers)
        if self.frames is None:
            name = type(self).__name__
            raise ValueError(f"{name}.budget={self.budget}: not counted in frames, call sized()")
        # As if history had no more frames than fit: all shares then refer to these.
        return super().counts(min(num_frames, self.frames), layer, num_layers)

    def retained(self, factor: float, num_frames: int) -> int:
        """Return the share `keep` of `num_frames`, or all of them if there is a budget."""
        # With a budget, `counts` has already limited the frames to those that fit.
        return num_frames if self.keep is None else share_of(self.keep * factor, num_frames)


@dataclass(frozen=True)
class SoftPrune(Prune):
    """Like `Prune`, but replaces each dropped frame by one token, the mean of its keys and values.

    The token carries the logit bias log(n) for the n tokens it replaces. Pooled tokens are not
    counted in the budget.

    Source  FLOWCACHE_SOFT_PRUNE of arXiv 2603.27469, which stores the n copies.
    """

    # With the bias one token receives as much attention as n copies would.
    rest: ClassVar[str] = POOL
