"""Rotary positions over time, row and column, as Wan2.1 uses them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Rope:
    """Rotations for tokens of a grid of patches, by frame.

    The head width D splits into time, row and column channels, 2 * (D // 6) for row and column
    each and the rest for time (44, 42, 42 of 128). Adjacent channels (2i, 2i + 1) form a pair that
    turns by position * 10000 ** (-2i / width of the axis). Angles are taken in float64, so there is
    no table that ends.

    Source  Wan2.1; see also RoFormer (arXiv 2104.09864).
    """

    def __init__(self, head_dim: int, grid: tuple[int, int], device: torch.device) -> None:
        """Prepare the rotations of rows and columns, which are the same in every frame."""
        side = 2 * (head_dim // 6)
        rows, columns = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
        space = [_turns(axis.flatten(), side) for axis in (rows, columns)]
        self._space = torch.cat(space, 1).to(device)
        self._time_dim = head_dim - 2 * side
        self._device = device

    def frames(self, positions: Sequence[int]) -> Tensor:
        """Rotations of whole frames at these time positions [F, T, D/2] complex64."""
        time = self._time(positions)[:, None].expand(-1, self._space.shape[0], -1)
        return torch.cat([time, self._space.expand(len(positions), -1, -1)], dim=2)

    def shifts(self, offsets: Sequence[int]) -> Tensor:
        """Rotations that move roped keys by so many frames [F, 1, D/2] complex64.

        Only the time channels depend on the frame, so this serves every token of a frame, and a
        pooled token too.
        """
        time = self._time(offsets)
        still = torch.ones(len(offsets), self._space.shape[1], device=self._device)
        return torch.cat([time, still], dim=1)[:, None]

    def _time(self, positions: Sequence[int]) -> Tensor:
        return _turns(torch.tensor(positions), self._time_dim).to(self._device)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the channel pairs of x [..., T, D] by `turns` [..., T, D/2] complex64, in fp32."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def _turns(positions: Tensor, width: int) -> Tensor:
    """exp(i * position * frequency) [num_positions, width / 2] complex64."""
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = positions.double()[:, None] * frequencies
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)
