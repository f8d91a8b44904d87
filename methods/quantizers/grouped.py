"""The mechanics that uniform quantizers share: groups, packed codes, scales. Leaves add the fit."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.api import CacheSpec, Packed, Quantizer
from methods.quantizers.bits import WIDTHS, pack, unpack

FP16_MAX = 65504.0


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

    @abstractmethod
    def grid(self, parts: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Scale and zero, fp32, from the stored metadata: x = code * scale + zero."""

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Round to the nearest of the 2**bits levels of each group.

        Codes are chosen against the metadata as stored, after its rounding to fp16.
        """
        x = x_BHFTD.float()
        groups, dim = self._split(x)
        parts = self.fit(groups.amin(dim), groups.amax(dim))
        scale, zero = self._spread(parts, x.shape)
        codes = ((x - zero) / scale.clamp_min(1e-30)).round_().clamp_(0, 2**self.bits - 1)
        return Packed({"codes": pack(codes.to(torch.uint8), self.bits), **parts}, self.bits)

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        """Scale the codes back; computed in fp32, returned in `dtype`."""
        codes = unpack(packed.parts["codes"], self.bits)
        metadata = {name: part for name, part in packed.parts.items() if name != "codes"}
        scale, zero = self._spread(metadata, codes.shape)
        return torch.addcmul(zero, codes.float(), scale).to(dtype)

    def _split(self, x: Tensor) -> tuple[Tensor, int]:
        """View x [..., T, D] as groups, and the dimension that runs inside a group."""
        if self.axis == "channels":
            return x.unflatten(-1, (-1, self.group)), -1
        short = -x.shape[-2] % self.group
        if short:  # repeat the last token: it changes no extreme
            x = torch.cat([x, x[..., -1:, :].expand(*x.shape[:-2], short, -1)], dim=-2)
        return x.unflatten(-2, (-1, self.group)), -2

    def _spread(self, parts: dict[str, Tensor], shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Scale and zero of every value: broadcast from groups to [..., T, D]."""
        dim = -1 if self.axis == "channels" else -2
        scale, zero = (
            part.repeat_interleave(self.group, dim).narrow(dim, 0, shape[dim])
            for part in self.grid(parts)
        )
        return scale, zero
