"""H2O: keep what has drawn most attention so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.api import Tokens
from methods.retention.tokens.attention import Observing


@dataclass(frozen=True, kw_only=True)
class H2O(Observing):
    """Attention mass a token has drawn, summed over the chunks it has seen.

    score = decay * (what was noted) + (mean over the observing queries of the softmax).

    decay: what a chunk leaves of the sum before it; 1 sums for ever, as in the paper, where early
    tokens have had more time to collect.

    Source  H2O (arXiv 2306.14048), section 4: every query adds; here the observing queries of every
    chunk add their mean, so the sum does not depend on how many they are.
    Raises  ValueError: a decay outside 0..1, or see `Observing`.
    """

    remembers: ClassVar[bool] = True

    decay: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        super().__post_init__()
        if not 0 <= self.decay <= 1:
            raise ValueError(f"H2O.decay={self.decay}: choose a share from 0 to 1")

    def score(self, tokens: Tokens) -> Tensor:
        """The accumulated mass [B, H, N] fp32; the note of new tokens is 0."""
        return self.decay * tokens.note + self.mass(tokens)
