"""Stored tokens: what is held of them, how kernels read it, and who encodes and decodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from harness.api.spec import CacheSpec


@dataclass(frozen=True)
class Packed:
    """Stored frames [B, H, F, T, D] of one layer: the parts really held, by what they are.

    Every part begins with the dimensions B, H, F, so that a group of heads can be read alone and a
    frame has a page of its own. `page` is (T, D). `bits` is the nominal width of a value, the way a
    bit width is usually quoted; what is really stored is `nbytes`.
    """

    parts: Mapping[str, Tensor]
    bits: int
    page: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held."""
        return sum(part.nbytes for part in self.parts.values())

    @property
    def shape(self) -> tuple[int, ...]:
        """[B, H, F, T, D] of what is stored."""
        return (*next(iter(self.parts.values())).shape[:3], *self.page)

    @property
    def device(self) -> torch.device:
        """Where the parts lie."""
        return next(iter(self.parts.values())).device

    def view(self, heads: slice, frames: slice) -> Packed:
        """Some heads of some frames, sharing memory."""
        return replace(self, parts={name: x[:, heads, frames] for name, x in self.parts.items()})


@dataclass(frozen=True)
class CodePlane:
    """Uniform codes as kernels read them: x = (code + offset) * scale, plus zero if there is one.

    codes, scale and zero name parts. bits is the width of a code, packed planar: byte j holds
    channels j, j + D * bits / 8, ... (`harness.api.bits`). Metadata is shared by `group`
    neighbouring tokens of a channel (axis `tokens`, [B, H, F, N, D], the last group may be short)
    or by `group` neighbouring channels of a token (axis `channels`, [B, H, F, T, N]).

    fit says how `encode` finds the metadata, where a kernel may do it: `absmax` (scale = max|x| /
    -offset) or `minmax` (zero = min, scale = (max - zero) / (2**bits - 1)), each rounded to fp16
    before the codes are chosen; None: only the quantizer knows.
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
    """How a kernel reads stored frames: (sum of the planes) * channel_scale + channel_mean.

    No planes: the part `exact` holds the values. channel_scale and channel_mean name parts
    [B, H, F, D], one value a channel of a frame.
    """

    planes: tuple[CodePlane, ...] = ()
    channel_scale: str | None = None
    channel_mean: str | None = None


class Quantizer(ABC):
    """How stored tokens are encoded: pure, blind to time.

    Frames are encoded independently of one another, keys and values apart. A leaf gives `encode`
    and `stage`; `rotation` and `kernel_layout` are for quantizers that can do better than the
    default.
    """

    @property
    def paged(self) -> bool:
        """Whether parts begin with B, H, F; else only what encodes all tokens at once serves it."""
        return True

    @property
    def per_token(self) -> bool:
        """Whether every part is [B, H, F, T, ...], so that tokens can be picked out undecoded."""
        return False

    def check(self, spec: CacheSpec) -> None:  # noqa: B027  most quantizers serve every geometry
        """Raise ValueError, before anything is generated, if the geometry cannot be served."""

    @abstractmethod
    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Store x [B, H, F, T, D] of any float dtype. The parts may share memory with x."""

    @abstractmethod
    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Write the stored values into `out` of any float dtype and layout: the hot path.

        `packed` holds any heads and frames of what was stored. Values come as they were stored: a
        `rotation` is not undone.
        """

    def rotation(self, width: int, device: torch.device) -> Tensor | None:
        """The orthogonal matrix R [D, D] fp32 if x R is what is stored; always the same object.

        Attention folds it: q R meets keys stored as k R, and what it sums of v R is turned back
        once by R^T.
        """
        return None

    def kernel_layout(self) -> KernelLayout | None:
        """How GPU kernels read what `encode` stores; None if only `stage` can."""
        return None

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        """Give x [B, H, F, T, D] back, rotation undone: the oracle, not the hot path."""
        out = torch.empty(packed.shape, dtype=torch.float32, device=packed.device)
        self.stage(packed, out)
        rotation = self.rotation(packed.page[1], packed.device)
        return (out if rotation is None else out @ rotation.T).to(dtype)


@dataclass(frozen=True)
class Exact(Quantizer):
    """The identity: stores what it is given, in the model's own dtype (BF16 for shipped models).

    Shapes  x [B, H, F, T, D] -> exact, same shape and dtype.
    """

    @property
    def per_token(self) -> bool:
        """Yes."""
        return True

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """The tensor itself; bit-exact."""
        page = (x_BHFTD.shape[3], x_BHFTD.shape[4])
        return Packed({"exact": x_BHFTD}, 8 * x_BHFTD.itemsize, page)

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Copy."""
        out_BHFTD.copy_(packed.parts["exact"])

    def kernel_layout(self) -> KernelLayout:
        """No planes."""
        return KernelLayout()
