"""Counts what a cache encodes into its history and decodes from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.api import Exact, Quantizer
from harness.cache.attention.base import Segment

BF16_BYTES = 2


@dataclass
class Traffic:
    """Calls of quantizers, and the BF16 bytes of what they encode and decode.

    A call encodes or decodes the keys, or the values, of one layer. Decoding counts once per pass,
    layer and segment of history that the pass attends to, whatever the tiles of the backend: a
    kernel that decodes inside attention reads the same history. Exact storage has no codes and
    does not count, nor does history that a policy decodes to decide or that moves between tiers.
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
        for segment in history:
            packed = segment.pages.key, segment.pages.value
            for quantizer, part in zip(
                (segment.key_quantizer, segment.value_quantizer), packed, strict=True
            ):
                batch, heads, _, tokens, width = part.shape
                num_tokens = len(segment.pages.slots) * tokens
                self.decoded(quantizer, (batch, heads, num_tokens, width))

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.encode_calls + other.encode_calls,
            self.encode_bytes + other.encode_bytes,
            self.decode_calls + other.decode_calls,
            self.decode_bytes + other.decode_bytes,
        )
