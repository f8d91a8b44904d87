"""KeyDiff: keeps the keys that differ most from the mean key."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import Tokens
from methods.retention.tokens.attention import head_groups
from methods.retention.tokens.likeness import unit
from methods.retention.tokens.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class KeyDiff(Scorer):
    """score_j = -cos(k_j, m) with m the mean of all unit-length keys; needs no queries.

    Source  KeyDiff (arXiv 2504.15364), as implemented in NVIDIA/kvpress. Keys are rotated to their
    positions, as attention sees them.
    """

    def score(self, tokens: Tokens) -> Tensor:
        """Return scores [B, H, N] fp32, -1 to 1."""
        score = torch.empty_like(tokens.count)
        for heads in head_groups(tokens, tokens.spec.head_dim):
            keys = unit(tokens.rotated[:, heads].float())
            # The sum of the live keys has the direction of their mean.
            live = (tokens.count[:, heads, None] > 0).float()
            score[:, heads] = -(keys @ unit(live @ keys).mT)[..., 0]
        return score
