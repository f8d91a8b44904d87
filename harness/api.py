"""The contracts between the harness and the methods it studies, and the data they share.

Shape letters, one legend for the project: B batch, F latent frames, T tokens (of one frame where F
stands beside it), H heads, D head width, N groups of values that share a scale, C latent channels,
h and w latent height and width, E text width. Memory is counted in bytes of the tensors that are
held; GiB is 2**30.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class CacheSpec:
    """What a method must know of a model: the geometry of its keys and values.

    `window` and `sink` are the model's own, in frames; `window=None` means the full history.
    """

    num_layers: int
    num_heads: int
    head_dim: int
    grid: tuple[int, int]
    chunk_frames: int
    window: int | None = None
    sink: int = 0
    positions: Literal["absolute", "relative"] = "absolute"
    keys: Literal["roped", "unroped"] = "roped"

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one latent frame after patching."""
        return self.grid[0] * self.grid[1]

    @property
    def bf16_frame_bytes(self) -> int:
        """Bytes of one frame's keys and values over all layers in BF16, batch 1."""
        return self.num_layers * 2 * self.num_heads * self.head_dim * 2 * self.tokens_per_frame


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
class Plane:
    """Uniform codes as kernels read them: x = (code + offset) * scale, plus zero if there is one.

    codes, scale and zero name parts. bits is the width of a code, packed planar: byte j holds
    channels j, j + D * bits / 8, ... (`harness.bits`). Metadata is shared by `group`
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
class Form:
    """How a kernel reads stored frames: (sum of the planes) * channel_scale + channel_mean.

    No planes: the part `exact` holds the values. channel_scale and channel_mean name parts
    [B, H, F, D], one value a channel of a frame.
    """

    planes: tuple[Plane, ...] = ()
    channel_scale: str | None = None
    channel_mean: str | None = None


class Quantizer(ABC):
    """How stored tokens are encoded: pure, blind to time.

    Frames are encoded independently of one another, keys and values apart. A leaf gives `encode`
    and `stage`; `rotation` and `form` are for quantizers that can do better than the default.
    """

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

    def form(self) -> Form | None:
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

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """The tensor itself; bit-exact."""
        page = (x_BHFTD.shape[3], x_BHFTD.shape[4])
        return Packed({"exact": x_BHFTD}, 8 * x_BHFTD.itemsize, page)

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Copy."""
        out_BHFTD.copy_(packed.parts["exact"])

    def form(self) -> Form:
        """No planes."""
        return Form()


class Fate(Enum):
    """What a retention policy makes of one stored frame."""

    KEEP = "keep"
    POOL = "pool"  # one token, the mean of the frame, with logit bias log(tokens it stands for)
    DROP = "drop"  # leaves the attention and frees its memory


@dataclass(frozen=True)
class History:
    """What a retention policy sees of one layer when a chunk is finished.

    frames: absolute indices of the frames stored in full, oldest first, the new chunk included;
    pooled frames are gone from it. num_frames: the frames an uncompressed cache would hold now.
    notes: what `observe` returned for every frame so far, by frame, dropped ones included.
    """

    frames: Sequence[int]
    num_frames: int
    notes: Mapping[int, Tensor]


class Retention(ABC):
    """What an old frame becomes: kept, pooled or dropped. Blind to bits, without state.

    Called once a layer and chunk, in the commit pass. What it lets go leaves before the new chunk
    is encoded, so storage never holds more than the policy keeps.
    """

    def check(self, spec: CacheSpec) -> None:  # noqa: B027  most policies serve every geometry
        """Raise ValueError, before anything is generated, if the geometry cannot be served."""

    def observe(self, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor | None:
        """A small note on a new frame, kept for the video (un-roped keys, exact values)."""
        return None

    def most_kept(self, num_frames: int) -> int | None:
        """The most frames it ever keeps in full of a history of `num_frames`.

        Storage of this size is taken at once, without it (None) it grows chunk by chunk.
        """
        return None

    @abstractmethod
    def decide(self, history: History) -> dict[int, Fate]:
        """The fate of the frames in `history.frames`; a frame left out is kept."""


@dataclass(frozen=True)
class Method:
    """One retention policy with its quantizers: one file of `conf/method/`.

    keys: store keys with or without their rotary position, `model` = as the model does.
    """

    key: Quantizer
    value: Quantizer
    retention: Retention
    keys: Literal["model", "roped", "unroped"] = "model"

    def __post_init__(self) -> None:
        """Refuse parts of another kind and an unknown key space."""
        kinds = {"key": Quantizer, "value": Quantizer, "retention": Retention}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"method.{name}={getattr(self, name)}: give a {kind.__name__}")
        if self.keys not in ("model", "roped", "unroped"):
            raise ValueError(f"method.keys={self.keys}: choose model, roped or unroped")

    def keys_in(self, spec: CacheSpec) -> Literal["roped", "unroped"]:
        """How keys are stored on a model."""
        return spec.keys if self.keys == "model" else self.keys

    def check(self, spec: CacheSpec) -> None:
        """Raise ValueError if a part cannot serve the model's geometry."""
        for part in (self.key, self.value, self.retention):
            part.check(spec)
