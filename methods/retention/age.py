"""Stores the newest frames with more bits than older ones."""

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

    share: share of frames in `recent`, above 0, at most 1.
    over: total that the share refers to. `filled`: the frames stored so far; at least one frame is
    recent. `capacity` (as published): all frames of the video, so that no frame is recent until the
    video is nearly complete.
    room: size of the video, set by `sized`, not by the user.

    Source  AGE_TIER and TPTQ of arXiv 2603.27469, which use the capacity.
    Raises  ValueError: a share outside 0..1; an unknown word for `over`.
    """

    share: float = 0.3
    over: Literal["filled", "capacity"] = "filled"
    room: VideoSize | None = None

    def __post_init__(self) -> None:
        require_shares(self, "share", above=True)
        require_choice(self, "over", "filled", "capacity")

    @property
    def tiers(self) -> tuple[str, ...]:
        """Return the name of the only tier, `recent`."""
        return (RECENT,)

    @property
    def uneven(self) -> bool:  # type: ignore[override]  # the contract has plain attributes
        """True for over=capacity, whose border lies inside a frame."""
        # Pages of a tier then differ in size, which needs an integration without pages.
        return self.over == "capacity"

    def sized(self, room: VideoSize) -> Self:
        """Return this policy with the size of the video."""
        return replace(self, room=room)

    def max_frames(self, tier: str, num_frames: int) -> int | None:
        """Return the largest number of frames in a tier over all lengths up to `num_frames`."""
        if self.over == "capacity":
            return None
        # Round each length: rounding can make a count fall while history grows.
        recent = [self._num_recent(n) for n in range(1, num_frames + 1)]
        placed = {RECENT: recent, KEEP: [n - r for n, r in enumerate(recent, 1)]}
        return max(placed.get(tier, []), default=0)

    def decide(self, history: History) -> Mapping[int, Placement]:
        """Place every frame by its age."""
        if self.over == "filled":
            newest = set(history.frames[-self._num_recent(history.num_frames) :])
            return {frame: RECENT if frame in newest else KEEP for frame in history.frames}
        # As in the study's program, the newest tokens of a full cache are recent, filled or not.
        if self.room is None:
            raise ValueError("Age.over=capacity: the capacity is not known, call sized()")
        size = self.room.tokens_per_frame
        capacity = self.room.num_frames * size
        border = capacity - round(self.share * capacity)  # place of the first recent token
        placements: dict[int, Placement] = {}
        for frame in history.frames:
            old = border - frame * size  # tokens of the frame before the border
            if 0 < old < size:  # the border lies inside this frame
                placements[frame] = Split(torch.arange(old), first=KEEP, rest=RECENT)
            else:
                placements[frame] = KEEP if old >= size else RECENT
        return placements

    def _num_recent(self, num_frames: int) -> int:
        # At least one, so that the newest frame is always recent.
        return max(1, round(self.share * num_frames))
