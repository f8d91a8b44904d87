"""FlowCache: importance minus redundancy, in linear time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.api import Tokens
from methods.retention.tokens.attention import Importance, heads
from methods.retention.tokens.likeness import mean_cosine, unit

RATE, FLOOR = 2.0, 0.1  # of the exponential weight by age, as released


@dataclass(frozen=True, kw_only=True)
class FlowCache(Importance):
    """score = weight * I - (1 - weight) * R.

    I is SnapKV's importance; R is the softmax over tokens of the mean cosine to all other keys, in
    the order of KeyDiff. So weight 1 is SnapKV and weight 0 is KeyDiff.

    normalize: how I and R are made comparable before they are mixed. `none` as published: both sum
    to 1 over the tokens, but I spreads over orders of magnitude where R hardly moves, so a weight
    of 0.07 is far from 93 % redundancy. `rank`: ranks among the live tokens, 0 to 1, equals equal.
    `z`: zero mean, unit deviation. age: `exponential` multiplies the score, shifted so that the
    least of a head is 0, by a weight that grows from 0.1 for the oldest stored frame to 1 for the
    newest.

    Source  FlowCache (arXiv 2602.10825), the compression of its release, in fp32 instead of BF16.
    There the observing queries are those of an unfinished chunk; here, of the chunk just finished.
    Raises  ValueError: a weight outside 0..1, an unknown name, or see `Importance`.
    """

    weight: float = 0.07
    normalize: Literal["none", "rank", "z"] = "none"
    age: Literal["none", "exponential"] = "none"

    def __post_init__(self) -> None:
        """Refuse what is no share and what has no such name."""
        super().__post_init__()
        if not 0 <= self.weight <= 1:
            raise ValueError(f"FlowCache.weight={self.weight}: choose a share from 0 to 1")
        if self.normalize not in ("none", "rank", "z"):
            raise ValueError(f"FlowCache.normalize={self.normalize}: choose none, rank or z")
        if self.age not in ("none", "exponential"):
            raise ValueError(f"FlowCache.age={self.age}: choose none or exponential")

    def score(self, tokens: Tokens) -> Tensor:
        """Scores [B, H, N] fp32."""
        live = tokens.count > 0
        importance = self._comparable(self.importance(tokens), live)
        redundancy = self._comparable(_redundancy(tokens), live)
        score = self.weight * importance - (1 - self.weight) * redundancy
        if self.age == "none":
            return score
        least = score.masked_fill(~live, torch.inf).amin(2, keepdim=True)
        return (score - least) * _by_age(tokens.frame)

    def _comparable(self, x_BHN: Tensor, live_BHN: Tensor) -> Tensor:
        """A term on the scale of the other; what is not live does not count."""
        if self.normalize == "none":
            return x_BHN
        num_live = live_BHN.sum(2, keepdim=True)
        if self.normalize == "rank":
            ranked = x_BHN.masked_fill(~live_BHN, torch.inf)
            below = torch.searchsorted(ranked.sort(2).values, ranked)
            return below.float() / (num_live - 1).clamp_min(1)
        mean = (x_BHN * live_BHN).sum(2, keepdim=True) / num_live
        apart = (x_BHN - mean) * live_BHN
        deviation = (apart.square().sum(2, keepdim=True) / num_live).sqrt()
        return apart / deviation.clamp_min(torch.finfo(torch.float32).tiny)


def _redundancy(tokens: Tokens) -> Tensor:
    """The softmax over live tokens of the mean cosine to the others [B, H, N] fp32."""
    redundancy = torch.empty_like(tokens.count)
    for b, h in heads(tokens):
        live = tokens.count[b, h] > 0
        likeness = mean_cosine(unit(tokens.rotated[b, h].float()), live)
        redundancy[b, h] = likeness.masked_fill(~live, -torch.inf).softmax(0)
    return redundancy


def _by_age(frame_BHN: Tensor) -> Tensor:
    """Exponential weight from FLOOR, oldest frame of the head, to 1, newest [B, H, N] fp32."""
    oldest = frame_BHN.amin(2, keepdim=True)
    span = (frame_BHN.amax(2, keepdim=True) - oldest).clamp_min(1)
    position = (frame_BHN - oldest).float() / span
    return FLOOR + (1 - FLOOR) * torch.expm1(RATE * position) / math.expm1(RATE)
