"""The ladder: recent and important frames above, the others below them."""

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
    """Frames of a history: the newest, and of the older ones the important and those retained."""

    recent: int
    important: int
    retained: int


@dataclass(frozen=True)
class Ladder(FramePolicy):
    """Ranks frames and gives each a rung: recent, important, retained, or the rest.

    recent: share of all frames, at least one. important: share of the older ones, at least one, 0
    for none. best: the tier of both, one of the method's or KEEP; retained frames are in KEEP.
    newest: another tier for the recent ones (as published, where both are stored alike).
    layers: factors on all shares, spread evenly over the depth with straight lines between them;
    with more than one value, storage grows chunk by chunk, since layers hold different numbers.
    promote: whether a frame may rise from KEEP to the best tier (as published), where the bits it
    lost do not come back. replan: for integrations that ask in every pass, whether every `call`
    counts or only those of a history that has grown.

    Counts round half to even. Of equal scores the newer frame matters more.
    """

    recent: float = 0.25
    important: float = 0.0
    best: str = KEEP
    newest: str | None = None
    score: Score = field(default_factory=Score)
    layers: Sequence[float] = (1.0,)
    promote: bool = False
    replan: Literal["growth", "call"] = "growth"
    rest: ClassVar[str] = DROP  # what becomes of the frames that are not retained

    def __post_init__(self) -> None:
        """Refuse shares outside 0..1, factors of 0 or less, placements that are no tiers."""
        require_shares(self, "recent", "important")
        require_choice(self, "replan", "growth", "call")
        name = type(self).__name__
        for rung in ("best", "newest"):
            tier = getattr(self, rung)
            if tier in (POOL, DROP):
                raise ValueError(f"{name}.{rung}={tier}: name a tier of the method, or {KEEP}")
        if not self.layers or not all(factor > 0 for factor in self.layers):
            raise ValueError(f"{name}.layers={self.layers}: give positive factors, at least one")
        object.__setattr__(self, "layers", tuple(self.layers))  # lists of a file are no values

    @property
    def tiers(self) -> tuple[str, ...]:
        """The best one and that of the newest, if they are not KEEP."""
        return tuple(sorted({self.best, self._newest} - {KEEP}))

    @property
    def _newest(self) -> str:
        return self.best if self.newest is None else self.newest

    @property
    def competes(self) -> bool:
        """Whether frames are told apart by more than their age, so that scores are needed."""
        return True

    @property
    def queries(self) -> int:  # type: ignore[override]  # the contract has plain attributes
        """As its measure of importance asks."""
        return self.score.importance.queries if self.competes else 0

    @property
    def observes_noisy(self) -> bool:  # type: ignore[override]
        """As its measure of importance does."""
        return self.competes and self.score.importance.observes_noisy

    def observe(self, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor | None:
        """What its measure of importance notes."""
        return self.score.importance.observe(k_BHTD, v_BHTD) if self.competes else None

    def max_frames(self, tier: str, num_frames: int) -> int | None:
        """The count at its largest: rounding makes it waver as history grows."""
        if len(set(self.layers)) > 1:
            return None
        held = (self._placed(n)[tier] for n in range(1, num_frames + 1))
        return max(held, default=0)

    def decide(self, history: History) -> Mapping[int, Placement]:
        """The rung of every frame; nothing where it has said so and no frame is new."""
        if self.replan == "growth" and all(f in history.tiers for f in history.frames):
            return {}
        counts = self.counts(history.num_frames, history.layer, history.num_layers)
        recent, old = history.frames[-counts.recent :], list(history.frames[: -counts.recent])
        ranked = self._ranked(old, history) if old and self.competes else old
        important = self._rising(ranked, history)[: counts.important]
        others = [f for f in ranked if f not in important]
        placements: dict[int, Placement] = dict.fromkeys(others[counts.retained :], self.rest)
        placements |= dict.fromkeys(others[: counts.retained], KEEP)
        placements |= dict.fromkeys(important, self.best) | dict.fromkeys(recent, self._newest)
        return dict(sorted(placements.items()))

    def counts(self, num_frames: int, layer: int = 0, num_layers: int = 1) -> Counts:
        """Frames on each rung, of a history of `num_frames` of which none has left."""
        factor = self.factor(layer, num_layers)
        recent = max(1, round(min(self.recent * factor, 1) * num_frames))
        old = num_frames - recent
        important = share_of(self.important * factor, old)
        return Counts(recent, important, self.retained(factor, old - important))

    @abstractmethod
    def retained(self, factor: float, num_frames: int) -> int:
        """How many of so many frames, neither recent nor important, stay."""

    def factor(self, layer: int, num_layers: int) -> float:
        """The factor on the shares of a layer."""
        place = layer * (len(self.layers) - 1) / max(1, num_layers - 1)
        below = min(int(place), len(self.layers) - 1)
        above = min(below + 1, len(self.layers) - 1)
        low, high = self.layers[below], self.layers[above]
        return low + (high - low) * (place - below)

    def _placed(self, num_frames: int) -> Counter[str]:
        """Frames in each tier, of a history of `num_frames`."""
        counts = self.counts(num_frames)
        placed = Counter({self.best: counts.important})
        placed[self._newest] += counts.recent
        placed[KEEP] += counts.retained
        placed[self.rest] += num_frames - sum(counts)
        return placed

    def _ranked(self, frames: list[int], history: History) -> list[int]:
        """Frames from the most to the least important."""
        score = self.score.of(frames, history)
        return sorted(frames, key=lambda f: (-score[f], -f))

    def _rising(self, ranked: list[int], history: History) -> list[int]:
        """The same, those that may not rise to the best tier behind all others.

        The others suffice: each chunk brings as many as the best tier may have lost.
        """
        if self.best == KEEP or self.promote:
            return ranked
        return sorted(ranked, key=lambda f: history.tiers.get(f) == KEEP)


def share_of(share: float, num_frames: int) -> int:
    """So many of these frames, at least one of any, unless the share is none."""
    return min(num_frames, max(1, round(share * num_frames))) if share else 0
