"""FlowCache: scores tokens by importance minus redundancy, in linear time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from harness.api import Tokens
from methods.retention.bounds import require_choice, require_shares
from methods.retention.tokens.attention import Importance, head_groups
from methods.retention.tokens.likeness import mean_cosine, unit
from methods.retention.tokens.weightings import Weighting

RATE, FLOOR = 2.0, 0.1  # of the exponential age weight, as in FlowCache's release


@dataclass(frozen=True, kw_only=True)
class FlowCache(Importance):
    """score = weight * I - (1 - weight) * R.

    I is SnapKV's importance. R is the softmax over tokens of the mean cosine to all other keys and
    has the order of KeyDiff. Weight 1 is thus SnapKV and weight 0 is KeyDiff.

    weight: weight of I, 0 to 1.
    normalize: scaling of I and R before mixing. `none` (as published): as they are. `rank`: ranks
    among the live tokens, 0 to 1; equal values share a rank. `z`: zero mean, unit deviation.
    weighting: weight of each token's place in storage, if tokens are compared one by one; null for
    none.
    age: `exponential` shifts the scores so that the lowest of a head is 0, then multiplies them by
    a weight that grows from 0.1 for the oldest stored frame to 1 for the newest.

    Source  FlowCache (arXiv 2602.10825), the compression of its release, in fp32 instead of BF16.
    The release uses queries of an unfinished chunk; here they come from the finished chunk.
    Raises  ValueError: a weight outside 0..1; an unknown word; see also `Importance`.
    """

    weight: float = 0.07
    normalize: Literal["none", "rank", "z"] = "none"
    age: Literal["none", "exponential"] = "none"
    weighting: Weighting | None = None

    shares: ClassVar[Literal["mass", "logits"]] = "logits"  # as in the release for MAGI-1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_shares(self, "weight")
        require_choice(self, "normalize", "none", "rank", "z")
        require_choice(self, "age", "none", "exponential")
        if self.weighting is not None and not isinstance(self.weighting, Weighting):
            raise ValueError(
                f"FlowCache.weighting={self.weighting}: give a class of "
                "methods.retention.tokens.weightings, or null"
            )

    def score(self, tokens: Tokens) -> Tensor:
        """Return scores [B, H, N] fp32."""
        live = tokens.count > 0
        redundancy = torch.empty_like(tokens.count)
        for heads in head_groups(tokens, tokens.spec.head_dim):
            # Of keys at their positions, as attention reads them.
            alive = live[:, heads]
            likeness = mean_cosine(unit(tokens.rotated[:, heads].float()), alive)
            # A softmax over the live tokens of a head, so that R is a share as I is.
            redundancy[:, heads] = likeness.masked_fill(~alive, -torch.inf).softmax(-1)
        importance = self._comparable(self.importance(tokens), live)
        redundancy = self._comparable(redundancy, live)
        score = self.weight * importance - (1 - self.weight) * redundancy
        if self.weighting is not None:
            score = self.weighting.apply(score, tokens)
        if self.age == "none":
            return score
        # A weight scales scores towards 0, so scores must be positive and the lowest must be 0.
        least = score.masked_fill(~live, torch.inf).amin(2, keepdim=True)
        oldest = tokens.frame.amin(2, keepdim=True)
        span = (tokens.frame.amax(2, keepdim=True) - oldest).clamp_min(1)
        position = (tokens.frame - oldest).float() / span  # 0 for the oldest frame of a head
        risen = torch.expm1(RATE * position) / math.expm1(RATE)
        return (score - least) * (FLOOR + (1 - FLOOR) * risen)

    def _comparable(self, x_BHN: Tensor, live_BHN: Tensor) -> Tensor:
        """Return a term normalized over the live tokens."""
        # Both sum to 1 over the tokens, but I spreads over orders of magnitude while R is nearly
        # constant: a weight of 0.07 is far from 93 % redundancy.
        if self.normalize == "none":
            return x_BHN
        num_live = live_BHN.sum(2, keepdim=True)
        if self.normalize == "rank":
            # Tokens outside the window go last, so they take no rank.
            ranked = x_BHN.masked_fill(~live_BHN, torch.inf)
            # The number of smaller scores is the rank that equal scores share.
            below = torch.searchsorted(ranked.sort(2).values, ranked)
            return below.float() / (num_live - 1).clamp_min(1)
        mean = (x_BHN * live_BHN).sum(2, keepdim=True) / num_live
        apart = (x_BHN - mean) * live_BHN
        deviation = (apart.square().sum(2, keepdim=True) / num_live).sqrt()
        return apart / deviation.clamp_min(torch.finfo(torch.float32).tiny)
