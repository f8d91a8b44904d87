"""Small integers in bytes, planar: byte j holds channels j, j + D/n, j + 2D/n, ...

Each plane is a contiguous slice of channels, so unpacking is a shift, a mask and a plain copy.
"""

from __future__ import annotations

import torch
from torch import Tensor

WIDTHS = (2, 4, 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes [..., D] uint8 below 2**bits -> [..., D * bits / 8] uint8.

    D must be a multiple of 8 / bits (an invariant: quantizers check it against the model).
    """
    per_byte = 8 // bits
    planes = codes.unflatten(-1, (per_byte, -1))
    packed: Tensor = planes[..., 0, :].clone()
    for i in range(1, per_byte):
        packed |= planes[..., i, :] << (bits * i)
    return packed


def unpack(packed: Tensor, bits: int, out: Tensor | None = None) -> Tensor:
    """The inverse of `pack`: [..., D * bits / 8] uint8 -> codes [..., D], uint8 or as `out` is.

    A plane at a time, eight bytes in a word where they come in eights: on a CPU, shifts of single
    bytes are slow, and so are loops as short as the rows of a plane.
    """
    width = packed.shape[-1]
    codes = packed.new_empty(*packed.shape[:-1], width * 8 // bits) if out is None else out
    if bits == 8:
        return codes.copy_(packed)
    wide = torch.int64 if width % 8 == 0 else torch.uint8
    mask = int.from_bytes(bytes([2**bits - 1]) * wide.itemsize, "little")
    source = packed.contiguous().view(wide)
    plane = torch.empty_like(source)
    for i, target in enumerate(codes.split(width, -1)):
        torch.bitwise_right_shift(source, bits * i, out=plane)
        plane &= mask
        target.copy_(plane.view(torch.uint8))
    return codes
