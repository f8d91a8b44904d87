"""Measures the attention that tokens receive from the newest queries, per head, in fp32."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from harness.api import CacheSpec, Tokens
from methods.retention.tokens.scorer import Scorer

# FP32 numbers of a tensor that is computed at a time: 32 MiB. The logits of all heads of a long
# history would take gigabytes.
MAX_NUMBERS = 2**23

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
        bias = tokens.count.log()  # -inf for tokens out of the window, which then get 0
        queries = tokens.grouped_query[:, :, :, -self.num_queries(tokens.spec) :]
        batch, _, shared, num_queries, width = queries.shape
        num_tokens = tokens.frame.shape[2]
        by_logits = self.shares == "logits"
        mass = torch.empty_like(tokens.count)
        for heads in head_groups(tokens, max(width, shared * num_queries)):
            # Over all tokens, those of the new chunk included: the queries attend to it too, and in
            # the commit pass its keys are as clean as those of history.
            key = tokens.rotated[:, heads].float().flatten(0, 1).mT
            bias_P1N = bias[:, heads].flatten(0, 1)[:, None]
            # The queries are scaled, not the logits, of which there are more.
            query = (queries[:, heads].float() * width**-0.5).flatten(0, 1)
            total = torch.zeros(len(key), 1 if by_logits else shared, num_tokens, device=key.device)
            for part in query.split(max(1, MAX_NUMBERS // (len(key) * shared * num_tokens)), 2):
                logits = torch.baddbmm(bias_P1N, part.flatten(1, 2), key)
                # For each of P pairs of batch entry and head: R query heads that share the keys.
                logits = logits.unflatten(1, (shared, -1))  # [P, R, T, N]
                if by_logits and shared > 1:
                    logits = logits.amax(1, keepdim=True)
                total += logits.softmax(-1).sum(2)
            mass[:, heads] = total.amax(1).unflatten(0, (batch, -1))
        return mass / num_queries

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


def head_groups(tokens: Tokens, width: int) -> list[slice]:
    """Return slices of heads, as many at a time as `width` numbers for each token allow."""
    batch, num_heads, num_tokens = tokens.frame.shape
    size = max(1, MAX_NUMBERS // (batch * num_tokens * width))
    return [slice(first, first + size) for first in range(0, num_heads, size)]


def each_head(tokens: Tokens) -> list[tuple[int, int]]:
    """Return the (batch, head) indices of all heads."""
    batch, num_heads = tokens.frame.shape[:2]
    return [(b, h) for b in range(batch) for h in range(num_heads)]
