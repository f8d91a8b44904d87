"""Measures the attention that tokens receive from the newest queries, per head, in fp32."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from harness.api import CacheSpec, Tokens
from methods.retention.tokens.scorer import Scorer

MAX_LOGITS = 2**23  # per block of queries, 32 MiB; all heads at once would take gigabytes

Queries = Literal["frame", "chunk"] | int


@dataclass(frozen=True, kw_only=True)
class Observing(Scorer):
    """Base of scorers that measure the attention of queries of the new chunk.

    queries: the queries to use: all of the newest `frame`, all of the `chunk`, or a number of the
    last ones.

    Raises  ValueError: an unknown word; a number below 1 or above the queries of a chunk.
    """

    queries: Queries = "frame"

    # If several query heads share a key head, the largest counts: of their shares of attention
    # (`mass`), or of their logits, before the softmax.
    shares: ClassVar[Literal["mass", "logits"]] = "mass"

    def __post_init__(self) -> None:
        named = self.queries in ("frame", "chunk")
        if not named and not (isinstance(self.queries, int) and self.queries > 0):
            raise ValueError(
                f"{type(self).__name__}.queries={self.queries}: choose frame, chunk or a positive "
                "number"
            )

    def check(self, spec: CacheSpec) -> None:
        """Check that a chunk has enough queries."""
        # `frame` and `chunk` fit every model; a number may ask for queries of earlier passes.
        most = spec.chunk_frames * spec.tokens_per_frame
        if isinstance(self.queries, int) and self.queries > most:
            raise ValueError(
                f"{type(self).__name__}.queries={self.queries}: a chunk has {most}, choose fewer"
            )

    def mass(self, tokens: Tokens) -> Tensor:
        """Return each token's share of attention, averaged over queries [B, H, N] fp32.

        A token of count n has the logit bias log(n), as in the model's attention; a token of count
        0 gets 0. If several query heads share a key head, the largest counts (`shares`).
        """
        newest = self.num_queries(tokens.spec)
        bias = tokens.count.log()  # -inf for tokens out of the window, which then get 0
        # Head by head: the logits of all heads would take gigabytes (see MAX_LOGITS).
        mass = torch.empty_like(tokens.count)
        for b, h in heads(tokens):
            query_RTD = tokens.queries_of(b, h)[:, -newest:]
            # Over all tokens, those of the new chunk included: the queries attend to it too, and in
            # the commit pass its keys are as clean as those of history.
            key_ND, bias_N = tokens.rotated[b, h], bias[b, h]
            if self.shares == "logits":
                mass[b, h] = _mass(query_RTD, key_ND, bias_N)
            else:
                by_query_head = [_mass(query[None], key_ND, bias_N) for query in query_RTD]
                mass[b, h] = torch.stack(by_query_head).amax(0)
        return mass

    def num_queries(self, spec: CacheSpec) -> int:
        """Return how many of the newest queries count."""
        if self.queries == "frame":
            return spec.tokens_per_frame
        if self.queries == "chunk":
            return spec.chunk_frames * spec.tokens_per_frame
        return self.queries

    @abstractmethod
    def score(self, tokens: Tokens) -> Tensor:
        """Return scores [B, H, N] fp32."""


@dataclass(frozen=True, kw_only=True)
class Importance(Observing):
    """Base of scorers that take the maximum attention in the neighbourhood of a token.

    pool: size of the neighbourhood in tokens, odd. Neighbours are adjacent in storage order (frame,
    then place row by row), as in the sources.

    Raises  ValueError: an even size.
    """

    pool: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool < 1 or self.pool % 2 == 0:
            raise ValueError(f"{type(self).__name__}.pool={self.pool}: choose an odd number")

    def importance(self, tokens: Tokens) -> Tensor:
        """Return the max-pooled share of attention [B, H, N] fp32."""
        # Over one dimension, as in the sources: a neighbourhood covers a part of an image row, and
        # crosses the ends of rows.
        return torch.nn.functional.max_pool1d(
            self.mass(tokens), self.pool, stride=1, padding=self.pool // 2
        )


def heads(tokens: Tokens) -> list[tuple[int, int]]:
    """Return the (batch, head) indices of all heads."""
    batch, num_heads = tokens.frame.shape[:2]
    return [(b, h) for b in range(batch) for h in range(num_heads)]


def _mass(query_RTD: Tensor, key_ND: Tensor, bias_N: Tensor) -> Tensor:
    """Return the mean over queries of softmax(max over R of q k / sqrt(D) + bias) [N] fp32."""
    # The queries are scaled, not the logits, of which there are more.
    key = key_ND.float().T
    query = query_RTD.float() * query_RTD.shape[2] ** -0.5
    mass = torch.zeros_like(bias_N)
    num_heads, num_queries = query.shape[:2]
    for part in query.split(max(1, MAX_LOGITS // (num_heads * len(bias_N))), dim=1):
        logits = torch.addmm(bias_N, part.flatten(0, 1), key).unflatten(0, (num_heads, -1))
        mass += logits.amax(0).softmax(-1).sum(0)
    mass /= num_queries
    return mass
