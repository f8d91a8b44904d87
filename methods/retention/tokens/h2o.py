"""H2O: keeps the tokens that have received the most attention so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.api import Tokens
from methods.retention.bounds import require_shares
from methods.retention.tokens.attention import Observing


@dataclass(frozen=True, kw_only=True)
class H2O(Observing):
    """Accumulated attention of a token: score = decay * previous score + share of attention.

    The share is the mean of the softmax over the observing queries of the new chunk.

    decay: factor on the previous score, 0 to 1. 1 never forgets, as in the paper; early tokens then
    have had more time to accumulate.

    Source  H2O (arXiv 2306.14048), section 4.
    Raises  ValueError: a decay outside 0..1; see also `Observing`.
    """

    remembers: ClassVar[bool] = True  # the sums so far are the notes of the tokens

    decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_shares(self, "decay")

    def score(self, tokens: Tokens) -> Tensor:
        """Return the accumulated attention [B, H, N] fp32; the note of new tokens is 0."""
        # In the paper every query adds its share. The mean over the observing queries of a chunk
        # keeps the sum independent of their number.
        return self.decay * tokens.note + self.mass(tokens)
