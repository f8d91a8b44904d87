"""The mechanics that uniform quantizers share: groups, packed codes, scales. Leaves add the fit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from harness.api import CacheSpec, CodePlane, KernelLayout, Packed, Quantizer
from harness.api.bits import WIDTHS, pack, unpack

FP16_MAX = 65504.0
FP16_MIN = 2.0**-24  # the smallest above zero
TINY = 2.0**-126  # stands in for a scale of zero, by which nothing can be divided
SCALE_MIN = 1e-8  # of a group without spread, where scales are found in the dtype of x
OPTIONS = {
    "axis": ("tokens", "channels"),
    "compute": ("float32", "input"),
    "pad": ("last", "zeros"),
    "heads": ("apart", "together"),
}
TILE_VALUES = 2**20  # 4 MiB in fp32: stays in a processor's last-level cache


@dataclass(frozen=True)
class Grouped(Quantizer):
    """Uniform codes with metadata shared by groups of values: x = code * scale + zero.

    bits: width of a code, 2, 4 or 8. group: values that share metadata. axis: `tokens` groups
    neighbouring tokens of one channel (scale [.., N, D]), `channels` groups neighbouring channels
    of one token and head (scale [.., T, N]). short_tail: allow the last group of tokens of a frame
    to be shorter (1560 tokens are 97.5 groups of 16), and a group to be cut down to the frame or to
    the head (128 channels are the whole head of models of any size).

    Three options are as a published study did it (arXiv 2603.27469), each worse than the default:
    compute=`input` finds scales and codes in the dtype of x (BF16) and then keeps scales as fp16;
    pad=`zeros` fills a short group with zeros, which count among its extremes; heads=`together`
    shares the metadata of a token between all heads (axis=channels), a view of one copy of them.

    Shapes  x [B, H, F, T, D] -> codes [B, H, F, T, D * bits / 8] u8, metadata fp16.
    Raises  ValueError: bits not 2, 4 or 8; a group that does not divide what it splits; an unknown
    choice; heads together in groups of tokens.
    """

    bits: int = 4
    group: int = 16
    axis: Literal["tokens", "channels"] = "tokens"
    short_tail: bool = False
    compute: Literal["float32", "input"] = "float32"
    pad: Literal["last", "zeros"] = "last"
    heads: Literal["apart", "together"] = "apart"

    def __post_init__(self) -> None:
        """Refuse impossible widths and groups."""
        name = type(self).__name__
        if self.bits not in WIDTHS:
            raise ValueError(f"{name}.bits={self.bits}: choose 2, 4 or 8")
        for option, allowed in OPTIONS.items():
            if getattr(self, option) not in allowed:
                choices = " or ".join(allowed)
                raise ValueError(f"{name}.{option}={getattr(self, option)}: choose {choices}")
        if self.group < 1:
            raise ValueError(f"{name}.group={self.group}: choose a positive number of values")
        if self.heads == "together" and self.axis == "tokens":
            raise ValueError(f"{name}.heads=together: choose axis=channels, or heads=apart")

    @property
    def per_token(self) -> bool:
        """Where no metadata is shared by tokens."""
        return self.axis == "channels"

    def check(self, spec: CacheSpec) -> None:
        """Groups must split a frame (or a head) evenly, codes must fill whole bytes."""
        name = type(self).__name__
        size = spec.tokens_per_frame if self.axis == "tokens" else spec.head_dim
        thing = "tokens of a frame" if self.axis == "tokens" else "channels of a head"
        fits = self.axis == "tokens" or self.group >= size
        ragged = self.short_tail and fits
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

    def measure(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        """As `fit`, in the extremes' own dtype and not yet rounded to fp16."""
        raise ValueError(f"{type(self).__name__}.compute=input: choose float32")

    def place(self, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Codes, whole numbers that may lie outside their range, by what `measure` found.

        zero: the scale where nothing else was measured.
        """
        raise ValueError(f"{type(self).__name__}.compute=input: choose float32")

    @property
    def plain(self) -> bool:
        """Whether no published option changes how groups are fitted: a kernel may encode."""
        return (self.compute, self.pad, self.heads) == ("float32", "last", "apart")

    def kernel_layout(self) -> KernelLayout | None:
        """One plane."""
        return KernelLayout((self.plane(),))

    @abstractmethod
    def plane(self) -> CodePlane:
        """How kernels read the codes."""

    @abstractmethod
    def grid(self, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Scale and zero, fp32, from the stored metadata: x = code * scale + zero."""

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Round to the nearest of the 2**bits levels of each group.

        Codes are chosen against the metadata as stored, after its rounding to fp16.
        """
        x = x_BHFTD if self.compute == "input" else x_BHFTD.float()
        codes = torch.empty_like(x)
        if self.compute == "input":
            measured = self.measure(*self._extremes(x))
            scale, zero = measured["scale"], measured.get("zero", measured["scale"])
            for (x_part, out), s, z in self._pieces((x, codes), scale, zero):
                out.copy_(self.place(x_part, s, z))
            parts = {name: _stored(part) for name, part in measured.items()}
        else:
            parts = self.fit(*self._extremes(x))
            scale, zero = self.grid(parts)
            for (x_part, out), s, z in self._pieces((x, codes), scale, zero):
                torch.div(x_part - z, s.clamp_min(TINY), out=out)
        codes = codes.round_().clamp_(0, 2**self.bits - 1).to(torch.uint8)
        if self.heads == "together":
            parts = {name: p.expand(-1, x.shape[1], *p.shape[2:]) for name, p in parts.items()}
        page = (x.shape[3], x.shape[4])
        return Packed({"codes": pack(codes, self.bits), **parts}, self.bits, page)

    def _extremes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of each group."""
        groups, dim = self._split(x)
        low, high = groups.amin(dim), groups.amax(dim)
        if self.heads == "together":
            return low.amin(1, keepdim=True), high.amax(1, keepdim=True)
        return low, high

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Scale the codes back in fp32, a tile that fits the processor's cache at a time."""
        for tile, values in staged(packed, out_BHFTD):
            unpack(tile.parts["codes"], self.bits, values)
            scale, zero = self.grid(tile.parts)
            if self.axis == "channels":
                _scale_channels(values, scale, zero)
            else:
                for (piece,), s, z in self._pieces((values,), scale, zero):
                    torch.addcmul(z, piece, s, out=piece)

    def _split(self, x: Tensor) -> tuple[Tensor, int]:
        """View x [..., T, D] as groups, and the dimension that runs inside a group."""
        if self.axis == "channels":
            return x.unflatten(-1, (-1, min(self.group, x.shape[-1]))), -1
        short = -x.shape[-2] % self.group
        if short:  # repeat the last token: it changes no extreme
            last = x[..., -1:, :] if self.pad == "last" else x.new_zeros(())
            x = torch.cat([x, last.expand(*x.shape[:-2], short, x.shape[-1])], dim=-2)
        return x.unflatten(-2, (-1, self.group)), -2

    def _pieces(
        self, tensors: tuple[Tensor, ...], scale: Tensor, zero: Tensor
    ) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
        """Views of [..., T, D] tensors cut into groups, with the scale and zero of each group.

        Two pieces where the last group of a frame is short.
        """
        if self.axis == "channels":
            views = [x.unflatten(-1, (scale.shape[-1], -1)) for x in tensors]
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


def _stored(metadata: Tensor) -> Tensor:
    """As fp16; magnitudes below its range become 0, those above its largest value."""
    return metadata.float().clamp_(-FP16_MAX, FP16_MAX).half()


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


def staged(packed: Packed, out_BHFTD: Tensor) -> Iterator[tuple[Packed, Tensor]]:
    """Tiles of what is stored, each with the contiguous fp32 tensor [B, h, f, T, D] to fill.

    That is `out` itself where it can be; else it is copied there when the next tile is asked for.
    """
    values = torch.empty(0)  # taken once for all tiles: fresh memory is slow on a CPU
    for heads, frames in tiles(packed):
        tile, out = packed.view(heads, frames), out_BHFTD[:, heads, frames]
        if out.dtype == torch.float32 and out.is_contiguous():
            yield tile, out
            continue
        if values.shape != tile.shape:
            values = torch.empty(tile.shape, dtype=torch.float32, device=packed.device)
        yield tile, values
        out.copy_(values)
