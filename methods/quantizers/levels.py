"""Encodes values as indices of arbitrarily spaced levels, and decodes them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def by_code(dtype: torch.dtype) -> tuple[float, ...]:
    """Return the number that each of the 256 bytes of an 8-bit format represents."""
    return tuple(torch.arange(256, dtype=torch.uint8).view(dtype).float().tolist())


@cache
def on_device(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """Return numbers as a tensor [K] fp32, the same one each time."""
    # Attention asks for it in every pass and layer, and a copy to a GPU waits for it.
    return torch.tensor(numbers, device=device)


def nearest(x_BHFTD: Tensor, levels: Tensor) -> Tensor:
    """Return the codes [B, H, F, T, D] uint8 of the nearest levels; midpoints take the lower one.

    levels: ascending, [K] for all values, or [B, H, F, K] per head and frame.
    """
    middles = (levels[..., 1:] + levels[..., :-1]) / 2
    codes = torch.zeros(x_BHFTD.shape, dtype=torch.uint8, device=x_BHFTD.device)
    # Count the midpoints below each value. For few levels this is faster than a binary search.
    for middle in middles.unbind(-1):
        codes += x_BHFTD > middle[..., None, None]
    return codes


def look_up(packed: Tensor, bits: int, levels: Tensor, out_BHFTD: Tensor) -> None:
    """Write the level of each code into `out_BHFTD`, which must be contiguous.

    packed: codes [B, H, F, T, D * bits / 8] u8 as packed by `harness.api.bits`.
    levels: [K] or [B, H, F, K], in any order.
    """
    # Look up whole bytes, once for each code in a byte: this needs no unpacked copy of the codes.
    bytes_ = packed.to(torch.int64).flatten(3)
    shifts = torch.arange(0, 8, bits, device=packed.device)
    every = torch.arange(256, device=packed.device)
    codes = (every >> shifts[:, None]) & (2**bits - 1)  # [codes in a byte, 256]
    tables = levels.float()[..., codes].expand(*packed.shape[:3], -1, -1)
    # Byte j holds channels j, j + D * bits / 8, ...: each shift fills one part of the channels.
    for i, plane in enumerate(out_BHFTD.split(packed.shape[-1], -1)):
        plane.copy_(tables[..., i, :].gather(-1, bytes_).view(packed.shape))
