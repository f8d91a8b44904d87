"""Keeps the tokens with the best scores of a scorer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.api import CacheSpec, Revision, Tokens
from methods.retention.bounds import require_choice
from methods.retention.tokens.budgeted import Budgeted, everything
from methods.retention.tokens.order import lexsort
from methods.retention.tokens.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class Scored(Budgeted):
    """Keeps the highest-scoring tokens of each head within the budget.

    Of equal scores, the newer unit and the newer token stay.

    scorer: scores the tokens.
    sink, recent: numbers of first and newest frames of the video that always stay; `recent`
    includes the new chunk.
    granularity: unit of comparison: single tokens, or the mean score of the remaining tokens of a
    `frame` or `chunk`. Whole units stay; the best tokens of the last unit fill the rest.

    trigger: when tokens are chosen, as in `TokenPolicy`. With `next_pass` and `new_chunk` a chunk
    joins the history whole, so the history is one chunk larger until then.
    order: how the tokens that stay are stored: by `age`; or by `score`, best first, as in the
    release of FlowCache for SkyReels-V2. A scorer that pools over neighbours then pools over those
    in storage.

    Raises  ValueError: a scorer of the wrong type; negative sizes; an unknown granularity; a budget
    that is too small.
    """

    scorer: Scorer
    sink: int = 0
    recent: int = 0
    granularity: Literal["token", "frame", "chunk"] = "token"
    trigger: Literal["commit", "next_pass", "new_chunk"] = "commit"
    order: Literal["age", "score"] = "age"

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if not isinstance(self.scorer, Scorer):
            raise ValueError(f"{name}.scorer={self.scorer}: give a Scorer")
        for field in ("sink", "recent"):
            if getattr(self, field) < 0:
                raise ValueError(f"{name}.{field}={getattr(self, field)}: choose 0 or more frames")
        require_choice(self, "granularity", "token", "frame", "chunk")
        require_choice(self, "trigger", "commit", "next_pass", "new_chunk")
        require_choice(self, "order", "age", "score")

    def check(self, spec: CacheSpec) -> None:
        """Check the budget and that the scorer supports the model."""
        super().check(spec)
        self.scorer.check(spec)

    def num_queries(self, spec: CacheSpec) -> int:
        """Return how many of a pass's newest queries the scorer reads."""
        return self.scorer.num_queries(spec)

    def max_tokens(self, num_tokens: int) -> int:
        """Return the smaller of `num_tokens` and what is held after a commit."""
        if self.trigger == "commit":
            return super().max_tokens(num_tokens)
        # The newest chunk, which may be a partial one, lies beside the budget. At the end of a
        # video no chunk starts, so those that are finished then lie beside it too.
        chunk = self._room.chunk_frames * self._room.tokens_per_frame
        beside = num_tokens % chunk or chunk
        if self.trigger == "new_chunk":
            beside += (self._room.under_way - 1) * chunk
        return min(num_tokens, self.limit + beside)

    def _least(self, chunk_frames: int) -> int:
        """Return the fewest frames that hold the sink, the recent frames and a chunk."""
        # The recent frames include the newest chunk, so only the larger of the two counts.
        return self.sink + max(self.recent, chunk_frames)

    def _revised(self, tokens: Tokens) -> Revision:
        """Keep the best tokens, with their scores as notes if the scorer remembers them."""
        fits = tokens.frame.shape[2] <= self.limit
        # A scorer that remembers must see every chunk, or its sums would lack the first ones.
        if fits and not self.scorer.remembers:
            return everything(tokens)
        score = self.scorer.score(tokens)
        index = everything(tokens).index if fits else self._best(tokens, score)
        return Revision(index, note=score.gather(2, index) if self.scorer.remembers else None)

    def _best(self, tokens: Tokens, score_BHN: Tensor) -> Tensor:
        """Return the indices of the best tokens [B, H, limit] int64, in the order of storage."""
        # The last key of `lexsort` decides first: protected tokens beat others, whatever their
        # scores, and tokens outside the model's window (count 0) lose to all.
        tier = torch.zeros_like(score_BHN)
        recent = tokens.frame >= tokens.num_frames - self.recent
        tier[(tokens.frame < self.sink) | recent] = 1
        tier[tokens.count == 0] = -1
        keys = [score_BHN, tier]
        if self.granularity != "token":
            size = 1 if self.granularity == "frame" else tokens.spec.chunk_frames
            unit = tokens.frame // size
            inside = score_BHN
            if self.order == "score":
                # Units lie best first, and the tokens of a unit stay in their order.
                place = torch.arange(unit.shape[2], 0, -1, device=unit.device)
                inside = place.expand_as(unit)
            # Units compare by their mean. Their number keeps a unit's tokens together, and puts the
            # newer of two equal units first.
            keys = [inside, unit, _unit_means(score_BHN, unit, tokens.count > 0), tier]
        # Exactly the budget in every head: heads lie in one tensor and have one length. The best
        # tokens of one more unit fill what whole units leave.
        best = lexsort(*keys)[..., -self.limit :]
        return best.flip(-1) if self.order == "score" else best.sort(dim=-1).values

    @property
    def _as_stored(self) -> bool:
        return self.order == "score"


def _unit_means(score_BHN: Tensor, unit_BHN: Tensor, live_BHN: Tensor) -> Tensor:
    """Return the mean score of the live tokens in each token's unit [B, H, N] fp64."""
    # In fp64, so that units of equal scores have equal means, whatever their sizes.
    means = torch.zeros_like(score_BHN, dtype=torch.float64)
    for unit in unit_BHN.unique().tolist():
        inside = unit_BHN == unit
        counted = inside & live_BHN
        total = score_BHN.double().mul(counted).sum(2, True)
        means = torch.where(inside, total / counted.sum(2, True).clamp_min(1), means)
    return means
