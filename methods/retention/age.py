"""Tiers by age: the newest frames in more bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch

from harness.api import KEEP, FramePolicy, History, Placement, Split, VideoSize
from methods.retention.bounds import require_choice, require_shares

RECENT = "recent"


@dataclass(frozen=True)
class Age(FramePolicy):
    """Stores the newest `share` of history in tier `recent`; frames move to KEEP as they age.

    over: what the share is of. `filled`: the frames there are, at least one. `capacity` (as
    published): the place for the whole video, so that nothing is recent until the video has nearly
    filled it; the border then lies inside a frame, which is split, and pages of one tier differ in
    size: for integrations without pages. room: of this video, set by `sized`, not by hand.

    Source  AGE_TIER and TPTQ of arXiv 2603.27469, whose share is of the capacity.
    Raises  ValueError: a share outside 0..1, another word.
    """

    share: float = 0.3
    over: Literal["filled", "capacity"] = "filled"
    room: VideoSize | None = None

    def __post_init__(self) -> None:
        """Refuse what is no share, and other words."""
        require_shares(self, "share", above=True)
        require_choice(self, "over", "filled", "capacity")

    @property
    def tiers(self) -> tuple[str, ...]:
        """One."""
        return (RECENT,)

    @property
    def uneven(self) -> bool:  # type: ignore[override]  # the contract has plain attributes
        """The border of the capacity lies inside a frame."""
        return self.over == "capacity"

    def sized(self, room: VideoSize) -> Self:
        """With the capacity of the video."""
        return replace(self, room=room)

    def max_frames(self, tier: str, num_frames: int) -> int | None:
        """Both grow with history, up to rounding."""
        if self.over == "capacity":
            return None
        recent = [self._num_recent(n) for n in range(1, num_frames + 1)]
        placed = {RECENT: recent, KEEP: [n - r for n, r in enumerate(recent, 1)]}
        return max(placed.get(tier, []), default=0)

    def decide(self, history: History) -> Mapping[int, Placement]:
        """Every frame by its age."""
        if self.over == "capacity":
            return {frame: self._by_place(frame) for frame in history.frames}
        newest = set(history.frames[-self._num_recent(history.num_frames) :])
        return {frame: RECENT if frame in newest else KEEP for frame in history.frames}

    def _num_recent(self, num_frames: int) -> int:
        return max(1, round(self.share * num_frames))

    def _by_place(self, frame: int) -> Placement:
        """By where the frame's tokens lie in the capacity."""
        if self.room is None:
            raise ValueError("Age.over=capacity: the capacity is not known, call sized()")
        size = self.room.tokens_per_frame
        capacity = self.room.num_frames * size
        old = capacity - round(self.share * capacity) - frame * size  # tokens before the border
        if 0 < old < size:
            return Split(torch.arange(old), first=KEEP, rest=RECENT)
        return KEEP if old >= size else RECENT
