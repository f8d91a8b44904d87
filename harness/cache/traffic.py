"""Counts the work of a video: arithmetic of its passes, and history encoded and decoded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from harness.api import Exact, Quantizer
from harness.cache.attention.base import Segment

# Of the values that codes stand for, not of the codes, so that methods compare.
BF16_BYTES = 2


@dataclass
class Traffic:
    """Calls of quantizers, and the BF16 bytes of what they encode and decode.

    A call encodes or decodes the keys, or the values, of one layer. Exact storage has no codes and
    does not count. History that a policy decodes for its decision, or that moves between tiers,
    does not count either.
    """

    encode_calls: int = 0
    encode_bytes: int = 0
    decode_calls: int = 0
    decode_bytes: int = 0

    def encoded(self, quantizer: Quantizer, shape: Sequence[int]) -> None:
        """Count a call that encodes values of this shape."""
        if not isinstance(quantizer, Exact):
            self.encode_calls += 1
            self.encode_bytes += BF16_BYTES * math.prod(shape)

    def decoded(self, quantizer: Quantizer, shape: Sequence[int]) -> None:
        """Count a call that decodes values of this shape."""
        if not isinstance(quantizer, Exact):
            self.decode_calls += 1
            self.decode_bytes += BF16_BYTES * math.prod(shape)

    def attended(self, history: Iterable[Segment]) -> None:
        """Count the history that a pass of one layer attends to."""
        # Once per pass, layer and segment, however a backend splits it into tiles, so that backends
        # compare.
        for segment in history:
            packed = segment.pages.key, segment.pages.value
            for quantizer, part in zip(
                (segment.key_quantizer, segment.value_quantizer), packed, strict=True
            ):
                if isinstance(quantizer, Exact):
                    continue
                # The part spans the whole slab, free slots included: count the pages read.
                batch, heads, _, tokens, width = part.shape
                num_tokens = len(segment.pages.slots) * tokens
                self.decoded(quantizer, (batch, heads, num_tokens, width))

    # A row has the sum over guidance branches, each with a session of its own.
    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.encode_calls + other.encode_calls,
            self.encode_bytes + other.encode_bytes,
            self.decode_calls + other.decode_calls,
            self.decode_bytes + other.decode_bytes,
        )


@dataclass
class Arithmetic:
    """Work of the passes that a session has served, batch 1.

    tokens: tokens of the passes, summed over layers.
    pairs: query tokens times key tokens of self-attention, summed over layers.
    text_pairs: query tokens times key tokens of cross-attention, summed over layers.
    """

    tokens: int = 0
    pairs: int = 0
    text_pairs: int = 0

    def attended(self, k_BHTD: Tensor, seen: Sequence[Segment], num_queries: int) -> None:
        """Count the self-attention of one layer.

        k: keys in addition to the stored segments.
        num_queries: query tokens of a head.
        """
        # Tokens that a mask hides count, since attention computes them too.
        num_keys = k_BHTD.shape[2] + sum(segment.num_tokens for segment in seen)
        self.pairs += num_queries * num_keys

    def __add__(self, other: Arithmetic) -> Arithmetic:
        """Return the sum of the work of two sessions."""
        return Arithmetic(
            self.tokens + other.tokens,
            self.pairs + other.pairs,
            self.text_pairs + other.text_pairs,
        )
