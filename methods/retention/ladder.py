"""Base of policies that rank frames as recent, important, retained or the rest."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from harness.api import DROP, KEEP, POOL, FramePolicy, History, Placement
from methods.retention.bounds import require_choice, require_shares
from methods.retention.importance import Score


class Counts(NamedTuple):
    """Numbers of frames: recent, and among the older ones important and retained."""

    recent: int
    important: int
    retained: int


@dataclass(frozen=True)
class Ladder(FramePolicy):
    """Ranks frames and gives each a rung: recent, important, retained, or the rest.

    recent: share of all frames, at least one frame.
    important: share of the older frames, at least one frame; 0 for none.
    best: tier of recent and important frames, a tier of the method or KEEP. Retained frames go to
    KEEP.
    newest: a different tier for recent frames; null uses `best`.
    score: ranks the older frames.
    layers: factors on all shares, spaced evenly over the layers and interpolated linearly. With
    different values, layers hold different numbers of frames and storage grows chunk by chunk.
    promote: whether a frame may return from KEEP to the best tier (as published).
    replan: for integrations that call in every pass: decide again in every `call`, or only after a
    `growth` of history.

    Raises  ValueError: a share outside 0..1; a factor that is not positive; a tier that is POOL or
    DROP; an unknown word for `replan`.
    """

    recent: float = 0.25
    important: float = 0.0
    best: str = KEEP
    newest: str | None = None
    score: Score = field(default_factory=Score)
    layers: Sequence[float] = (1.0,)
    promote: bool = False
    replan: Literal["growth", "call"] = "growth"
    rest: ClassVar[str] = DROP  # placement of the frames that are not retained

    def __post_init__(self) -> None:
        require_shares(self, "recent", "important")
        require_choice(self, "replan", "growth", "call")
        name = type(self).__name__
        for rung in ("best", "newest"):
            tier = getattr(self, rung)
            if tier in (POOL, DROP):
                raise ValueError(f"{name}.{rung}={tier}: name a tier of the method, or {KEEP}")
        if not self.layers or not all(factor > 0 for factor in self.layers):
            raise ValueError(f"{name}.layers={self.layers}: give positive factors, at least one")
        # Configuration files give a list, which would make this frozen dataclass unhashable.
        object.__setattr__(self, "layers", tuple(self.layers))

    @property
    def tiers(self) -> tuple[str, ...]:
        """Return the tiers of important and recent frames, except KEEP."""
        return tuple(sorted({self.best, self._newest} - {KEEP}))

    @property
    def _newest(self) -> str:
        return self.best if self.newest is None else self.newest

    @property
    def competes(self) -> bool:
        """Whether frames compete by score; if not, only their age counts."""
        return True

    @property
    def queries(self) -> int:  # type: ignore[override]  # the contract has plain attributes
        """Same as the measure of importance, or 0 if frames do not compete."""
        return self.score.importance.queries if self.competes else 0

    @property
    def observes_noisy(self) -> bool:  # type: ignore[override]
        """Same as the measure of importance, or False if frames do not compete."""
        return self.competes and self.score.importance.observes_noisy

    def observe(self, k_BHFTD: Tensor, v_BHFTD: Tensor) -> Tensor | None:
        """Return the notes of the measure of importance, or None if frames do not compete."""
        return self.score.importance.observe(k_BHFTD, v_BHFTD) if self.competes else None

    def max_frames(self, tier: str, num_frames: int) -> int | None:
        """Return the largest count in a tier over all lengths up to `num_frames`."""
        # The cache asks without naming a layer, and layers differ here.
        if len(set(self.layers)) > 1:
            return None
        most = 0
        # Try every length: rounding can make a count fall while history grows.
        for length in range(1, num_frames + 1):
            counts = self.counts(length)
            # Two rungs may share a tier, so add their counts.
            placed = Counter({self.best: counts.important})
            placed[self._newest] += counts.recent
            placed[KEEP] += counts.retained
            placed[self.rest] += length - sum(counts)
            most = max(most, placed[tier])
        return most

    def decide(self, history: History) -> Mapping[int, Placement]:
        """Place every frame; return {} if no frame is new and replan is `growth`."""
        # Only the integrations of the study ask again before a chunk is added.
        if self.replan == "growth" and all(f in history.tiers for f in history.frames):
            return {}
        # The layer is read only where layers differ: the planner simulates the others as one.
        layer = (history.layer, history.num_layers) if len(set(self.layers)) > 1 else ()
        counts = self.counts(history.num_frames, *layer)
        # At least one frame is recent, so these slices are never those of -0.
        recent, old = history.frames[-counts.recent :], list(history.frames[: -counts.recent])
        ranked = old
        if old and self.competes:
            score = self.score.of(old, history)
            # Of equal scores the newer frame ranks higher.
            ranked = sorted(old, key=lambda f: (-score[f], -f))
        candidates = ranked
        if self.best != KEEP and not self.promote:
            # A frame that was in KEEP has lost precision, which does not come back: it comes last.
            # The others are enough to fill the best tier: each chunk brings as many as it lost.
            candidates = sorted(ranked, key=lambda f: history.tiers.get(f) == KEEP)
        important = candidates[: counts.important]
        # By score again: a frame that came last among the candidates may rank high here.
        others = [f for f in ranked if f not in important]
        placements: dict[int, Placement] = dict.fromkeys(others[counts.retained :], self.rest)
        placements |= dict.fromkeys(others[: counts.retained], KEEP)
        placements |= dict.fromkeys(important, self.best) | dict.fromkeys(recent, self._newest)
        return dict(sorted(placements.items()))

    def counts(self, num_frames: int, layer: int = 0, num_layers: int = 1) -> Counts:
        """Return the number of frames on each rung if none of `num_frames` frames has left."""
        # `round` rounds half to even, here and in `share_of`.
        factor = self.factor(layer, num_layers)
        recent = max(1, round(min(self.recent * factor, 1) * num_frames))
        old = num_frames - recent
        important = share_of(self.important * factor, old)
        return Counts(recent, important, self.retained(factor, old - important))

    @abstractmethod
    def retained(self, factor: float, num_frames: int) -> int:
        """Return how many of `num_frames` frames that are neither recent nor important stay."""

    def factor(self, layer: int, num_layers: int) -> float:
        """Return the factor on the shares of a layer."""
        # The layer's place among the factors: the first layer has the first, the last the last.
        place = layer * (len(self.layers) - 1) / max(1, num_layers - 1)
        below = min(int(place), len(self.layers) - 1)
        above = min(below + 1, len(self.layers) - 1)
        low, high = self.layers[below], self.layers[above]
        return low + (high - low) * (place - below)


def share_of(share: float, num_frames: int) -> int:
    """Return `share` of `num_frames`, rounded; at least one frame of any, unless share is 0."""
    return min(num_frames, max(1, round(share * num_frames))) if share else 0
