"""Splits each frame into tiers: salient positions get more bits than the background."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from harness.api import KEEP, CacheSpec, FramePolicy, History, Placement, Split
from methods.retention.bounds import require_choice, require_shares

FOREGROUND = "foreground"


class Saliency(ABC):
    """Scores the positions of a frame. Stateless; each layer is scored on its own."""

    shared: bool = False  # whether all frames of a layer have the same scores

    @abstractmethod
    def observe(self, v_BHFTD: Tensor) -> Tensor:
        """Return small notes on the values of frames [F, ...]."""

    @abstractmethod
    def of(self, frame: int, history: History) -> Tensor:
        """Return the score of each position of a frame [T] fp32, larger is more important."""


@dataclass(frozen=True)
class Motion(Saliency):
    """Relative change of mean |V| at a position from the previous frame, averaged over heads.

    The first frame of a video is compared with the next one. If there is no next one (chunks of one
    frame), the scores choose positions that spread evenly over the frame.
    """

    def observe(self, v_BHFTD: Tensor) -> Tensor:
        """Return mean |V| by head and position [F, H, T] fp16, 1/256 of the size of K and V."""
        # In fp16, since the notes of all frames are kept for the whole video.
        return v_BHFTD.float().abs().mean((0, 4)).half().transpose(0, 1)

    def of(self, frame: int, history: History) -> Tensor:
        """Return the mean over heads of |a - b| / (mean over positions of b) [T] fp32."""
        now = history.notes[frame].float()
        # The first frame of a video has no earlier one.
        other = history.notes.get(frame - 1, history.notes.get(frame + 1))
        if other is None:
            # Multiples of the golden ratio modulo 1 fill 0..1 evenly for any number of positions.
            golden = (5**0.5 - 1) / 2
            return torch.arange(now.shape[1], device=now.device) * golden % 1
        # Relative to the head's own mean, so that no head outweighs the others.
        then = other.float()
        return ((now - then).abs() / then.mean(1, keepdim=True).clamp_min(1e-6)).mean(0)


@dataclass(frozen=True)
class Variance(Saliency):
    """Population variance of mean |V| over frames; all frames share it (as published).

    over: `filled`: the stored frames. `capacity`: all frames of the video, where frames not yet
    generated count as zeros.

    Source  the SPATIAL_MIXED rows of arXiv 2603.27469, which use the capacity.
    Raises  ValueError: an unknown word for `over`.
    """

    over: Literal["filled", "capacity"] = "filled"
    shared = True  # not a field: the formula does not depend on the frame

    def __post_init__(self) -> None:
        require_choice(self, "over", "filled", "capacity")

    def observe(self, v_BHFTD: Tensor) -> Tensor:
        """Return mean |V| of each position [F, T] fp32, over batch, heads and channels."""
        return v_BHFTD.float().abs().mean((0, 1, 4))

    def of(self, frame: int, history: History) -> Tensor:
        """Return the variance of each position [T] fp32."""
        notes = torch.stack([history.notes[f] for f in history.frames])
        # Positions with large values vary most against these zeros, even if they never change.
        if self.over == "capacity":
            empty = max(0, history.capacity - len(notes))
            notes = torch.cat([notes, notes.new_zeros(empty, notes.shape[1])])
        return notes.var(0, correction=0)


class Choice(ABC):
    """Chooses the number of foreground positions."""

    fixed: bool = False  # whether all frames have the same number; pages of one size need this

    @abstractmethod
    def count(self, score_T: Tensor) -> int:
        """Return how many of the highest-scoring positions are foreground."""


@dataclass(frozen=True)
class Top(Choice):
    """A fixed share of the positions, independent of the scale of the scores.

    share: above 0, at most 1.

    Raises  ValueError: a share outside that range.
    """

    share: float = 0.65
    fixed = True

    def __post_init__(self) -> None:
        require_shares(self, "share", above=True)

    def count(self, score_T: Tensor) -> int:
        """Return the share of positions, rounded."""
        return round(self.share * len(score_T))


@dataclass(frozen=True)
class Above(Choice):
    """The positions with a score above `threshold`, within the shares `least` and `most`.

    Source  policy `threshold` of the SPATIAL_MIXED rows of arXiv 2603.27469; it is uncalibrated.
    Raises  ValueError: a share outside 0..1; `least` above `most`.
    """

    threshold: float = 0.02
    least: float = 0.45
    most: float = 0.85

    def __post_init__(self) -> None:
        require_shares(self, "least", "most")
        if self.least > self.most:
            name = type(self).__name__
            raise ValueError(f"{name}.least={self.least}: choose at most {name}.most={self.most}")

    def count(self, score_T: Tensor) -> int:
        """Return the number of scores above the threshold, clamped to the bounds."""
        low, high = self._bounds(len(score_T))
        return min(max(self._above(score_T), low), high)

    def _above(self, score_T: Tensor) -> int:
        return int((score_T > self.threshold).sum())

    def _bounds(self, size: int) -> tuple[int, int]:
        # The threshold is not calibrated, so these keep a tier from becoming nearly empty.
        return round(self.least * size), round(self.most * size)


@dataclass(frozen=True)
class AboveOrTop(Above):
    """Like `Above` if the count lies within its bounds, otherwise a fixed share.

    Source  policy `hybrid` of the SPATIAL_MIXED rows of arXiv 2603.27469.
    """

    share: float = 0.65

    def __post_init__(self) -> None:
        super().__post_init__()
        require_shares(self, "share")

    def count(self, score_T: Tensor) -> int:
        """Return the number of scores above the threshold, or the share if out of bounds."""
        low, high = self._bounds(len(score_T))
        above = self._above(score_T)
        return above if low <= above <= high else round(self.share * len(score_T))


@dataclass(frozen=True)
class Foreground(FramePolicy):
    """Stores salient positions of a frame in tier `foreground` and the others in KEEP.

    Methods need `keys: roped`, because the positions of split tokens are not stored with their
    keys.

    saliency: scores the positions.
    choice: chooses the number of foreground positions.
    frozen: decide once per frame, when it is new and its values are exact. If false, decide again
    for all frames in every call (as published); groups of tokens then change.

    Source  SPATIAL_MIXED of arXiv 2603.27469, as an idea; the original uses one mask for all
    frames.
    Raises  ValueError: a saliency or choice of the wrong type; a choice that leaves a tier empty.
    """

    saliency: Saliency = field(default_factory=Motion)
    choice: Choice = field(default_factory=Top)
    frozen: bool = True
    splits = True  # not a field: the policy always splits frames

    def __post_init__(self) -> None:
        kinds: dict[str, type] = {"saliency": Saliency, "choice": Choice}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"Foreground.{name}={getattr(self, name)}: give a {kind.__name__}")

    @property
    def uneven(self) -> bool:  # type: ignore[override]  # the contract has plain attributes
        """True if frames are decided again or if their foreground sizes differ."""
        return not (self.frozen and self.choice.fixed)

    def check(self, spec: CacheSpec) -> None:
        """Check that both tiers of a frame get tokens."""
        # An empty tier would have pages without tokens.
        size = spec.tokens_per_frame
        if self.choice.fixed and not 0 < self.choice.count(torch.empty(size)) < size:
            raise ValueError(
                f"Foreground.choice={self.choice} takes none or all of the {size} positions of a "
                "frame: choose a share that leaves both"
            )

    @property
    def tiers(self) -> tuple[str, ...]:
        """Return the name of the only tier besides KEEP, `foreground`."""
        return (FOREGROUND,)

    def observe(self, k_BHFTD: Tensor, v_BHFTD: Tensor) -> Tensor:
        """Return the notes of the saliency."""
        return self.saliency.observe(v_BHFTD)

    def max_frames(self, tier: str, num_frames: int) -> int | None:
        """Return `num_frames` for both tiers, since each frame has a part in both."""
        if not self.choice.fixed:
            return None
        return num_frames if tier in (FOREGROUND, KEEP) else 0

    def decide(self, history: History) -> Mapping[int, Placement]:
        """Split the new frames, or all frames if not `frozen`."""
        # A frame in a tier was decided before, from exact values. Its stored values are rounded, so
        # a second decision could differ.
        frames = [f for f in history.frames if not (self.frozen and f in history.tiers)]
        # With scores that all frames share, one split serves all: it is counted and sorted once.
        if self.saliency.shared and frames:
            return dict.fromkeys(frames, self._split(self.saliency.of(frames[0], history)))
        return {frame: self._split(self.saliency.of(frame, history)) for frame in frames}

    def _split(self, score_T: Tensor) -> Split:
        """Put the highest scores in the foreground."""
        # Stable, so that of equal scores the lower position comes first on every device.
        best = score_T.sort(descending=True, stable=True).indices[: self.choice.count(score_T)]
        # The positions of a `Split` are ascending.
        return Split(best.sort().values, first=FOREGROUND, rest=KEEP)
