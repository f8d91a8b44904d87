"""Levels placed where the values of a head lie: one-dimensional k-means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.api import CacheSpec, Packed, Quantizer
from harness.api.bits import pack
from methods.quantizers.grouped import FP16_MAX, staged
from methods.quantizers.levels import look_up, nearest

BINS = 2048  # of the histogram from which levels are found
ITERATIONS = 100  # on a histogram they cost nothing; 16 levels settle slowly


@dataclass(frozen=True)
class NUQ(Quantizer):
    """Values over the range of their channel or token, rounded to levels fitted to all of a head.

    axis: what shares a range, `tokens` = the tokens of a channel of a frame, `channels` = the
    channels of a token and head. Levels are found by Lloyd's iterations, from quantiles, on a
    histogram of the values of each head and frame, in which a value counts as much as the square
    of its range: what is made small is the error of what is stored, not of what is ranged.

    Source  KVQuant (arXiv 2401.18079), sections 3.1 and 3.3: keys by channel, values by token.
    There levels are fitted offline, a layer at a time, and weighted by Fisher information too; here
    on what is stored.
    Shapes  x [B, H, F, T, D] -> codes [B, H, F, T, D * bits / 8] u8; fp16: levels
    [B, H, F, 2**bits], scale and zero [B, H, F, D] or [B, H, F, T].
    Raises  ValueError: bits not 2 or 4, another axis; codes that do not fill whole bytes.
    """

    bits: int = 4
    axis: Literal["tokens", "channels"] = "tokens"

    def __post_init__(self) -> None:
        """Refuse other widths and axes."""
        if self.bits not in (2, 4):
            raise ValueError(f"NUQ.bits={self.bits}: choose 2 or 4")
        if self.axis not in ("tokens", "channels"):
            raise ValueError(f"NUQ.axis={self.axis}: choose tokens or channels")

    @property
    def _dim(self) -> int:
        return 3 if self.axis == "tokens" else 4

    def check(self, spec: CacheSpec) -> None:
        """Codes must fill whole bytes."""
        if spec.head_dim % (8 // self.bits):
            raise ValueError(
                f"NUQ.bits={self.bits}: {spec.head_dim} channels do not fill whole bytes"
            )

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Into the range from -1 to 1 by metadata as stored, and the nearest level there."""
        x = x_BHFTD.float()
        low, high = x.amin(self._dim), x.amax(self._dim)
        zero = ((low + high) / 2).clamp(-FP16_MAX, FP16_MAX).half()
        reach = (high - zero.float()).maximum(zero.float() - low)
        scale = reach.clamp_max(FP16_MAX).half()
        parts = {"scale": scale, "zero": zero}
        ranged = (x - self._spread(zero)) / self._spread(scale).clamp_min(1e-30)
        weight = self._spread(scale).square()
        levels = fitted_levels(ranged.clamp_(-1, 1), weight, 2**self.bits).half()
        codes = pack(nearest(ranged, levels.float()), self.bits)
        page = (x.shape[3], x.shape[4])
        return Packed({"codes": codes, "levels": levels, **parts}, self.bits, page)

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Levels looked up, and back into the range."""
        for tile, x in staged(packed, out_BHFTD):
            look_up(tile.parts["codes"], self.bits, tile.parts["levels"], x)
            x *= self._spread(tile.parts["scale"])
            x += self._spread(tile.parts["zero"])

    def _spread(self, metadata: Tensor) -> Tensor:
        """To multiply or add [B, H, F, T, D]."""
        return metadata.float().unsqueeze(self._dim)


def fitted_levels(x_BHFTD: Tensor, weight: Tensor, count: int) -> Tensor:
    """Levels [B, H, F, count] fp32, ascending, of values from -1 to 1 for each head and frame.

    weight: what a value counts, to broadcast over x. Weights are rounded to whole numbers, the
    largest of a head and frame 2**16, and bins are numbered: every sum is exact in any order.
    """
    bins = ((x_BHFTD.flatten(3) + 1) * (BINS / 2)).to(torch.int64).clamp_(0, BINS - 1)
    largest = weight.amax((3, 4), keepdim=True).clamp_min(1e-30)
    whole = (weight / largest * 2**16).round_().double().expand(x_BHFTD.shape)
    number = torch.zeros(*bins.shape[:3], BINS, dtype=torch.float64, device=bins.device)
    number.scatter_add_(3, bins, whole.flatten(3))
    below = _before(number)  # what lies in the first so many bins, and the sum of its bins
    below_sum = _before(number * torch.arange(BINS, device=bins.device))
    ranks = (torch.arange(count, device=bins.device) + 0.5) / count * below[..., -1:]
    levels = (torch.searchsorted(below, ranks) - 1).clamp_(0, BINS - 1).double()
    for _ in range(ITERATIONS):
        edges = ((levels[..., 1:] + levels[..., :-1]) / 2).floor().to(torch.int64) + 1
        first, last = torch.zeros_like(edges[..., :1]), torch.full_like(edges[..., :1], BINS)
        edges = torch.cat([first, edges, last], -1)
        inside = below.gather(-1, edges).diff(dim=-1)
        mean = below_sum.gather(-1, edges).diff(dim=-1) / inside.clamp_min(1)
        levels = mean.where(inside > 0, levels)
    return ((levels + 0.5) * (2 / BINS) - 1).float()


def _before(x: Tensor) -> Tensor:
    """Sums of the first 0, 1, ... of [..., N] -> [..., N + 1]."""
    return torch.nn.functional.pad(x.cumsum(-1), (1, 0))
