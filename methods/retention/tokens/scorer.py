"""The contract of scorers: what a token is worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from harness.api import CacheSpec, Tokens


class Scorer(ABC):
    """Gives every token of every head a score. Without state.

    Tokens come ordered by frame, then place. Those with count 0 must not move the scores of the
    others; their own do not matter. remembers: the scores are written down as the tokens' notes,
    so the scorer is asked at every chunk, also while everything fits.
    """

    remembers: ClassVar[bool] = False

    def check(self, spec: CacheSpec) -> None:  # noqa: B027  most scorers serve every geometry
        """Raise ValueError, before anything is generated, if the geometry cannot be served."""

    @abstractmethod
    def score(self, tokens: Tokens) -> Tensor:
        """Scores [B, H, N] fp32, finite, the higher the longer it stays."""
