"""TempCache: merges tokens that repeat from frame to frame into one weighted token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import Revision, Tokens
from methods.retention.tokens.attention import each_head
from methods.retention.tokens.budgeted import Budgeted, everything
from methods.retention.tokens.likeness import unit
from methods.retention.tokens.order import lexsort


@dataclass(frozen=True, kw_only=True)
class TempCache(Budgeted):
    """Merges corresponding tokens of each head, exactly as many as exceed the budget.

    Two tokens correspond if they have the same place and no stored token of that place lies between
    them in time. The pairs with the highest cosine of keys merge first; of equal pairs, the older.
    A chain of pairs becomes one token, the newest, with the count-weighted mean of keys and values
    and the sum of counts, which gives a logit bias of log(count).

    Keys should be stored without positions (`keys: pre_rope`).

    Source  TempCache of FAST-AR (arXiv 2602.01801), section 5.2 and lemma 5.1, as an idea. In the
    paper, a token corresponds to the key of an earlier frame that its query attends to most, pairs
    above a threshold merge, and the newest key represents all. Here tokens correspond by place, the
    budget sets the number of merges, and the key is the mean. The value is the mean in both.
    Raises  ValueError: a budget below one chunk.
    """

    rewrites: ClassVar[bool] = True

    def _least(self, chunk_frames: int) -> int:
        """Return the frames of a chunk: no other token is protected."""
        return chunk_frames

    def _revised(self, tokens: Tokens) -> Revision:
        """Keep the newest token of every cluster, with the cluster's means and count."""
        if tokens.frame.shape[2] <= self.limit:
            return everything(tokens)
        merged = [self._merged(tokens, b, h) for b, h in each_head(tokens)]
        batch, num_heads = tokens.frame.shape[:2]
        index, count, key, value = (
            torch.stack(part).unflatten(0, (batch, num_heads)) for part in zip(*merged, strict=True)
        )
        return Revision(index, count=count, key=key, value=value)

    def _merged(self, tokens: Tokens, b: int, h: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return index [K], count [K], key and value [K, D] of one head."""
        by_place = tokens.place[b, h].argsort(stable=True)  # each place's tokens, oldest first
        place, count = tokens.place[b, h][by_place], tokens.count[b, h][by_place]
        live = count > 0
        # Entry i stands for the pair of tokens i and i + 1.
        pairs = (place[1:] == place[:-1]) & live[1:] & live[:-1]
        # Keys as stored: with positions, the same content has another key in every frame.
        keys = unit(tokens.key[b, h][by_place].float())
        cosine = (keys[1:] * keys[:-1]).sum(1).masked_fill(~pairs, -torch.inf)
        # Every pair that merges removes one token.
        surplus = max(0, int(live.sum()) - self.limit)
        # Sort by cosine, highest first. Ties go to the older pair, by the age of its newer token.
        best = lexsort(by_place[1:], -cosine)[: min(surplus, int(pairs.sum()))]
        linked = torch.zeros_like(pairs)
        linked[best] = True
        last = torch.cat([~linked, linked.new_ones(1)])  # marks the newest token of each cluster
        # Segments, not scattered sums: a GPU adds scattered values in any order.
        sizes = last.nonzero()[:, 0].diff(prepend=last.new_full((1,), -1, dtype=torch.int64))
        total = torch.segment_reduce(count, "sum", lengths=sizes)
        # If there were too few pairs, clusters leave: first those outside the model's window, then
        # those whose newest token is the oldest. A higher index is a newer token.
        newest = by_place[last]
        kept = lexsort(newest, live[last].to(torch.uint8))[-self.limit :]
        index, ascending = newest[kept].sort()
        order = kept[ascending]
        means = [
            _means(x[b, h], by_place, count, sizes, last)[order] for x in (tokens.key, tokens.value)
        ]
        return index, total[order], means[0], means[1]


def _means(
    x_ND: Tensor, by_place: Tensor, count_N: Tensor, sizes_M: Tensor, last_N: Tensor
) -> Tensor:
    """Return count-weighted means of the clusters [M, D], computed in fp32.

    A cluster of one token keeps its exact bits.
    """
    # Weighted by counts, so that attention to equal keys stays as it was, however they merged.
    x = x_ND[by_place]
    weighted = torch.segment_reduce(x.float() * count_N[:, None], "sum", lengths=sizes_M, axis=0)
    total = torch.segment_reduce(count_N, "sum", lengths=sizes_M)
    return torch.where(sizes_M[:, None] > 1, (weighted / total[:, None]).to(x.dtype), x[last_N])
