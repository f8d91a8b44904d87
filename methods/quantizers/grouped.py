"""The mechanics that uniform quantizers share: groups, packed codes, scales. Leaves add the fit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from harness.api import CacheSpec, Form, Packed, Plane, Quantizer
from harness.bits import WIDTHS, pack, unpack

FP16_MAX = 65504.0
TILE_VALUES = 2**20  # 4 MiB in fp32: stays in a processor's last-level cache


@dataclass(frozen=True)
class Grouped(Quantizer):
    """Uniform codes with metadata shared by groups of values: x = code * scale + zero.

    bits: width of a code, 2, 4 or 8. group: values that share metadata. axis: `tokens` groups
    neighbouring tokens of one channel (scale [.., N, D]), `channels` groups neighbouring channels
    of one token and head (scale [.., T, N]). short_tail: allow the last group of tokens of a frame
    to be shorter (1560 tokens are 97.5 groups of 16).

    Shapes  x [B, H, F, T, D] -> codes [B, H, F, T, D * bits / 8] u8, metadata fp16.
    Raises  ValueError: bits not 2, 4 or 8; a group that does not divide what it splits.
    """

    bits: int = 4
    group: int = 16
    axis: Literal["tokens", "channels"] = "tokens"
    short_tail: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible widths and groups."""
        name = type(self).__name__
        if self.bits not in WIDTHS:
            raise ValueError(f"{name}.bits={self.bits}: choose 2, 4 or 8")
        if self.axis not in ("tokens", "channels"):
            raise ValueError(f"{name}.axis={self.axis}: choose tokens or channels")
        if self.group < 1:
            raise ValueError(f"{name}.group={self.group}: choose a positive number of values")

    def check(self, spec: CacheSpec) -> None:
        """Groups must split a frame (or a head) evenly, codes must fill whole bytes."""
        name = type(self).__name__
        size = spec.tokens_per_frame if self.axis == "tokens" else spec.head_dim
        thing = "tokens of a frame" if self.axis == "tokens" else "channels of a head"
        ragged = self.axis == "tokens" and self.short_tail and self.group <= size
        if size % self.group and not ragged:
            allowed = ", ".join(str(d) for d in range(2, size + 1) if size % d == 0)
            raise ValueError(
                f"{name}.group={self.group} does not divide the {size} {thing}: choose {allowed}"
            )
        if spec.head_dim % (8 // self.bits):
            raise ValueError(
                f"{name}.bits={self.bits}: {spec.head_dim} channels do not fill whole bytes"
            )

    @abstractmethod
    def fit(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        """Metadata to store for groups with these extremes, fp16, each of the extremes' shape."""

    def form(self) -> Form:
        """One plane."""
        return Form((self.plane(),))

    @abstractmethod
    def plane(self) -> Plane:
        """How kernels read the codes."""

    @abstractmethod
    def grid(self, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Scale and zero, fp32, from the stored metadata: x = code * scale + zero."""

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Round to the nearest of the 2**bits levels of each group.

        Codes are chosen against the metadata as stored, after its rounding to fp16.
        """
        x = x_BHFTD.float()
        groups, dim = self._split(x)
        parts = self.fit(groups.amin(dim), groups.amax(dim))
        codes = torch.empty_like(x)
        scale, zero = self.grid(parts)
        for (x_part, out), s, z in self._pieces((x, codes), scale, zero):
            torch.div(x_part - z, s.clamp_min(1e-30), out=out)
        codes = codes.round_().clamp_(0, 2**self.bits - 1).to(torch.uint8)
        page = (x.shape[3], x.shape[4])
        return Packed({"codes": pack(codes, self.bits), **parts}, self.bits, page)

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Scale the codes back in fp32, a tile that fits the processor's cache at a time."""
        values = torch.empty(0)  # taken once for all tiles: fresh memory is slow on a CPU
        for heads, frames in tiles(packed):
            tile, out = packed.view(heads, frames), out_BHFTD[:, heads, frames]
            if out.dtype == torch.float32 and out.is_contiguous():
                values = out
            elif values.shape != tile.shape:
                values = torch.empty(tile.shape, dtype=torch.float32, device=packed.device)
            unpack(tile.parts["codes"], self.bits, values)
            scale, zero = self.grid(tile.parts)
            if self.axis == "channels":
                _scale_channels(values, scale, zero)
            else:
                for (piece,), s, z in self._pieces((values,), scale, zero):
                    torch.addcmul(z, piece, s, out=piece)
            if values is not out:
                out.copy_(values)

    def _split(self, x: Tensor) -> tuple[Tensor, int]:
        """View x [..., T, D] as groups, and the dimension that runs inside a group."""
        if self.axis == "channels":
            return x.unflatten(-1, (-1, self.group)), -1
        short = -x.shape[-2] % self.group
        if short:  # repeat the last token: it changes no extreme
            x = torch.cat([x, x[..., -1:, :].expand(*x.shape[:-2], short, -1)], dim=-2)
        return x.unflatten(-2, (-1, self.group)), -2

    def _pieces(
        self, tensors: tuple[Tensor, ...], scale: Tensor, zero: Tensor
    ) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
        """Views of [..., T, D] tensors cut into groups, with the scale and zero of each group.

        Two pieces where the last group of a frame is short.
        """
        if self.axis == "channels":
            views = [x.unflatten(-1, (-1, self.group)) for x in tensors]
            yield views, scale[..., None], zero[..., None]
            return
        num_tokens = tensors[0].shape[-2]
        whole = num_tokens // self.group * self.group
        for start, stop, size in ((0, whole, self.group), (whole, num_tokens, num_tokens - whole)):
            if start == stop:
                continue
            views = [x[..., start:stop, :].unflatten(-2, (-1, size)) for x in tensors]
            first, last = start // self.group, -(-stop // self.group)
            yield views, scale[..., first:last, None, :], zero[..., first:last, None, :]


def _scale_channels(x: Tensor, scale: Tensor, zero: Tensor) -> None:
    """x = x * scale + zero in place [..., T, D], with scale and zero [..., T, N] of channel groups.

    Groups are spread over their channels by a product with a matrix of zeros and ones, which is
    exact and, on a CPU, faster than loops as short as a group.
    """
    num_groups, width = scale.shape[-1], x.shape[-1]
    spread = torch.eye(num_groups, device=x.device).repeat_interleave(width // num_groups, 1)
    rows = x.view(-1, width)
    rows.mul_(scale.reshape(-1, num_groups) @ spread)
    rows.addmm_(zero.reshape(-1, num_groups), spread)


def tiles(packed: Packed) -> Iterator[tuple[slice, slice]]:
    """Heads and frames of pieces small enough to stay in a processor's cache while worked on."""
    _, num_heads, num_frames, num_tokens, width = packed.shape
    frames = max(1, min(num_frames, TILE_VALUES // (num_tokens * width)))
    heads = max(1, TILE_VALUES // (num_frames * num_tokens * width))
    if packed.device.type != "cpu":  # every step is a launch, and memory is fast
        heads, frames = num_heads, num_frames
    for head, frame in product(range(0, num_heads, heads), range(0, num_frames, frames)):
        yield slice(head, head + heads), slice(frame, frame + frames)
