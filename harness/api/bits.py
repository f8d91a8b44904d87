"""Packs integers of 2, 4 or 8 bits into bytes, planar: byte j holds channels j, j + D/n, ...

n is the number of codes per byte. Each plane (one bit field of all bytes) is a contiguous slice of
channels, so unpacking is a shift, a mask and a plain copy.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Divisors of 8: no code crosses into the next byte.
WIDTHS = (2, 4, 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes [..., D] uint8 below 2**bits into [..., D * bits / 8] uint8.

    D must be a multiple of 8 / bits. Quantizers check this against the model.
    """
    # Neighbouring channels lie in different bytes: a plane is then a contiguous slice of the codes.
    per_byte = 8 // bits
    planes = codes.unflatten(-1, (per_byte, -1))
    # A clone, because the loop writes into it and `planes` is a view of the caller's codes. Codes
    # are below 2**bits, so no mask is needed.
    packed: Tensor = planes[..., 0, :].clone()
    for i in range(1, per_byte):
        packed |= planes[..., i, :] << (bits * i)
    return packed


def unpack(packed: Tensor, bits: int, out: Tensor | None = None) -> Tensor:
    """Unpack [..., D * bits / 8] uint8 into codes [..., D], uint8 or the dtype of `out`.

    out: where to write the codes; None allocates a tensor.
    """
    width = packed.shape[-1]
    codes = packed.new_empty(*packed.shape[:-1], width * 8 // bits) if out is None else out
    # One code a byte: `packed` is already the only plane.
    if bits == 8:
        return codes.copy_(packed)
    # Shift eight bytes at once if possible: on a CPU, shifts of single bytes are slow. Bits that
    # cross from one byte into the next are cleared by the mask.
    wide = torch.int64 if width % 8 == 0 else torch.uint8
    mask = int.from_bytes(bytes([2**bits - 1]) * wide.itemsize, "little")
    # Contiguous, because a view as wider integers needs neighbouring bytes.
    source = packed.contiguous().view(wide)
    # One plane at a time over the whole tensor: a loop over the short rows of a plane is slow too.
    plane = torch.empty_like(source)
    for i, target in enumerate(codes.split(width, -1)):
        torch.bitwise_right_shift(source, bits * i, out=plane)
        plane &= mask
        target.copy_(plane.view(torch.uint8))
    return codes
