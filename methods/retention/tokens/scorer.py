"""Interface of scorers, which rate tokens for eviction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from harness.api import CacheSpec, Tokens


class Scorer(ABC):
    """Scores every token of every head. Stateless.

    Tokens are sorted by frame, then place. Tokens of count 0 must not affect the scores of others;
    their own scores are ignored.

    remembers: store scores as the tokens' notes. The scorer then runs at every chunk, even if all
    tokens fit.
    """

    remembers: ClassVar[bool] = False

    def check(self, spec: CacheSpec) -> None:  # noqa: B027  most scorers serve every geometry
        """Raise ValueError, before generation, if the scorer does not support the model."""

    def num_queries(self, spec: CacheSpec) -> int:
        """Return how many of a pass's newest queries the scorer reads."""
        # The cache keeps only these of a pass until a policy with a later trigger asks for them.
        return 0

    @abstractmethod
    def score(self, tokens: Tokens) -> Tensor:
        """Return finite scores [B, H, N] fp32; tokens with higher scores stay longer."""
