"""Stored tokens: the packed data, its layout for kernels, and the quantizers that write it."""

from __future__ import annotations

import math
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
    def nominal_bytes(self) -> int:
        """Bytes of the values at `bits` each, without metadata, rounded down."""
        # For comparison with papers, which quote bits per value; ratios use `nbytes`.
        return math.prod(self.shape) * self.bits // 8

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape [B, H, F, T, D] of the values that the parts encode."""
        return (*next(iter(self.parts.values())).shape[:3], *self.page)

    @property
    def device(self) -> torch.device:
        """Device of the parts."""
        return next(iter(self.parts.values())).device

    @cached_property
    def prepared(self) -> dict[Any, Any]:
        """What a backend has derived from the addresses of the parts, by a key of its own."""
        # Every pass of every layer needs it; `replace` does not copy it, since parts then differ.
        return {}

    def view(self, heads: slice, frames: slice) -> Packed:
        """Return some heads of some frames; the result shares memory with this."""
        # Batch, heads and frames are the first axes of every part, so no quantizer is asked.
        return replace(self, parts={name: x[:, heads, frames] for name, x in self.parts.items()})


@dataclass(frozen=True)
class CodePlane:
    """Codes as kernels read them: x = number * scale, plus zero if there is one.

    The number of a code is code + offset, or an entry of a table.

    bits: width of a code, packed planar: byte j holds channels j, j + D * bits / 8, ...
        (`harness.api.bits`).
    group, axis: metadata is shared by `group` neighbouring tokens of a channel (axis `tokens`,
        metadata [B, H, F, N, D], the last group may be shorter) or by `group` neighbouring
        channels of a token (axis `channels`, metadata [B, H, F, T, N]). A group of None is the
        whole frame or the whole head; then N = 1, and the part may lack that dimension.
    codes, scale, zero: names of parts. A scale of None is 1, and needs a table.
    scale_table: the 256 numbers by byte for scales stored as u8; None for fp16 scales.
    unit: name of the part [B, H, F] fp32 that multiplies these numbers; None for 1.
    table: the 2**bits numbers by code, rounded to fp32, or the name of the part that holds them
        [B, H, F, 2**bits] fp16; None for uniform codes.
    fit: how `encode` computes the metadata, if a kernel may do it: `absmax` (scale = max|x| /
        -offset) or `minmax` (zero = min, scale = (max - zero) / (2**bits - 1)), each rounded to
        fp16 before the codes are chosen. None: only the quantizer can encode.
    """

    bits: int
    group: int | None
    axis: Literal["tokens", "channels"]
    offset: float = 0.0
    codes: str = "codes"
    scale: str | None = "scale"
    zero: str | None = None
    scale_table: tuple[float, ...] | None = None
    unit: str | None = None
    table: tuple[float, ...] | str | None = None
    fit: Literal["absmax", "minmax"] | None = None

    def group_in(self, page: tuple[int, int]) -> int:
        """Return how many tokens or channels share metadata in pages of (T, D)."""
        # A group ends with the page or the head, also if the quantizer allows larger groups: pages
        # are read alone.
        whole = page[0] if self.axis == "tokens" else page[1]
        return whole if self.group is None else min(self.group, whole)


@dataclass(frozen=True)
class Centroids:
    """Names of the parts that give each token the centroid of its cluster.

    rows: centroids [B, H, F, C, D] fp16. nearest: index of each token's centroid [B, H, F, T] u8.
    """

    rows: str
    nearest: str


@dataclass(frozen=True)
class Exceptions:
    """Names of the parts that hold the n values of each head and frame that are stored exactly.

    index: t * D + d [B, H, F, n] int16 or int32, ascending. value: [B, H, F, n] fp16.
    """

    index: str
    value: str


@dataclass(frozen=True)
class KernelLayout:
    """Layout of stored frames for kernels: a sum of planes, then scales, a mean and centroids.

    x = (sum of the planes) * token_scale * channel_scale + channel_mean + centroids, in this order.
    Exceptions then replace single values.

    planes: codes to sum; if empty, the part `exact` holds the values.
    token_scale: name of a part [B, H, F, T] with one value per token; None leaves the term out.
    channel_scale, channel_mean: names of parts [B, H, F, D] with one value per channel of a frame;
        None leaves the term out.
    centroids: added one after the other.
    exceptions: values stored exactly; no GPU kernel reads them.
    """

    planes: tuple[CodePlane, ...] = ()
    token_scale: str | None = None
    channel_scale: str | None = None
    channel_mean: str | None = None
    centroids: tuple[Centroids, ...] = ()
    exceptions: Exceptions | None = None

    @property
    def only_planes(self) -> bool:
        """Whether values are a sum of planes and nothing else."""
        # Compared with a layout of the planes alone, so a term that is added later counts too.
        return bool(self.planes) and self == KernelLayout(self.planes)


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
        """Return the layout in which loops and kernels read encoded frames, or None.

        None means that only `stage` can decode them. A class with an `encode` or `stage` of its own
        does not inherit a layout.
        """
        return None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # Loops and kernels go by the layout: with an inherited one they would pass by the code of
        # the subclass, without a word.
        own = vars(cls)
        if ("encode" in own or "stage" in own) and "kernel_layout" not in own:
            cls.kernel_layout = Quantizer.kernel_layout  # type: ignore[method-assign]

    def split_off(self, x_BHFTD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the values that the planes of `kernel_layout` encode, and all parts without codes.

        Shapes  x [B, H, F, T, D] of any float dtype -> the same shape, any float dtype.
        """
        # Loops encode planes only. What comes before them (QuaRot's rotation, the mean or scale of
        # a channel) stays torch's work, in overrides of this method.
        return x_BHFTD, {}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        """Return the decoded x [B, H, F, T, D] with the rotation undone.

        The cache decodes tokens for a policy; attention calls `stage`, and for frames that change
        their tier the cache calls `stage` and `turned_back`.
        """
        # fp32 until the rotation is undone, so that the result is rounded once. Attention does
        # without this call: it folds the rotation into query and output.
        out = torch.empty(packed.shape, dtype=torch.float32, device=packed.device)
        self.stage(packed, out)
        return self.turned_back(out).to(dtype)

    def turned_back(self, x: Tensor) -> Tensor:
        """Return staged values [..., D] fp32 with the rotation undone."""
        # Apart from `decode`, because a backend may stage with a loop or a kernel before it.
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
        # Frame pages copy the parts anyway; unfinished chunks keep the network's own tensors.
        page = (x_BHFTD.shape[3], x_BHFTD.shape[4])
        return Packed({"exact": x_BHFTD}, 8 * x_BHFTD.itemsize, page)

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Copy the values into `out`."""
        out_BHFTD.copy_(packed.parts["exact"])

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        """Return the stored tensor itself if it has this dtype, else a copy."""
        return packed.parts["exact"].to(dtype)

    def kernel_layout(self) -> KernelLayout:
        """Return a layout without planes: the part `exact` holds the values."""
        # So kernels also serve methods that store only keys, or only values, as codes.
        return KernelLayout()
