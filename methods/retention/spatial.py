"""Tiers inside a frame: the positions that move in more bits than the background."""

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
    """How much a position of a frame matters. Pure, for each layer alone."""

    shared: bool = False  # whether a score serves all frames of a layer

    @abstractmethod
    def observe(self, v_BHTD: Tensor) -> Tensor:
        """A small note on a frame's values."""

    @abstractmethod
    def of(self, frame: int, history: History) -> Tensor:
        """A score for each position of a frame [T] fp32, larger for what matters more."""


@dataclass(frozen=True)
class Motion(Saliency):
    """Change of mean |V| at a position against the frame before; heads count alike.

    The first frame of a video is compared with the next one. Where there is none (chunks of one
    frame), positions are spread evenly over the frame.
    """

    def observe(self, v_BHTD: Tensor) -> Tensor:
        """mean |V| of each head and position [H, T] fp16, over the batch: 1/256 of K and V."""
        return v_BHTD.float().abs().mean((0, 3)).half()

    def of(self, frame: int, history: History) -> Tensor:
        """mean over heads of |a - b| / mean over positions of b."""
        now = history.notes[frame].float()
        other = history.notes.get(frame - 1, history.notes.get(frame + 1))
        if other is None:
            golden = (5**0.5 - 1) / 2  # its multiples modulo 1 fill the unit evenly at any count
            return torch.arange(now.shape[1], device=now.device) * golden % 1
        then = other.float()
        return ((now - then).abs() / then.mean(1, keepdim=True).clamp_min(1e-6)).mean(0)


@dataclass(frozen=True)
class Variance(Saliency):
    """Population variance over frames of mean |V|, the same for all frames (as published).

    over: `filled`: the frames that are stored. `capacity`: the frames of the whole video, those
    that are not there yet counting as zeros, so that large values score high, moving or not.

    Source  the SPATIAL_MIXED rows of arXiv 2603.27469, over capacity.
    Raises  ValueError: another word.
    """

    over: Literal["filled", "capacity"] = "filled"
    shared = True  # no field: it is what the formula says

    def __post_init__(self) -> None:
        """Refuse other words."""
        require_choice(self, "over", "filled", "capacity")

    def observe(self, v_BHTD: Tensor) -> Tensor:
        """mean |V| of each position [T] fp32, over batch, heads and channels."""
        return v_BHTD.float().abs().mean((0, 1, 3))

    def of(self, frame: int, history: History) -> Tensor:
        """The variance of each position."""
        notes = torch.stack([history.notes[f] for f in history.frames])
        if self.over == "capacity":
            empty = max(0, history.capacity - len(notes))
            notes = torch.cat([notes, notes.new_zeros(empty, notes.shape[1])])
        return notes.var(0, correction=0)


class Choice(ABC):
    """How many positions are foreground."""

    fixed: bool = False  # whether every frame has as many, which pages of storage need

    @abstractmethod
    def count(self, score_T: Tensor) -> int:
        """How many of these positions, the highest."""


@dataclass(frozen=True)
class Top(Choice):
    """A share of the positions: what is calibrated is the amount, not the score."""

    share: float = 0.65
    fixed = True

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        require_shares(self, "share", above=True)

    def count(self, score_T: Tensor) -> int:
        """The share, rounded."""
        return round(self.share * len(score_T))


@dataclass(frozen=True)
class Above(Choice):
    """The positions that score above a threshold, at least and at most certain shares.

    Source  policy `threshold` of the SPATIAL_MIXED rows of arXiv 2603.27469; it is uncalibrated.
    Raises  ValueError: shares outside 0..1, or the least above the most.
    """

    threshold: float = 0.02
    least: float = 0.45
    most: float = 0.85

    def __post_init__(self) -> None:
        """Refuse what are no shares, or not in order."""
        require_shares(self, "least", "most")
        if self.least > self.most:
            name = type(self).__name__
            raise ValueError(f"{name}.least={self.least}: choose at most {name}.most={self.most}")

    def count(self, score_T: Tensor) -> int:
        """As many as lie above, within the bounds."""
        low, high = self._bounds(len(score_T))
        return min(max(self._above(score_T), low), high)

    def _above(self, score_T: Tensor) -> int:
        return int((score_T > self.threshold).sum())

    def _bounds(self, size: int) -> tuple[int, int]:
        return round(self.least * size), round(self.most * size)


@dataclass(frozen=True)
class AboveOrTop(Above):
    """As `Above` where that lies within its bounds, else the share.

    Source  policy `hybrid` of the SPATIAL_MIXED rows of arXiv 2603.27469.
    """

    share: float = 0.65

    def __post_init__(self) -> None:
        """Refuse what are no shares."""
        super().__post_init__()
        require_shares(self, "share")

    def count(self, score_T: Tensor) -> int:
        """Within the bounds, or the share."""
        low, high = self._bounds(len(score_T))
        above = self._above(score_T)
        return above if low <= above <= high else round(self.share * len(score_T))


@dataclass(frozen=True)
class Foreground(FramePolicy):
    """Positions of a frame that matter go to tier `foreground`, the rest of the frame to KEEP.

    frozen: a frame is decided once, when it is new, on what its exact values say; otherwise all
    frames anew in every call (as published), so that their groups of tokens move. Where positions
    go is not stored beside their keys: methods need `keys: roped`. Of equal scores the lower
    position comes first.

    Source  SPATIAL_MIXED of arXiv 2603.27469, as an idea; theirs has one mask for all frames.
    Raises  ValueError: parts of another kind, a choice that leaves one tier without tokens.
    """

    saliency: Saliency = field(default_factory=Motion)
    choice: Choice = field(default_factory=Top)
    frozen: bool = True
    splits = True  # no field: it is what the policy does

    def __post_init__(self) -> None:
        """Refuse parts of another kind."""
        kinds: dict[str, type] = {"saliency": Saliency, "choice": Choice}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"Foreground.{name}={getattr(self, name)}: give a {kind.__name__}")

    @property
    def uneven(self) -> bool:  # type: ignore[override]  # the contract has plain attributes
        """Where frames are decided anew, or have as many foreground positions as it happens."""
        return not (self.frozen and self.choice.fixed)

    def check(self, spec: CacheSpec) -> None:
        """Both parts of a frame must have tokens."""
        size = spec.tokens_per_frame
        if self.choice.fixed and not 0 < self.choice.count(torch.empty(size)) < size:
            raise ValueError(
                f"Foreground.choice={self.choice} takes none or all of the {size} positions of a "
                "frame: choose a share that leaves both"
            )

    @property
    def tiers(self) -> tuple[str, ...]:
        """One, beside KEEP."""
        return (FOREGROUND,)

    def observe(self, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
        """What the scores are made of."""
        return self.saliency.observe(v_BHTD)

    def max_frames(self, tier: str, num_frames: int) -> int | None:
        """Every frame has a part in both tiers."""
        if not self.choice.fixed:
            return None
        return num_frames if tier in (FOREGROUND, KEEP) else 0

    def decide(self, history: History) -> Mapping[int, Placement]:
        """Split the frames that are new, or all."""
        frames = [f for f in history.frames if not (self.frozen and f in history.tiers)]
        if self.saliency.shared and frames:
            return dict.fromkeys(frames, self._split(self.saliency.of(frames[0], history)))
        return {frame: self._split(self.saliency.of(frame, history)) for frame in frames}

    def _split(self, score_T: Tensor) -> Split:
        best = score_T.sort(descending=True, stable=True).indices[: self.choice.count(score_T)]
        return Split(best.sort().values, first=FOREGROUND, rest=KEEP)
