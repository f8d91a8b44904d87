"""KeyDiff: keeps the keys that differ most from the mean key."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import Tokens
from methods.retention.tokens.attention import heads
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
        for b, h in heads(tokens):
            keys = unit(tokens.rotated[b, h].float())
            # The sum of the live keys has the direction of their mean.
            live = (tokens.count[b, h] > 0).float()
            score[b, h] = -(keys @ unit((live @ keys)[None])[0])
        return score
