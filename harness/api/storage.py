"""Stored tokens: the packed data, its layout for kernels, and the quantizers that write it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from harness.api.spec import CacheSpec


@dataclass(frozen=True)
class Packed:
    """Stored frames [B, H, F, T, D] of one layer, as the tensors that are allocated.

    parts: tensors by name (codes, scale, ...). Every part begins with the dimensions B, H, F, so
        that some heads can be read alone and every frame has its own page.
    bits: nominal bits per value, as papers quote them, without metadata; `nbytes` includes it.
    page: (T, D) of one page.
    """

    parts: Mapping[str, Tensor]
    bits: int
    page: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts.values())

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape [B, H, F, T, D] of the values that the parts encode."""
        return (*next(iter(self.parts.values())).shape[:3], *self.page)

    @property
    def device(self) -> torch.device:
        """Device of the parts."""
        return next(iter(self.parts.values())).device

    @cached_property
    def prepared(self) -> dict[KernelLayout, Any]:
        """What a backend has derived from the addresses of the parts, by the layout it read."""
        # Every pass of every layer needs it; `replace` does not copy it, since parts then differ.
        return {}

    def view(self, heads: slice, frames: slice) -> Packed:
        """Return some heads of some frames; the result shares memory with this."""
        return replace(self, parts={name: x[:, heads, frames] for name, x in self.parts.items()})


@dataclass(frozen=True)
class CodePlane:
    """Uniform codes as kernels read them: x = (code + offset) * scale, plus zero if there is one.

    bits: width of a code, packed planar: byte j holds channels j, j + D * bits / 8, ...
        (`harness.api.bits`).
    group, axis: metadata is shared by `group` neighbouring tokens of a channel (axis `tokens`,
        metadata [B, H, F, N, D], the last group may be shorter) or by `group` neighbouring
        channels of a token (axis `channels`, metadata [B, H, F, T, N]).
    codes, scale, zero: names of parts.
    fit: how `encode` computes the metadata, if a kernel may do it: `absmax` (scale = max|x| /
        -offset) or `minmax` (zero = min, scale = (max - zero) / (2**bits - 1)), each rounded to
        fp16 before the codes are chosen. None: only the quantizer can encode.
    """

    bits: int
    group: int
    axis: Literal["tokens", "channels"]
    offset: float = 0.0
    codes: str = "codes"
    scale: str = "scale"
    zero: str | None = None
    fit: Literal["absmax", "minmax"] | None = None


@dataclass(frozen=True)
class KernelLayout:
    """Layout of stored frames for kernels: x = (sum of the planes) * channel_scale + channel_mean.

    planes: codes to sum; if empty, the part `exact` holds the values.
    channel_scale, channel_mean: names of parts [B, H, F, D] with one value per channel of a frame;
        None leaves the term out.
    """

    planes: tuple[CodePlane, ...] = ()
    channel_scale: str | None = None
    channel_mean: str | None = None


class Quantizer(ABC):
    """Encodes and decodes stored tokens. Stateless, and unaware of a token's position in time.

    Frames are encoded independently of one another, keys and values separately. A subclass defines
    `encode` and `stage`; `rotation` and `kernel_layout` are optional and make attention faster.
    """

    @property
    def paged(self) -> bool:
        """Whether parts begin with B, H, F; if not, only the published integration can use it."""
        return True

    @property
    def per_token(self) -> bool:
        """Whether every part is [B, H, F, T, ...], so that tokens can be picked undecoded."""
        return False

    def check(self, spec: CacheSpec) -> None:  # noqa: B027  most quantizers serve every geometry
        """Raise ValueError, before anything is generated, if the geometry cannot be served."""

    @abstractmethod
    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Encode x [B, H, F, T, D] of any float dtype. The parts may share memory with x."""

    @abstractmethod
    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Write the stored values into `out` [B, H, F, T, D] of any float dtype and layout.

        packed: any heads and frames of the encoded data. A `rotation` is not undone. Attention
        calls this for every tile, so it must be fast.
        """

    def rotation(self, width: int, device: torch.device) -> Tensor | None:
        """Return the orthogonal matrix R [D, D] fp32 if the stored values are x R, else None.

        Attention never undoes R per key: it multiplies q by R, because (q R)(k R)^T = q k^T, and
        multiplies the weighted sum of the stored v R by R^T once.
        """
        # Overrides must return the same object each time: attention compares rotations by identity.
        return None

    def kernel_layout(self) -> KernelLayout | None:
        """Return the layout in which kernels read encoded frames; None if only `stage` can."""
        return None

    def split_off(self, x_BHFTD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the values that the planes of `kernel_layout` encode, and all parts without codes.

        Shapes  x [B, H, F, T, D] of any float dtype -> the same shape, any float dtype.
        """
        return x_BHFTD, {}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        """Return the decoded x [B, H, F, T, D] with the rotation undone.

        The cache decodes tokens for a policy; attention calls `stage`, and for frames that change
        their tier the cache calls `stage` and `turned_back`.
        """
        # fp32 until the rotation is undone, so that the result is rounded once.
        out = torch.empty(packed.shape, dtype=torch.float32, device=packed.device)
        self.stage(packed, out)
        return self.turned_back(out).to(dtype)

    def turned_back(self, x: Tensor) -> Tensor:
        """Return staged values [..., D] fp32 with the rotation undone."""
        rotation = self.rotation(x.shape[-1], x.device)
        return x if rotation is None else x @ rotation.T


@dataclass(frozen=True)
class Exact(Quantizer):
    """The identity: stores values unchanged, in the model's own dtype (BF16 for shipped models).

    Shapes  x [B, H, F, T, D] -> exact, same shape and dtype.
    """

    @property
    def per_token(self) -> bool:
        """True: every token is stored alone."""
        return True

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Return the tensor itself, not a copy."""
        page = (x_BHFTD.shape[3], x_BHFTD.shape[4])
        return Packed({"exact": x_BHFTD}, 8 * x_BHFTD.itemsize, page)

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Copy the values into `out`."""
        out_BHFTD.copy_(packed.parts["exact"])

    def kernel_layout(self) -> KernelLayout:
        """Return a layout without planes: the part `exact` holds the values."""
        return KernelLayout()
