"""Counts the work of a video's passes while they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from harness.cache.attention.base import Segment


@dataclass
class Arithmetic:
    """Work of the passes that a session has served, batch 1.

    tokens: tokens of the passes, summed over layers.
    pairs: query tokens times key tokens of self-attention, summed over layers. Stored tokens that a
        mask hides count, since attention computes them too.
    text_pairs: the same for cross-attention.
    """

    tokens: int = 0
    pairs: int = 0
    text_pairs: int = 0

    def attended(self, k_BHTD: Tensor, seen: Sequence[Segment], num_queries: int) -> None:
        """Count the self-attention of one layer.

        k: keys beside the stored segments. num_queries: query tokens of a head.
        """
        num_keys = k_BHTD.shape[2] + sum(segment.num_tokens for segment in seen)
        self.pairs += num_queries * num_keys

    def __add__(self, other: Arithmetic) -> Arithmetic:
        """Return the sum of the work of two sessions."""
        return Arithmetic(
            self.tokens + other.tokens,
            self.pairs + other.pairs,
            self.text_pairs + other.text_pairs,
        )
