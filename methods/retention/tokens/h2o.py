"""H2O: keeps the tokens that have received the most attention so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.api import Tokens
from methods.retention.tokens.attention import Observing


@dataclass(frozen=True, kw_only=True)
class H2O(Observing):
    """Accumulated attention of a token: score = decay * previous score + share of attention.

    The share is the mean of the softmax over the observing queries of the new chunk.

    decay: factor on the previous score, 0 to 1. 1 never forgets, as in the paper; early tokens then
    have had more time to accumulate.

    Source  H2O (arXiv 2306.14048), section 4. There every query adds its share; here each chunk
    adds the mean over its observing queries, so the sum does not depend on their number.
    Raises  ValueError: a decay outside 0..1; see also `Observing`.
    """

    remembers: ClassVar[bool] = True

    decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay <= 1:
            raise ValueError(f"H2O.decay={self.decay}: choose a share from 0 to 1")

    def score(self, tokens: Tokens) -> Tensor:
        """Return the accumulated attention [B, H, N] fp32; the note of new tokens is 0."""
        return self.decay * tokens.note + self.mass(tokens)
