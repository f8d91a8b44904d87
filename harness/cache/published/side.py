"""Keys or values of one layer between two passes: one page per tier, codes not packed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from harness.api import Exact, Packed, Quantizer
from harness.api.bits import WIDTHS, pack, unpack
from harness.cache.published.layout import Layout
from harness.cache.traffic import Traffic


@dataclass(frozen=True)
class Page:
    """Tokens of a tier, encoded as one page [B, H, 1, N, D].

    bits: width of the codes, for each part with one element per code.
    """

    packed: Packed
    bits: Mapping[str, int]


@dataclass
class Side:
    """Keys or values between passes: encoded tokens of the tiers, and means of pooled frames.

    quantizers: by tier.
    wide: dtype of a stored code.
    beside: also keep the exact capacity in `buffer`; exact tiers then have no page.
    buffer: [B, H, N, D] or None.
    pages: encoded tokens by tier.
    means: of pooled frames [B, H, F, 1, D].
    traffic: counts what is encoded and decoded.
    """

    quantizers: Mapping[str, Quantizer]
    wide: torch.dtype
    beside: bool = False
    buffer: Tensor | None = None
    pages: dict[str, Page] = field(default_factory=dict)
    means: Tensor | None = None
    traffic: Traffic = field(default_factory=Traffic)

    def read(self, like_BHTD: Tensor, num_tokens: int, layout: Layout | None) -> Tensor:
        """Return the whole capacity of `num_tokens` [B, H, N, D], decoded to the dtype of `like`.

        Tokens of pooled frames are their mean; other tokens without a tier are zero. Exact values
        may be the stored tensor itself, not a copy.
        """
        batch, heads, _, width = like_BHTD.shape
        spans = layout.spans if layout is not None else {}  # None before the first pass that writes
        # If one tier holds the whole capacity, its decoded tensor is the result. For BF16 that is
        # the stored tensor itself: the pass writes its chunk into the cache in place.
        for name, span in spans.items():
            whole = isinstance(span, slice) and span.stop - span.start == num_tokens
            if whole and self.buffer is None:
                return self._decode(name, like_BHTD.dtype)
        dense = self.buffer
        if dense is None:
            dense = like_BHTD.new_zeros(batch, heads, num_tokens, width)
            # The first read allocates the exact buffer of a program that keeps one.
            self.buffer = dense if self.beside else None
        if layout is None:
            return dense
        for name, span in spans.items():
            if name in self.pages:
                dense[:, :, span] = self._decode(name, like_BHTD.dtype)
        frames = dense.unflatten(2, (-1, layout.frame_tokens))
        if self.means is not None:  # every token of a pooled frame is a copy of the mean
            frames[:, :, list(layout.pooled)] = self.means
        # A kept buffer still holds old values of dropped frames; a new tensor is zero already.
        if self.buffer is not None:
            frames[:, :, list(layout.dropped)] = 0
        return dense

    def write(self, dense_BHND: Tensor, layout: Layout) -> None:
        """Encode all tiers of the capacity [B, H, N, D], old tokens included, and pool frames."""
        pages = {}
        for name, span in layout.spans.items():
            # Exact tokens lie in the exact buffer already, if there is one.
            exact = isinstance(self.quantizers[name], Exact)
            if exact and self.buffer is not None:
                continue
            x = dense_BHND[:, :, span]
            if exact and x.numel() < dense_BHND.numel():
                x = x.clone()  # a view would keep the dense tensor
            # All tokens of a tier form one page, as the study encodes them.
            quantizer, x_BHFTD = self.quantizers[name], x[:, :, None]
            self.traffic.encoded(quantizer, x_BHFTD.shape)
            pages[name] = widened(quantizer.encode(x_BHFTD), self.wide)
        mean = None
        if layout.pooled:
            frames = dense_BHND.unflatten(2, (-1, layout.frame_tokens))[:, :, list(layout.pooled)]
            mean = frames.float().mean(3, keepdim=True).to(dense_BHND.dtype)
        self.pages, self.means = pages, mean

    @property
    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All allocated tensors, by component."""
        if self.buffer is not None:
            yield "beside", self.buffer
        for page in self.pages.values():
            yield from page.packed.parts.items()
        if self.means is not None:
            yield "pooled", self.means

    def _decode(self, name: str, dtype: torch.dtype) -> Tensor:
        """Return the tokens of a tier [B, H, N, D], decoded to `dtype`."""
        quantizer, page = self.quantizers[name], self.pages[name]
        self.traffic.decoded(quantizer, page.packed.shape)
        return quantizer.decode(narrowed(page), dtype)[:, :, 0]


def widened(packed: Packed, wide: torch.dtype) -> Page:
    """Unpack codes to one element of dtype `wide` each, as the study's program stored them."""
    # A part of bytes whose width fits 2, 4 or 8 bits per channel is taken for codes. If it holds
    # something else, `narrowed` restores it unchanged.
    parts, bits = dict(packed.parts), {}
    for name, part in packed.parts.items():
        width = 8 * part.shape[-1] / packed.page[1]
        if part.dtype == torch.uint8 and width in WIDTHS:
            bits[name] = int(width)
            codes = unpack(part, bits[name])
            parts[name] = codes.view(wide) if wide.itemsize == 1 else codes.to(wide)
    return Page(replace(packed, parts=parts), bits)


def narrowed(page: Page) -> Packed:
    """Pack codes again, as quantizers expect them; the inverse of `widened`."""
    parts = dict(page.packed.parts)
    for name, bits in page.bits.items():
        codes = parts[name]
        codes = codes.view(torch.uint8) if codes.itemsize == 1 else codes.to(torch.uint8)
        parts[name] = pack(codes, bits)
    return replace(page.packed, parts=parts)
