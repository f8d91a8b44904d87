"""Deep Forcing: keeps a deep sink, the recent frames, and the best tokens between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import Revision, Tokens
from methods.retention.tokens.attention import head_groups
from methods.retention.tokens.budgeted import Budgeted
from methods.retention.tokens.scored import Scored
from methods.retention.tokens.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class Participation(Scorer):
    """score_j = sum of q . k_j over the new chunk's queries, without softmax or scale.

    Source  Deep Forcing (arXiv 2512.05081), section 4.3, eq. 7. The paper uses the queries of the
    recent frames; here only those of the newest chunk are available.
    """

    def score(self, tokens: Tokens) -> Tensor:
        """Return scores [B, H, N] fp32.

        If several query heads share a key head, the highest sum counts.
        """
        score = torch.empty_like(tokens.count)
        # The score is linear in the queries, so sum them first: one product per head.
        query_BHRD = tokens.grouped_query.float().sum(3)
        for heads in head_groups(tokens, tokens.spec.head_dim):
            key = tokens.rotated[:, heads].float()
            score[:, heads] = (key @ query_BHRD[:, heads].mT).amax(-1)
        return score


@dataclass(frozen=True, kw_only=True)
class DeepForcing(Budgeted):
    """Keeps the first and the newest frames, and the best tokens between within the budget.

    Time positions are compacted (`times`): the sink, the kept tokens and the recent frames follow
    one another without a gap, so that attention sees only distances from training. Spatial
    positions do not change.

    sink_share: share of the budget, rounded down to whole frames.
    recent: frames, at least 1.

    Source  Deep Forcing (arXiv 2512.05081), sections 4.2 and 4.3: sink 10 and recent 4 of a budget
    of 16 frames. The paper cuts the cache to the budget whenever it reaches 21 frames; this class
    cuts it after every chunk.
    Raises  ValueError: a share outside 0..1; no recent frame; a budget that is too small.
    """

    sink_share: float = 0.5
    recent: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.sink_share < 1:
            raise ValueError(
                f"DeepForcing.sink_share={self.sink_share}: choose a share from 0 to below 1"
            )
        if self.recent < 1:
            raise ValueError(f"DeepForcing.recent={self.recent}: choose 1 or more frames")

    @property
    def sink(self) -> int:
        """Return the number of sink frames."""
        return math.floor(self.sink_share * self.num_frames)

    def _least(self, chunk_frames: int) -> int:
        """Return the fewest frames that hold the sink, the recent frames and a chunk."""
        # The sink grows with the budget, so search for the smallest budget that fits.
        beside = frames = max(self.recent, chunk_frames)
        while frames < beside + math.floor(self.sink_share * frames):
            frames += 1
        return frames

    def _revised(self, tokens: Tokens) -> Revision:
        """Protect sink and recent frames and choose the other tokens by participation."""
        # The budget is shared with the protected frames, as in `Scored`; only `times` differs.
        policy = Scored(
            budget=self.budget,
            room=self.room,
            scorer=Participation(),
            sink=self.sink,
            recent=self.recent,
        )
        return policy._revised(tokens)

    def times(self, frame_BHN: Tensor, num_frames: int) -> Tensor:
        """Return time positions [B, H, N] without gaps: sink, kept tokens, recent frames.

        The kept tokens fill whole frames before the recent ones, oldest first.
        """
        recent = num_frames - self.recent
        in_sink, in_recent = frame_BHN < self.sink, frame_BHN >= recent
        between = ~(in_sink | in_recent)
        # Rank the kept tokens by age: the count of kept tokens up to each one, in order of frames.
        order = frame_BHN.argsort(dim=2, stable=True)
        rank = torch.empty_like(order).scatter_(2, order, between.gather(2, order).cumsum(2) - 1)
        size = self._room.tokens_per_frame
        # The first of the frames that the kept tokens fill, rounded up to a whole one. The paper
        # does not say how tokens of many frames share them; here they fill them in order of age.
        first = recent - (between.sum(2, keepdim=True) + size - 1) // size
        # Eq. 5 moves the sink's last frame onto the first frame after it. Here it moves to just
        # before that frame, as the paper's text on a continuous sequence says.
        moved_sink = frame_BHN + (first - self.sink).clamp_min(0)
        times = torch.where(in_sink, moved_sink, first + rank // size)
        return torch.where(in_recent, frame_BHN, times)
