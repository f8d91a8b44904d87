"""Counts bytes as the study did for its published ratios; its program allocated more.

Source  arXiv 2603.27469: codes counted as packed, every set of tokens that is encoded together
        padded to whole groups, metadata in fp16, lists of places if a method has tiers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from harness.cache.published.side import Page

GROUP = 16  # tokens; the study pads each encoded set to this, whatever the quantizer's group
SPAN_BYTES = 16  # position of a pooled frame


@dataclass(frozen=True)
class Count:
    """Bytes of one layer as the study counted them.

    pages: codes and metadata.
    index, mask: lists of token places.
    pooled: means of pooled frames.
    """

    pages: int
    index: int = 0
    mask: int = 0
    pooled: int = 0

    @property
    def total(self) -> int:
        """Sum of all components, bytes."""
        return self.pages + self.index + self.mask + self.pooled


def page_bytes(page: Page) -> int:
    """Return the bytes of a page: codes as if packed, metadata as stored.

    Both are padded to whole groups of tokens, except in exact pages.
    """
    num_tokens = page.packed.page[0]
    # Exact pages have no codes, and the study does not pad them.
    padded = -(-num_tokens // GROUP) * GROUP if page.bits else num_tokens
    total = 0
    for name, part in page.packed.parts.items():
        # Values that heads share lie in an expanded dimension, whose stride is 0: count them once.
        sizes = zip(part.shape, part.stride(), strict=True)
        values = math.prod(size for size, stride in sizes if stride)
        if part.ndim == 5 and part.shape[3] == num_tokens:  # one value per token, not per group
            values = values // num_tokens * padded
        total += values * page.bits.get(name, 8 * part.itemsize) // 8
    return total


def pages_bytes(pages: Iterable[Page]) -> int:
    """Return the bytes of several pages."""
    return sum(page_bytes(page) for page in pages)


def pooled_bytes(means: Iterable[Tensor | None], num_frames: int) -> int:
    """Return the bytes of pooled frames: means of keys and of values, and the frames' positions."""
    # The study kept the position of each pooled frame beside its mean.
    held = sum(mean.nbytes for mean in means if mean is not None)
    return held + SPAN_BYTES * num_frames
