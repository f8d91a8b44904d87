"""Keep the tokens with the best scores: the policy around every scorer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.api import CacheSpec, Revision, Tokens
from methods.retention.tokens.budgeted import Budgeted, everything
from methods.retention.tokens.order import lexsort
from methods.retention.tokens.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class Scored(Budgeted):
    """Keeps, of every head apart, as many tokens as the budget holds: those of the highest score.

    sink, recent: the first and the newest frames of the video, the new chunk included, which always
    stay. granularity: what is compared, single tokens or the means over the tokens left of a
    `frame` or `chunk`; whole units stay, the last one is filled up with its best tokens, so heads
    stay equally long. Equal scores: the newer unit, the newer token stays. Tokens that the model's
    window no longer reaches go before all others, even protected ones.

    Raises  ValueError: negative sizes, an unknown granularity, a budget too small.
    """

    scorer: Scorer
    sink: int = 0
    recent: int = 0
    granularity: Literal["token", "frame", "chunk"] = "token"

    def __post_init__(self) -> None:
        """Refuse what is no scorer, no number of frames, no unit."""
        super().__post_init__()
        name = type(self).__name__
        if not isinstance(self.scorer, Scorer):
            raise ValueError(f"{name}.scorer={self.scorer}: give a Scorer")
        for field in ("sink", "recent"):
            if getattr(self, field) < 0:
                raise ValueError(f"{name}.{field}={getattr(self, field)}: choose 0 or more frames")
        if self.granularity not in ("token", "frame", "chunk"):
            raise ValueError(f"{name}.granularity={self.granularity}: choose token, frame or chunk")

    def check(self, spec: CacheSpec) -> None:
        """The scorer too must serve the geometry."""
        super().check(spec)
        self.scorer.check(spec)

    def _least(self, chunk_frames: int) -> int:
        """Sink and recent frames; the newest chunk is among the recent ones, or beside the sink."""
        return self.sink + max(self.recent, chunk_frames)

    def _revised(self, tokens: Tokens) -> Revision:
        """The best tokens, and the scores as their notes if the scorer remembers."""
        fits = tokens.frame.shape[2] <= self.limit
        if fits and not self.scorer.remembers:
            return everything(tokens)
        score = self.scorer.score(tokens)
        index = everything(tokens).index if fits else self._best(tokens, score)
        return Revision(index, note=score.gather(2, index) if self.scorer.remembers else None)

    def _best(self, tokens: Tokens, score_BHN: Tensor) -> Tensor:
        """Indices [B, H, limit], ascending."""
        tier = torch.zeros_like(score_BHN)
        recent = tokens.frame >= tokens.num_frames - self.recent
        tier[(tokens.frame < self.sink) | recent] = 1
        tier[tokens.count == 0] = -1
        keys = [score_BHN, tier]
        if self.granularity != "token":
            size = 1 if self.granularity == "frame" else tokens.spec.chunk_frames
            unit = tokens.frame // size
            keys = [score_BHN, unit, _unit_means(score_BHN, unit, tokens.count > 0), tier]
        return lexsort(*keys)[..., -self.limit :].sort(dim=-1).values


def _unit_means(score_BHN: Tensor, unit_BHN: Tensor, live_BHN: Tensor) -> Tensor:
    """The mean score of the live tokens of each token's unit [B, H, N] fp64."""
    means = torch.zeros_like(score_BHN, dtype=torch.float64)
    for unit in unit_BHN.unique().tolist():
        inside = unit_BHN == unit
        counted = inside & live_BHN
        total = score_BHN.double().mul(counted).sum(2, True)
        means = torch.where(inside, total / counted.sum(2, True).clamp_min(1), means)
    return means
