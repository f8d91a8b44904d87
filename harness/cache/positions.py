"""Where keys and queries lie: what a model hands in, and the rotations of Wan2.1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


class Table(Protocol):
    """How the tokens of some frames turn; made by `Positions`."""

    def rotate(
        self, x_BHFTD: Tensor, frames: slice | None = None, heads: slice = slice(None)
    ) -> Tensor:
        """Turn x [B, h, f, T, D], the given heads of the given frames; None stands for all."""


class Positions(Protocol):
    """The position embedding of a model: a rotation of channels by time and by place in a frame.

    Rotations over time must add up: turned by `shifts` of n, what lies at frame f lies at f + n.
    """

    def frames(self, positions: Sequence[int]) -> Table:
        """Rotations of whole frames at these time positions."""

    def shifts(self, offsets: Sequence[int]) -> Table:
        """Rotations that move rotated keys by so many frames, whatever their place in a frame.

        They serve a pooled token too, which has no place.
        """

    def tokens(self, times_BHN: Tensor, place_BHN: Tensor | None, farthest: int) -> Table:
        """Rotations of single tokens, head by head, as one page of N tokens.

        times: positions within +-farthest [B, H, N] int64; or offsets of keys that are rotated
        already, where place, the tokens' positions in their frame, is None.
        """


@dataclass(frozen=True)
class Turns:
    """Rotations of adjacent channel pairs of stored frames, time and space apart; a `Table`.

    time: [F, pairs of time] complex64, one row a frame. space: [T, the other pairs] complex64, the
    same in every frame; None leaves those pairs as they are, and serves tokens without a place.
    """

    time: Tensor
    space: Tensor | None

    def view(self, frames: slice = slice(None), heads: slice = slice(None)) -> Tensor:
        """The rotations of some frames [F, T or 1, pairs], for `rotate`; all heads turn alike.

        Where space is None, only the time pairs are given.
        """
        time = self.time[frames, None]
        if self.space is None:
            return time
        time = time.expand(-1, self.space.shape[0], -1)
        return torch.cat([time, self.space.expand(time.shape[0], -1, -1)], dim=2)

    @cached_property
    def whole(self) -> Tensor:
        """The rotations of all frames, kept: every layer turns the current chunk by them."""
        return self.view()

    def rotate(
        self, x_BHFTD: Tensor, frames: slice | None = None, heads: slice = slice(None)
    ) -> Tensor:
        """Turn some frames; see `Table`."""
        return rotate(x_BHFTD, self.whole if frames is None else self.view(frames))


@dataclass(frozen=True)
class TokenTurns:
    """Rotations of single tokens that came from anywhere, head by head; a `Table`.

    time: one row a time [times, pairs of time] complex64. at: which row a token takes [B, H, N]
    int64. space, place: the other pairs of every position in a frame, and which a token takes;
    None leaves those pairs as they are.
    """

    time: Tensor
    at: Tensor
    space: Tensor | None = None
    place: Tensor | None = None

    def view(self, frames: slice = slice(None), heads: slice = slice(None)) -> Tensor:
        """The rotations of some heads [B, h, 1, N, pairs]; the tokens lie in one page."""
        time = self.time[self.at[:, heads, None]]
        if self.space is None or self.place is None:
            return time
        return torch.cat([time, self.space[self.place[:, heads, None]]], dim=-1)

    def rotate(
        self, x_BHFTD: Tensor, frames: slice | None = None, heads: slice = slice(None)
    ) -> Tensor:
        """Turn some heads of the one page [B, h, 1, N, D]."""
        return rotate(x_BHFTD, self.view(heads=heads))


class Rope:
    """Rotations for tokens of a grid of patches, by frame: the `Positions` of the Wan networks.

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

    def frames(self, positions: Sequence[int]) -> Turns:
        """Rotations of whole frames at these time positions."""
        return Turns(self._time(positions), self._space)

    def shifts(self, offsets: Sequence[int]) -> Turns:
        """Rotations that move roped keys by so many frames.

        Only the time channels depend on the frame, so this serves every token of a frame, and a
        pooled token too.
        """
        return Turns(self._time(offsets), None)

    def tokens(self, times_BHN: Tensor, place_BHN: Tensor | None, farthest: int) -> TokenTurns:
        """Rotations of tokens at times (or by offsets) within +-farthest; places where un-roped."""
        time = self._time(range(-farthest, farthest + 1))
        space = None if place_BHN is None else self._space
        return TokenTurns(time, times_BHN + farthest, space, place_BHN)

    def _time(self, positions: Sequence[int]) -> Tensor:
        return _turns(torch.tensor([*positions]), self._time_dim).to(self._device)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the first channel pairs of x [..., T, D] by `turns` [..., T, pairs] complex64, in fp32.

    Pairs beyond those of `turns` stay.
    """
    width = 2 * turns.shape[-1]
    pairs = torch.view_as_complex(x[..., :width].float().unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)
    return turned if width == x.shape[-1] else torch.cat([turned, x[..., width:]], dim=-1)


def _turns(positions: Tensor, width: int) -> Tensor:
    """exp(i * position * frequency) [num_positions, width / 2] complex64."""
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = positions.double()[:, None] * frequencies
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)
