"""Codes that name one of a few levels, however these are spaced: choosing and reading them."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest(x_BHFTD: Tensor, levels: Tensor) -> Tensor:
    """Codes [B, H, F, T, D] uint8 of the nearest levels; from a middle, the lower one.

    levels: ascending, [K] for all or [B, H, F, K] for a head of a frame each. The levels passed are
    counted, K - 1 comparisons a value: for so few, faster than a binary search.
    """
    middles = (levels[..., 1:] + levels[..., :-1]) / 2
    codes = torch.zeros(x_BHFTD.shape, dtype=torch.uint8, device=x_BHFTD.device)
    for middle in middles.unbind(-1):
        codes += x_BHFTD > middle[..., None, None]
    return codes


def look_up(packed: Tensor, bits: int, levels: Tensor, out_BHFTD: Tensor) -> None:
    """Write the level of each code into out; packed [B, H, F, T, D * bits / 8] as `api.bits`.

    levels: as above, in any order. A whole byte is looked up, once for each code in it, which saves
    unpacking; out is contiguous.
    """
    bytes_ = packed.to(torch.int64).flatten(3)
    shifts = torch.arange(0, 8, bits, device=packed.device)
    every = torch.arange(256, device=packed.device)
    codes = (every >> shifts[:, None]) & (2**bits - 1)  # [codes in a byte, 256]
    tables = levels.float()[..., codes].expand(*packed.shape[:3], -1, -1)
    for i, plane in enumerate(out_BHFTD.split(packed.shape[-1], -1)):
        plane.copy_(tables[..., i, :].gather(-1, bytes_).view(packed.shape))
