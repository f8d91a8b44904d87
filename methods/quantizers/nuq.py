"""Non-uniform quantization: fits the levels of each head to its values by 1-D k-means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.api import CacheSpec, CodePlane, KernelLayout, Packed, Quantizer
from harness.api.bits import pack
from methods.quantizers.grouped import FP16_MAX, require_whole_bytes, staged
from methods.quantizers.levels import look_up, nearest

BINS = 2048  # of the histogram from which levels are found
CELLS = 64  # of the coarse histogram that places the first levels: single bins hold few values
ITERATIONS = 20  # the errors of 16 levels are then within 0.1 % of those after 400


@dataclass(frozen=True)
class NUQ(Quantizer):
    """Normalizes values to the range of their channel or token and rounds to fitted levels.

    axis: values that share a range. `tokens`: all tokens of one channel of a frame; `channels`: all
    channels of one token and head.

    Each head and frame has its own levels. Lloyd iterations fit them to a histogram of the
    normalized values.

    Source  KVQuant (arXiv 2401.18079), sections 3.1 and 3.3: keys by channel, values by token.
    KVQuant fits levels offline, per layer, and also weights by Fisher information; this class fits
    them to the values being stored. The iterations start near the best density of many levels, the
    cube root of that of the values (Panter and Dite, 1951).
    Shapes  x [B, H, F, T, D] -> codes [B, H, F, T, D * bits / 8] u8; fp16: levels
    [B, H, F, 2**bits], scale and zero [B, H, F, D] or [B, H, F, T].
    Raises  ValueError: bits not 2 or 4; an unknown axis; codes that do not fill whole bytes.
    """

    bits: int = 4
    axis: Literal["tokens", "channels"] = "tokens"

    def __post_init__(self) -> None:
        if self.bits not in (2, 4):
            raise ValueError(f"NUQ.bits={self.bits}: choose 2 or 4")
        if self.axis not in ("tokens", "channels"):
            raise ValueError(f"NUQ.axis={self.axis}: choose tokens or channels")

    @property
    def _dim(self) -> int:
        return 3 if self.axis == "tokens" else 4

    def check(self, spec: CacheSpec) -> None:
        """Check that codes fill whole bytes."""
        require_whole_bytes(self, self.bits, spec)

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Normalize to -1..1, fit the levels, and store the nearest one of each value."""
        x = x_BHFTD.float()
        low, high = x.amin(self._dim), x.amax(self._dim)
        zero = ((low + high) / 2).clamp(-FP16_MAX, FP16_MAX).half()
        # Measure the range from the rounded zero, so that both extremes stay inside -1..1.
        reach = (high - zero.float()).maximum(zero.float() - low)
        scale = reach.clamp_max(FP16_MAX).half()
        parts = {"scale": scale, "zero": zero}
        ranged = (x - self._spread(zero)) / self._spread(scale).clamp_min(1e-30)
        # The values are normalized by their range. Weighting their errors by the squared range
        # makes the fit minimize the error of the original values.
        weight = self._spread(scale).square()
        levels = fitted_levels(ranged.clamp_(-1, 1), weight, 2**self.bits).half()
        # By the levels as they are stored, after rounding to fp16.
        codes = pack(nearest(ranged, levels.float()), self.bits)
        page = (x.shape[3], x.shape[4])
        return Packed({"codes": codes, "levels": levels, **parts}, self.bits, page)

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Look the levels up, then multiply by the scale and add the zero."""
        for tile, x in staged(packed, out_BHFTD):
            look_up(tile.parts["codes"], self.bits, tile.parts["levels"], x)
            x *= self._spread(tile.parts["scale"])
            x += self._spread(tile.parts["zero"])

    def kernel_layout(self) -> KernelLayout:
        """Return a layout whose table is stored with each head and frame."""
        plane = CodePlane(self.bits, None, self.axis, zero="zero", table="levels")
        return KernelLayout((plane,))

    def _spread(self, metadata: Tensor) -> Tensor:
        """Return the metadata, fp32, in a shape that broadcasts over [B, H, F, T, D]."""
        return metadata.float().unsqueeze(self._dim)


def fitted_levels(x_BHFTD: Tensor, weight: Tensor, count: int) -> Tensor:
    """Fit `count` levels to the values of each head and frame: [B, H, F, count] fp32, ascending.

    x_BHFTD: values from -1 to 1. weight: weight of each value, broadcast over x.
    """
    bins = ((x_BHFTD.flatten(3) + 1) * (BINS / 2)).to(torch.int64).clamp_(0, BINS - 1)
    # Whole-number weights (at most 2**16) and bin numbers make every sum exact, so the result does
    # not depend on the order of additions, which a GPU does not fix.
    largest = weight.amax((3, 4), keepdim=True).clamp_min(1e-30)
    whole = (weight / largest * 2**16).round_().double().expand(x_BHFTD.shape)
    number = torch.zeros(*bins.shape[:3], BINS, dtype=torch.float64, device=bins.device)
    number.scatter_add_(3, bins, whole.flatten(3))
    # Below each edge of the bins: the total weight, and the total of weight times bin number.
    sums = torch.stack([number, number * torch.arange(BINS, device=bins.device)])
    below = torch.nn.functional.pad(sums.cumsum(-1), (1, 0))
    # The best spacing of many levels follows the cube root of the density of the values. We use the
    # fourth root, which is two square roots: every device rounds those alike. Starting from
    # quantiles leaves too few levels for the tails: 16 levels then take up to 97 iterations, and
    # their errors are 1 to 5 % larger. `floor` gives whole numbers, so the sums are exact.
    cells = number.unflatten(-1, (CELLS, -1)).sum(-1)
    density = (256 * cells.sqrt().sqrt()).floor().repeat_interleave(BINS // CELLS, -1)
    shares = torch.nn.functional.pad(density.cumsum(-1), (1, 0))
    ranks = (torch.arange(count, device=bins.device) + 0.5) / count * shares[..., -1:]
    levels = (torch.searchsorted(shares, ranks) - 1).clamp_(0, BINS - 1).double()
    edges = torch.empty(*levels.shape[:3], count + 1, dtype=torch.int64, device=bins.device)
    edges[..., 0], edges[..., -1] = 0, BINS
    for _ in range(ITERATIONS):
        # A bin halfway between two levels belongs to the lower one, as in `nearest`. The numbers
        # are not negative, so that rounding to whole numbers rounds down.
        edges[..., 1:-1] = (levels[..., 1:] + levels[..., :-1]) / 2 + 1
        inside, total = below.gather(-1, edges.expand(2, *edges.shape)).diff(dim=-1)
        # A level without values stays.
        moved = (total / inside.clamp_min(1)).where(inside > 0, levels)
        # If an iteration changes nothing, the later ones change nothing either. On a GPU the check
        # would wait for the device in every iteration.
        if bins.device.type == "cpu" and torch.equal(moved, levels):
            break
        levels = moved
    # From bin numbers to -1..1; a bin stands for its middle.
    return ((levels + 0.5) * (2 / BINS) - 1).float()
