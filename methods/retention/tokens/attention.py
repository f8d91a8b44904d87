"""How much attention tokens draw from the newest queries, head by head, in fp32."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.api import CacheSpec, Tokens
from methods.retention.tokens.scorer import Scorer

MAX_LOGITS = 2**23  # of one block of queries, 32 MiB: all heads at once would be gigabytes

Queries = Literal["frame", "chunk"] | int


@dataclass(frozen=True, kw_only=True)
class Observing(Scorer):
    """A scorer that observes_noisy what queries of the new chunk attend to.

    queries: of the newest `frame`, of the whole `chunk`, or that many of the last ones.

    The softmax runs over all tokens of the head, the new chunk included: at the commit pass its
    keys are as finished ("clean") as those of history, and it is what the queries attend to.

    Raises  ValueError: other queries, or more than a chunk has.
    """

    queries: Queries = "frame"

    def __post_init__(self) -> None:
        """Refuse queries that are neither named nor counted."""
        named = self.queries in ("frame", "chunk")
        if not named and not (isinstance(self.queries, int) and self.queries > 0):
            raise ValueError(
                f"{type(self).__name__}.queries={self.queries}: choose frame, chunk or a positive "
                "number"
            )

    def check(self, spec: CacheSpec) -> None:
        """A chunk must have so many queries."""
        most = spec.chunk_frames * spec.tokens_per_frame
        if isinstance(self.queries, int) and self.queries > most:
            raise ValueError(
                f"{type(self).__name__}.queries={self.queries}: a chunk has {most}, choose fewer"
            )

    def mass(self, tokens: Tokens) -> Tensor:
        """Share of the attention that each token draws, the mean over queries [B, H, N] fp32.

        A token of count n has the logit bias log(n), as in the model's attention; count 0 is 0. Of
        several query heads that share a head of keys, the one that draws most counts.
        """
        newest = tokens.query.shape[2]
        if self.queries == "frame":
            newest = tokens.spec.tokens_per_frame
        elif isinstance(self.queries, int):
            newest = self.queries
        bias = tokens.count.log()
        mass = torch.empty_like(tokens.count)
        for b, h in heads(tokens):
            by_query_head = [
                _mass(query[-newest:], tokens.rotated[b, h], bias[b, h])
                for query in tokens.queries_of(b, h)
            ]
            mass[b, h] = torch.stack(by_query_head).amax(0)
        return mass

    @abstractmethod
    def score(self, tokens: Tokens) -> Tensor:
        """Scores [B, H, N] fp32."""


@dataclass(frozen=True, kw_only=True)
class Importance(Observing):
    """A scorer whose importance of a token is the most attention drawn in its neighbourhood.

    pool: tokens of the neighbourhood along the row-by-row order of all that is stored (frame, then
    place), as in the sources: it widens along image rows only, and over their ends.

    Raises  ValueError: an even neighbourhood.
    """

    pool: int = 7

    def __post_init__(self) -> None:
        """Refuse neighbourhoods without a middle."""
        super().__post_init__()
        if self.pool < 1 or self.pool % 2 == 0:
            raise ValueError(f"{type(self).__name__}.pool={self.pool}: choose an odd number")

    def importance(self, tokens: Tokens) -> Tensor:
        """The pooled mass [B, H, N] fp32."""
        return torch.nn.functional.max_pool1d(
            self.mass(tokens), self.pool, stride=1, padding=self.pool // 2
        )


def heads(tokens: Tokens) -> list[tuple[int, int]]:
    """Batch and head of every head."""
    batch, num_heads = tokens.frame.shape[:2]
    return [(b, h) for b in range(batch) for h in range(num_heads)]


def _mass(query_TD: Tensor, key_ND: Tensor, bias_N: Tensor) -> Tensor:
    """Mean over queries of softmax(q k / sqrt(D) + bias) [N] fp32, a block of queries at a time."""
    key = key_ND.float().T
    query = query_TD.float() * query_TD.shape[1] ** -0.5
    mass = torch.zeros_like(bias_N)
    for part in query.split(max(1, MAX_LOGITS // len(bias_N))):
        mass += torch.addmm(bias_N, part, key).softmax(-1).sum(0)
    return mass / len(query)
