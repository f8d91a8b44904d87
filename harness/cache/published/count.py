"""Bytes as the study counted them: its published ratios, not what its program held.

Source  arXiv 2603.27469: codes as if they were packed, every set of tokens that is encoded together
        padded to whole groups, metadata in fp16, lists of places where a method has tiers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from harness.cache.published.side import Page

GROUP = 16  # tokens; their padding of each encoded set, whatever its quantizer groups
INDEX_BYTES = 8  # int64, for each token of a method with tiers
MASK_BYTES = 1  # bool, for each token of the capacity
SPAN_BYTES = 16  # where a pooled frame lay


@dataclass(frozen=True)
class Count:
    """One layer as they counted it, in bytes."""

    pages: int
    index: int = 0
    mask: int = 0
    pooled: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.pages + self.index + self.mask + self.pooled


def page_bytes(page: Page) -> int:
    """Codes packed, metadata as stored; both for whole groups of tokens, unless kept exactly."""
    num_tokens = page.packed.page[0]
    padded = -(-num_tokens // GROUP) * GROUP if page.bits else num_tokens
    total = 0
    for name, part in page.packed.parts.items():
        values = _once(part)
        if part.ndim == 5 and part.shape[3] == num_tokens:  # a value a token, not one a group
            values = values // num_tokens * padded
        total += values * page.bits.get(name, 8 * part.itemsize) // 8
    return total


def pages_bytes(pages: Iterable[Page]) -> int:
    """Of the pages of keys and of values."""
    return sum(page_bytes(page) for page in pages)


def pooled_bytes(means: Iterable[Tensor | None], num_frames: int) -> int:
    """A mean of keys, one of values, and where each frame lay."""
    held = sum(mean.nbytes for mean in means if mean is not None)
    return held + SPAN_BYTES * num_frames


def _once(part: Tensor) -> int:
    """Values of a part; those that several heads share count once."""
    total = 1
    for size, stride in zip(part.shape, part.stride(), strict=True):
        total *= size if stride or size == 1 else 1
    return total
