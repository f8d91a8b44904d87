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


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The inverse of `pack`: [..., D * bits / 8] uint8 -> codes [..., D] uint8."""
    mask = 2**bits - 1
    return torch.cat([(packed >> (bits * i)) & mask for i in range(8 // bits)], dim=-1)
