"""First in, first out: scores tokens by their frame."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from harness.api import Tokens
from methods.retention.tokens.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class Newest(Scorer):
    """score = frame of the token, so that the newest tokens stay."""

    # This is the control for every other scorer: with the same budget, trigger and `sink`, both
    # store the same number of bytes at every moment of a video.

    def score(self, tokens: Tokens) -> Tensor:
        """Return scores [B, H, N] fp32."""
        return tokens.frame.float()
