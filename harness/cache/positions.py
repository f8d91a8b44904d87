"""Rotary positions of keys and queries: the interface for models, those of Wan2.1 and of MAGI-1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


class Table(Protocol):
    """Rotations of the tokens of some frames; made by `Positions`."""

    def rotate(
        self, x_BHFTD: Tensor, frames: slice | None = None, heads: slice = slice(None)
    ) -> Tensor:
        """Rotate x [B, h, f, T, D].

        frames, heads: the frames and heads of the table that x holds; None stands for all frames.
        """


class Positions(Protocol):
    """Position embedding of a model: rotates channels by the time and the place in a frame.

    Rotations over time must add up: `shifts` by n moves keys from frame f to frame f + n.
    """

    def frames(self, positions: Sequence[int]) -> Table:
        """Return rotations of whole frames at these time positions."""

    def shifts(self, offsets: Sequence[int]) -> Table:
        """Return rotations that move rotated keys by these numbers of frames.

        They are the same for all places in a frame, so they also serve pooled tokens.
        """

    def tokens(self, times_BHN: Tensor, place_BHN: Tensor | None, farthest: int) -> Table:
        """Return rotations of single tokens, head by head, as one page of N tokens.

        times: time positions [B, H, N] int64, within +-farthest.
        place: the tokens' positions in their frames [B, H, N] int64; None for keys that are rotated
            already, whose times are then offsets.
        """


@dataclass(frozen=True)
class Turns:
    """Rotations of adjacent channel pairs of whole frames, for time and space; a `Table`.

    time: [F, pairs of time] complex64, one row per frame.
    space: [T, other pairs] complex64, the same in every frame; None leaves these pairs unchanged.
    """

    time: Tensor
    space: Tensor | None

    def view(self, frames: slice = slice(None), heads: slice = slice(None)) -> Tensor:
        """Return the rotations of some frames [F, T, pairs] for `rotate`, the same for all heads.

        If space is None: [F, 1, pairs of time].
        """
        # Channels of time come first, then those of row and column.
        time = self.time[frames, None]
        if self.space is None:
            return time
        time = time.expand(-1, self.space.shape[0], -1)
        return torch.cat([time, self.space.expand(time.shape[0], -1, -1)], dim=2)

    @cached_property
    def whole(self) -> Tensor:
        """Rotations of all frames; cached, because every layer rotates the current chunk."""
        return self.view()

    def rotate(
        self, x_BHFTD: Tensor, frames: slice | None = None, heads: slice = slice(None)
    ) -> Tensor:
        """Rotate some frames; see `Table`."""
        return rotate(x_BHFTD, self.whole if frames is None else self.view(frames))


@dataclass(frozen=True)
class TokenTurns:
    """Rotations of single tokens of different frames, head by head; a `Table`.

    time: [times, pairs of time] complex64, one row per time.
    at: each token's row of `time` [B, H, N] int64.
    space: [T, other pairs] complex64, one row per position in a frame.
    place: each token's row of `space` [B, H, N] int64. If either is None, these pairs stay
        unchanged.
    """

    time: Tensor
    at: Tensor
    space: Tensor | None = None
    place: Tensor | None = None

    def view(self, frames: slice = slice(None), heads: slice = slice(None)) -> Tensor:
        """Return the rotations of some heads [B, h, 1, N, pairs]; all tokens lie in one page."""
        time = self.time[self.at[:, heads, None]]
        # Keys that are rotated already only change their time.
        if self.space is None or self.place is None:
            return time
        return torch.cat([time, self.space[self.place[:, heads, None]]], dim=-1)

    def rotate(
        self, x_BHFTD: Tensor, frames: slice | None = None, heads: slice = slice(None)
    ) -> Tensor:
        """Rotate some heads of the page [B, h, 1, N, D]."""
        return rotate(x_BHFTD, self.view(heads=heads))


@dataclass(frozen=True)
class HalfTurns:
    """Rotations of channels (i, i + pairs) instead of adjacent ones; a `Table`.

    turns: rotations of the first pairs; pairs beyond them stay unchanged.
    pairs: number of pairs. Channels from 2 * pairs on stay unchanged.
    """

    turns: Turns | TokenTurns
    pairs: int

    def rotate(
        self, x_BHFTD: Tensor, frames: slice | None = None, heads: slice = slice(None)
    ) -> Tensor:
        """Rotate in fp32 and return the dtype of x; see `Table`."""
        turns = self.turns.view(slice(None) if frames is None else frames, heads)
        # A copy brings along the channels that do not rotate.
        num_pairs, out = turns.shape[-1], x_BHFTD.clone()
        # Both are views of `out`. A pair is one complex number, which a rotation multiplies.
        first = out[..., :num_pairs]
        second = out[..., self.pairs : self.pairs + num_pairs]
        rotated = torch.complex(first.float(), second.float()) * turns
        first.copy_(rotated.real)
        second.copy_(rotated.imag)
        return out


class _Grid:
    """Rotations of adjacent channel pairs for a grid of patches: pairs of time, row and column.

    A pair rotates by position * frequency. Angles are computed in float64 for each request, so
    positions have no upper limit.
    """

    def __init__(
        self, sides: Sequence[Tensor], time: Tensor, space: Tensor, device: torch.device
    ) -> None:
        """Compute the rotations of places in a frame.

        sides: positions of the rows, and of the columns. time, space: frequencies of the pairs of
        time, and of those of rows and of columns, float64.
        """
        # Rows and columns rotate in the same way in every frame: compute these rotations once.
        rows, columns = torch.meshgrid(*sides, indexing="ij")
        turns = [_turns(axis.flatten(), space) for axis in (rows, columns)]
        self._space = torch.cat(turns, 1).to(device)
        self._frequencies = time
        self._device = device

    def frames(self, positions: Sequence[int]) -> Turns:
        """Return rotations of whole frames at these time positions."""
        return Turns(self._time(positions), self._space)

    def shifts(self, offsets: Sequence[int]) -> Turns:
        """Return rotations that move rotated keys by these numbers of frames."""
        # Only the time channels depend on the frame, so the same rotation serves every token of a
        # frame, and a pooled token.
        return Turns(self._time(offsets), None)

    def tokens(self, times_BHN: Tensor, place_BHN: Tensor | None, farthest: int) -> TokenTurns:
        """Return rotations of single tokens; see `Positions`."""
        # One row for every possible time: a small table, which tokens index.
        time = self._time(range(-farthest, farthest + 1))
        space = None if place_BHN is None else self._space
        return TokenTurns(time, times_BHN + farthest, space, place_BHN)

    def _time(self, positions: Sequence[int]) -> Tensor:
        return _turns(torch.tensor([*positions]), self._frequencies).to(self._device)


class Rope(_Grid):
    """Rotations for a grid of patches in each frame: the `Positions` of the Wan networks.

    The head width D splits into channels of time, row and column: 2 * (D // 6) each for row and
    column, the rest for time (44, 42, 42 of 128). Adjacent channels (2i, 2i + 1) form a pair that
    rotates by position * 10000 ** (-2i / width of the axis). Positions have no upper limit.

    Source  Wan2.1; see also RoFormer (arXiv 2104.09864).
    """

    def __init__(self, head_dim: int, grid: tuple[int, int], device: torch.device) -> None:
        side = 2 * (head_dim // 6)  # channels of rows, and of columns; even, since pairs rotate
        sides = [torch.arange(n) for n in grid]
        super().__init__(sides, _frequencies(head_dim - 2 * side), _frequencies(side), device)


class BandedRope:
    """Rotations by learned bands, for a grid of patches in each frame: the `Positions` of MAGI-1.

    An axis has as many channel pairs as there are bands, in the order time, row, column, and a pair
    rotates by position * band. With B bands, pair i consists of channels i and i + 3 B; channels
    from 6 B on do not rotate (96 of 128 rotate in MAGI-1). Rows and columns count from the middle
    of the picture, in units in which pictures of every size are as large as one of 256 patches.
    Positions have no upper limit.

    Source  MAGI-1 (arXiv 2505.13211), its released code.
    Raises  ValueError: a grid with a side of one patch, whose unit is undefined.
    """

    def __init__(self, bands: Tensor, grid: tuple[int, int], device: torch.device) -> None:
        """Compute the rotations of rows and columns.

        bands: radians per unit of position [B].
        """
        if min(grid) < 2:
            raise ValueError(
                f"a grid of {grid[0]} x {grid[1]} patches has no unit of position: choose "
                "model.latent_size with both sides from 4 on"
            )
        scale = math.sqrt(grid[0] * grid[1] / 256)  # sides of the picture, in those of 16 x 16
        # The outermost of n patches lie n / scale - 1 units apart, on both sides of the middle.
        sides = [
            (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * (n / scale - 1) / (n - 1)
            for n in grid
        ]
        # The same grid as for adjacent pairs; `HalfTurns` then applies it to pairs of halves.
        frequencies = bands.detach().double().cpu()
        self._adjacent = _Grid(sides, frequencies, frequencies, device)
        self._pairs = 3 * len(bands)

    def frames(self, positions: Sequence[int]) -> HalfTurns:
        """Return rotations of whole frames at these time positions."""
        return HalfTurns(self._adjacent.frames(positions), self._pairs)

    def shifts(self, offsets: Sequence[int]) -> HalfTurns:
        """Return rotations that move rotated keys by these numbers of frames."""
        return HalfTurns(self._adjacent.shifts(offsets), self._pairs)

    def tokens(self, times_BHN: Tensor, place_BHN: Tensor | None, farthest: int) -> HalfTurns:
        """Return rotations of single tokens; see `Positions`."""
        return HalfTurns(self._adjacent.tokens(times_BHN, place_BHN, farthest), self._pairs)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the first channel pairs of x [..., T, D] by `turns` [..., T, pairs] complex64.

    Computed in fp32, returned in the dtype of x. Pairs beyond those of `turns` stay unchanged.
    """
    # A pair of channels is one complex number, which a rotation multiplies; torch has none of BF16.
    width = 2 * turns.shape[-1]
    pairs = torch.view_as_complex(x[..., :width].float().unflatten(-1, (-1, 2)))
    rotated = torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)
    return rotated if width == x.shape[-1] else torch.cat([rotated, x[..., width:]], dim=-1)


def _frequencies(width: int) -> Tensor:
    """Return the frequencies of Wan's axis of `width` channels [width / 2] float64."""
    return 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)


def _turns(positions: Tensor, frequencies: Tensor) -> Tensor:
    """Return exp(i * position * frequency) [num_positions, num_frequencies] complex64."""
    # float64: at large positions, fp32 angles lose the digits that decide their sine.
    angles = positions.double()[:, None] * frequencies
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)
