"""Deep Forcing: a deep sink, the recent frames, and the best of what lies between."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import Revision, Tokens
from methods.retention.tokens.attention import heads
from methods.retention.tokens.budgeted import Budgeted
from methods.retention.tokens.scored import Scored
from methods.retention.tokens.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class Participation(Scorer):
    """score_j = sum over the new chunk's queries of q . k_j: raw products, no softmax, no scale.

    Source  Deep Forcing (arXiv 2512.05081), section 4.3, eq. 7. There the queries are those of the
    recent frames; here the newest chunk's, the only ones there are.
    """

    def score(self, tokens: Tokens) -> Tensor:
        """Scores [B, H, N] fp32: the sum is linear, so the queries are summed first.

        Of several query heads that share a head of keys, the highest sum counts.
        """
        score = torch.empty_like(tokens.count)
        for b, h in heads(tokens):
            key = tokens.rotated[b, h].float()
            by_query_head = [key @ query.float().sum(0) for query in tokens.queries_of(b, h)]
            score[b, h] = torch.stack(by_query_head).amax(0)
        return score


@dataclass(frozen=True, kw_only=True)
class DeepForcing(Budgeted):
    """Keeps the first frames, the newest, and as many tokens between as the budget still holds.

    sink_share: of the budget, in whole frames, rounded down. recent: frames.

    In time, the sink and then the kept tokens between move up to the recent frames without a gap
    (`times`), so that attention meets no distance it was not trained on; places stay.

    Source  Deep Forcing (arXiv 2512.05081), sections 4.2 and 4.3: sink 10 and recent 4 of a budget
    of 16 frames, which the cache is cut to whenever it has grown to 21; here it is cut after every
    chunk. The paper moves the sink's last frame onto the first frame behind it (eq. 5); here to
    just before it, as its text on a continuous sequence has it. It does not say how tokens of many
    frames share the block between: here they fill its frames in order of age.
    Raises  ValueError: a share outside 0..1, no recent frame, a budget too small.
    """

    sink_share: float = 0.5
    recent: int = 4

    def __post_init__(self) -> None:
        """Refuse what is no share, and to let the newest frame go."""
        super().__post_init__()
        if not 0 <= self.sink_share < 1:
            raise ValueError(
                f"DeepForcing.sink_share={self.sink_share}: choose a share from 0 to below 1"
            )
        if self.recent < 1:
            raise ValueError(f"DeepForcing.recent={self.recent}: choose 1 or more frames")

    @property
    def sink(self) -> int:
        """Frames of the sink."""
        return math.floor(self.sink_share * self.num_frames)

    def _least(self, chunk_frames: int) -> int:
        """The sink grows with the budget; what must fit beside it does not."""
        beside = frames = max(self.recent, chunk_frames)
        while frames < beside + math.floor(self.sink_share * frames):
            frames += 1
        return frames

    def _revised(self, tokens: Tokens) -> Revision:
        """Sink and recent frames are protected, the others compared by participation."""
        policy = Scored(
            budget=self.budget,
            room=self.room,
            scorer=Participation(),
            sink=self.sink,
            recent=self.recent,
        )
        return policy._revised(tokens)

    def times(self, frame_BHN: Tensor, num_frames: int) -> Tensor:
        """Sink, what is kept between, and the recent frames, one behind the other.

        The tokens between fill whole frames up to the recent ones, oldest first.
        """
        recent = num_frames - self.recent
        in_sink, in_recent = frame_BHN < self.sink, frame_BHN >= recent
        between = ~(in_sink | in_recent)
        order = frame_BHN.argsort(dim=2, stable=True)
        rank = torch.empty_like(order).scatter_(2, order, between.gather(2, order).cumsum(2) - 1)
        size = self._room.tokens_per_frame
        first = recent - (between.sum(2, keepdim=True) + size - 1) // size
        moved_sink = frame_BHN + (first - self.sink).clamp_min(0)
        times = torch.where(in_sink, moved_sink, first + rank // size)
        return torch.where(in_recent, frame_BHN, times)
