"""Base of the uniform quantizers: groups, packed codes and scales; subclasses fit the scales."""

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
TINY = 2.0**-126  # replaces a scale of zero as a divisor
SCALE_MIN = 1e-8  # the scale of a constant group if scales are computed in the dtype of x
OPTIONS = {
    "axis": ("tokens", "channels"),
    "compute": ("float32", "input"),
    "pad": ("last", "zeros"),
    "heads": ("apart", "together"),
}
TILE_VALUES = 2**20  # 4 MiB in fp32: stays in a processor's last-level cache


@dataclass(frozen=True)
class Grouped(Quantizer):
    """Uniform codes with scale and zero shared by groups of values: x = code * scale + zero.

    bits: width of a code, 2, 4 or 8.
    group: number of values that share a scale and a zero.
    axis: `tokens` groups neighbouring tokens of one channel (scale [.., N, D]); `channels` groups
    neighbouring channels of one token and head (scale [.., T, N]).
    short_tail: allow a shorter last group of tokens in a frame (1560 tokens are 97.5 groups of 16),
    and shorten a group that is larger than the frame or the head (group=128 then means the whole
    head in models of any size).

    The other three options reproduce a published study (arXiv 2603.27469); each is worse than the
    default.
    compute: `input` computes scales and codes in the dtype of x (BF16), then stores scales as fp16.
    pad: `zeros` fills a short group with zeros, which count when its extremes are taken.
    heads: `together` shares the metadata of a token between all heads (axis=channels only).

    Shapes  x [B, H, F, T, D] -> codes [B, H, F, T, D * bits / 8] u8, metadata fp16.
    Raises  ValueError: bits not 2, 4 or 8; a group that does not divide the frame or the head; an
    unknown option; heads=together with axis=tokens.
    """

    bits: int = 4
    group: int = 16
    axis: Literal["tokens", "channels"] = "tokens"
    short_tail: bool = False
    compute: Literal["float32", "input"] = "float32"
    pad: Literal["last", "zeros"] = "last"
    heads: Literal["apart", "together"] = "apart"

    def __post_init__(self) -> None:
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
        """True for axis=channels: tokens then share no metadata."""
        return self.axis == "channels"

    def check(self, spec: CacheSpec) -> None:
        """Check that groups divide the frame or the head and that codes fill whole bytes."""
        name = type(self).__name__
        size = spec.tokens_per_frame if self.axis == "tokens" else spec.head_dim
        thing = "tokens of a frame" if self.axis == "tokens" else "channels of a head"
        # Tokens may have a short last group; channels may not, but one group may be the whole head.
        fits = self.axis == "tokens" or self.group >= size
        ragged = self.short_tail and fits
        if size % self.group and not ragged:
            allowed = ", ".join(str(d) for d in range(2, size + 1) if size % d == 0)
            raise ValueError(
                f"{name}.group={self.group} does not divide the {size} {thing}: choose {allowed}"
            )
        require_whole_bytes(self, self.bits, spec)

    @abstractmethod
    def fit(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        """Return the metadata to store, fp16, in the shape of the groups' extremes low and high."""

    def measure(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        """Return the metadata in the dtype of the extremes, before rounding to fp16.

        Used by compute=`input`.
        """
        raise ValueError(f"{type(self).__name__}.compute=input: choose float32")

    def place(self, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Return the codes of x, whole numbers, not yet clamped, given the output of `measure`.

        Used by compute=`input`. zero: equals `scale` if `measure` returns no zero.
        """
        raise ValueError(f"{type(self).__name__}.compute=input: choose float32")

    @property
    def plain(self) -> bool:
        """Whether compute, pad and heads have their defaults, so that a kernel may encode."""
        return (self.compute, self.pad, self.heads) == ("float32", "last", "apart")

    def kernel_layout(self) -> KernelLayout | None:
        """Return a layout with one plane of codes."""
        return KernelLayout((self.plane(),))

    @abstractmethod
    def plane(self) -> CodePlane:
        """Describe the codes and their metadata for kernels."""

    @abstractmethod
    def grid(self, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return scale and zero, fp32, from the stored metadata: x = code * scale + zero."""

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Round each value to the nearest of the 2**bits levels of its group."""
        x = x_BHFTD if self.compute == "input" else x_BHFTD.float()
        codes = torch.empty_like(x)
        # The study chose codes by the metadata before it was rounded to fp16.
        if self.compute == "input":
            measured = self.measure(*self._extremes(x))
            scale, zero = measured["scale"], measured.get("zero", measured["scale"])
            for (x_part, out), s, z in self._pieces((x, codes), scale, zero):
                out.copy_(self.place(x_part, s, z))
            # fp16 turns small magnitudes into 0 and would turn large ones into infinity.
            parts = {
                name: part.float().clamp_(-FP16_MAX, FP16_MAX).half()
                for name, part in measured.items()
            }
        else:
            parts = self.fit(*self._extremes(x))
            # Use the metadata after its rounding to fp16, since that is what decoding sees.
            scale, zero = self.grid(parts)
            for (x_part, out), s, z in self._pieces((x, codes), scale, zero):
                torch.div(x_part - z, s.clamp_min(TINY), out=out)
        # Values may lie beyond the outermost level by the rounding of the metadata.
        codes = codes.round_().clamp_(0, 2**self.bits - 1).to(torch.uint8)
        # Stored once and expanded to a view, so that the parts have the dimension of heads.
        if self.heads == "together":
            parts = {name: p.expand(-1, x.shape[1], *p.shape[2:]) for name, p in parts.items()}
        page = (x.shape[3], x.shape[4])
        return Packed({"codes": pack(codes, self.bits), **parts}, self.bits, page)

    def _extremes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest value of each group of x [..., T, D]."""
        if self.axis == "channels":
            groups, dim = x.unflatten(-1, (-1, min(self.group, x.shape[-1]))), -1
        else:
            short = -x.shape[-2] % self.group
            if short:  # repeating the last token keeps the extremes of the group
                last = x[..., -1:, :] if self.pad == "last" else x.new_zeros(())
                x = torch.cat([x, last.expand(*x.shape[:-2], short, x.shape[-1])], dim=-2)
            groups, dim = x.unflatten(-2, (-1, self.group)), -2
        low, high = groups.amin(dim), groups.amax(dim)
        if self.heads == "together":
            return low.amin(1, keepdim=True), high.amax(1, keepdim=True)
        return low, high

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Decode in fp32, one tile that fits the processor's cache at a time."""
        for tile, values in staged(packed, out_BHFTD):
            unpack(tile.parts["codes"], self.bits, values)
            scale, zero = self.grid(tile.parts)
            if self.axis == "tokens":
                for (piece,), s, z in self._pieces((values,), scale, zero):
                    torch.addcmul(z, piece, s, out=piece)
                continue
            # A product with a matrix of zeros and ones copies each group's number to its channels.
            # It is exact, and on a CPU faster than broadcasting over loops as short as a group.
            num_groups, width = scale.shape[-1], values.shape[-1]
            spread = torch.eye(num_groups, device=values.device)
            spread = spread.repeat_interleave(width // num_groups, 1)
            rows = values.view(-1, width)
            rows.mul_(scale.reshape(-1, num_groups) @ spread)
            rows.addmm_(zero.reshape(-1, num_groups), spread)

    def _pieces(
        self, tensors: tuple[Tensor, ...], scale: Tensor, zero: Tensor
    ) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
        """Yield views of [..., T, D] tensors split into groups, with scale and zero to broadcast.

        A short last group of a frame needs a second piece.
        """
        if self.axis == "channels":
            views = [x.unflatten(-1, (scale.shape[-1], -1)) for x in tensors]
            yield views, scale[..., None], zero[..., None]
            return
        # Groups begin anew in every frame, so that a page can be freed or moved alone.
        num_tokens = tensors[0].shape[-2]
        whole = num_tokens // self.group * self.group
        for start, stop, size in ((0, whole, self.group), (whole, num_tokens, num_tokens - whole)):
            if start == stop:
                continue
            views = [x[..., start:stop, :].unflatten(-2, (-1, size)) for x in tensors]
            first, last = start // self.group, -(-stop // self.group)
            yield views, scale[..., first:last, None, :], zero[..., first:last, None, :]


def require_whole_bytes(owner: Quantizer, bits: int, spec: CacheSpec) -> None:
    """Check that the codes of a token, `bits` wide, fill whole bytes.

    Raises  ValueError: they do not.
    """
    if spec.head_dim % (8 // bits):
        name = type(owner).__name__
        raise ValueError(f"{name}.bits={bits}: {spec.head_dim} channels do not fill whole bytes")


def tiles(packed: Packed) -> Iterator[tuple[slice, slice]]:
    """Yield slices of heads and frames; each piece is small enough for the processor's cache."""
    # Whole pages of a head: metadata may belong to all tokens of a page.
    _, num_heads, num_frames, num_tokens, width = packed.shape
    frames = max(1, min(num_frames, TILE_VALUES // (num_tokens * width)))
    heads = max(1, TILE_VALUES // (num_frames * num_tokens * width))
    # On a GPU, each tile costs kernel launches and memory is fast: use a single tile.
    if packed.device.type != "cpu":
        heads, frames = num_heads, num_frames
    for head, frame in product(range(0, num_heads, heads), range(0, num_frames, frames)):
        yield slice(head, head + heads), slice(frame, frame + frames)


def staged(packed: Packed, out_BHFTD: Tensor) -> Iterator[tuple[Packed, Tensor]]:
    """Yield the tiles of `packed`, each with a contiguous fp32 tensor [B, h, f, T, D] to fill.

    The tensor is a view of `out` if that is fp32 and contiguous. Otherwise it is a buffer, which is
    copied into `out` when the caller asks for the next tile.
    """
    values = torch.empty(0)  # one buffer for all tiles: fresh memory is slow on a CPU
    for heads, frames in tiles(packed):
        tile, out = packed.view(heads, frames), out_BHFTD[:, heads, frames]
        if out.dtype == torch.float32 and out.is_contiguous():
            yield tile, out
            continue
        if values.shape != tile.shape:
            values = torch.empty(tile.shape, dtype=torch.float32, device=packed.device)
        yield tile, values
        out.copy_(values)
