"""One layer of the published integration between two passes: encoded whole, codes not packed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from harness.api import Exact, Fate, Form, Packed, Quantizer
from harness.bits import pack, unpack

WIDE = {"int16": torch.int16, "int8": torch.int8}


@dataclass
class Side:
    """Keys or values of one layer between passes: frames in full encoded, pooled ones as means.

    A frame of the capacity that is neither reads as zeros. means: [B, H, pooled frames, 1, D].
    """

    quantizer: Quantizer
    capacity: int
    wide: torch.dtype
    full: list[int] = field(default_factory=list)
    packed: Packed | None = None
    pooled: list[int] = field(default_factory=list)
    means: Tensor | None = None

    def read(self, chunk_BHTD: Tensor, num_frames: int) -> Tensor:
        """The whole capacity [B, H, F, T, D], decoded to the dtype of a chunk of `num_frames`.

        Values that are stored as they came are not copied: the pass writes into its cache.
        """
        if self.packed is not None and len(self.full) == self.capacity:
            return self._decode(self.packed, chunk_BHTD.dtype)
        batch, heads, num_tokens, width = chunk_BHTD.shape
        page = (num_tokens // num_frames, width)
        dense = chunk_BHTD.new_zeros(batch, heads, self.capacity, *page)
        if self.packed is not None:
            dense[:, :, self.full] = self._decode(self.packed, chunk_BHTD.dtype)
        if self.means is not None:  # a copy for each token of the frame
            dense[:, :, self.pooled] = self.means
        return dense

    def write(self, dense_BHFTD: Tensor, full: list[int], pooled: list[int]) -> None:
        """Encode these frames of the capacity, whether they are new or not; pool those."""
        self.full, self.pooled = full, pooled
        kept = dense_BHFTD if len(full) == self.capacity else dense_BHFTD[:, :, full]
        self.packed = self._encode(kept) if full else None
        mean = dense_BHFTD[:, :, pooled].float().mean(3, keepdim=True)
        self.means = mean.to(dense_BHFTD.dtype) if pooled else None

    def _encode(self, x_BHFTD: Tensor) -> Packed:
        packed = self.quantizer.encode(x_BHFTD)
        return unpacked(packed, self.quantizer.form(), self.wide)

    def _decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        if isinstance(self.quantizer, Exact):
            return packed.parts["exact"].to(dtype)
        return self.quantizer.decode(repacked(packed, self.quantizer.form()), dtype)


@dataclass
class Layer:
    """One layer between passes: keys, values, and what the policy noted and let go."""

    key: Side
    value: Side
    notes: dict[int, Tensor] = field(default_factory=dict)
    gone: dict[int, Fate] = field(default_factory=dict)


def unpacked(packed: Packed, form: Form | None, wide: torch.dtype) -> Packed:
    """With one element of type `wide` a code; as it is where no form says which parts are codes."""
    parts = dict(packed.parts)
    for plane in form.planes if form else ():
        codes = unpack(parts[plane.codes], plane.bits)
        parts[plane.codes] = codes.view(wide) if wide.itemsize == 1 else codes.to(wide)
    return replace(packed, parts=parts)


def repacked(packed: Packed, form: Form | None) -> Packed:
    """The inverse of `unpacked`."""
    parts = dict(packed.parts)
    for plane in form.planes if form else ():
        codes = parts[plane.codes]
        codes = codes.view(torch.uint8) if codes.itemsize == 1 else codes.to(torch.uint8)
        parts[plane.codes] = pack(codes, plane.bits)
    return replace(packed, parts=parts)
