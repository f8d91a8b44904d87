"""Interface of a cache layer, and the state that all layers of one video share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from harness.api import (
    DROP,
    POOL,
    CacheSpec,
    Exact,
    Method,
    Packed,
    Placement,
    Quantizer,
    Retention,
    Split,
    Stores,
)
from harness.cache.attention.base import Backend, Segment
from harness.cache.pages import Pages, decode_pages
from harness.cache.positions import Positions, Table
from harness.cache.traffic import Traffic

# Logit of a hidden token. It is finite, because with -inf a softmax over hidden tokens alone would
# be NaN.
HIDDEN = -1e4


def rotated(x_BHTD: Tensor, table: Table, num_frames: int) -> Tensor:
    """Rotate a chunk [B, H, F * T, D] of `num_frames` frames by a table of these frames."""
    return table.rotate(x_BHTD.unflatten(2, (num_frames, -1))).flatten(2, 3)


@dataclass(frozen=True)
class Plan:
    """Frames and positions of one pass, the same for all layers.

    frames: frames of the pass.
    stores: what the cache keeps of the pass.
    shift: frames by which positions after the sink move back.
    turns: rotations of the current chunk's queries and keys.
    lift: frames by which positions of the sink move forward.
    hidden: stored frames that the model hides from this pass.
    sees: earlier frames that the caller lets this pass see; None for all.
    causal_frames: frames of a chunk, if the chunks of the pass attend to themselves and to earlier
        ones only; None if all attend to each other.
    observed: whether a policy that compares passes looks at a noisy pass.
    """

    frames: range
    stores: Stores
    shift: int
    turns: Table
    lift: int = 0
    hidden: range = range(0)
    sees: range | None = None
    causal_frames: int | None = None
    observed: bool = True

    def shows(self, frame: int) -> bool:
        """Whether this pass may attend to an earlier frame, if it is stored."""
        return frame not in self.hidden and (self.sees is None or frame in self.sees)

    def rotate(self, x_BHTD: Tensor) -> Tensor:
        """Rotate queries or keys of the current chunk [B, H, F * T, D] to the pass's positions."""
        return rotated(x_BHTD, self.turns, len(self.frames))


@dataclass(frozen=True)
class Chunk:
    """The current chunk in one layer, all fields [B, H, F * T, D].

    H is the number of query heads for the query, and of KV heads for the others. A chunk that is
    stored without a pass has no queries: T of the query is 0.

    key: un-rotated.
    rotated_query, rotated_key: at their positions of this pass.
    """

    key: Tensor
    value: Tensor
    rotated_query: Tensor
    rotated_key: Tensor


@dataclass
class Context:
    """State of one video under one method that all layers share.

    retention: the method's policy, sized for the video.
    num_frames: latent frames of the whole video.
    roped: whether stored keys include their rotary position.
    traffic: counts what the layers encode.
    turns: rotations of the current pass, by the positions to which stored keys move. Layers that
        hold the same frames share them.
    """

    spec: CacheSpec
    method: Method
    retention: Retention
    backend: Backend
    num_frames: int
    positions: Positions
    roped: bool
    traffic: Traffic = field(default_factory=Traffic)
    turns: dict[tuple[int | bool, ...], Table] = field(default_factory=dict)

    @property
    def reach(self) -> int:
        """The most frames within the window that the policy may decide over."""
        window = self.spec.window
        # A sink that changes belongs to the model; the policy does not decide over it. A sink that
        # does not change is history like any other. Arenas allocate this many frames at once.
        own = self.spec.sink if self.spec.sink_rate else 0
        return (self.num_frames if window is None else min(self.num_frames, window)) - own

    def write(self, quantizer: Quantizer, x_BHFTD: Tensor, room: Packed, pages: Pages) -> None:
        """Encode new frames [B, H, F, T, D] into their pages of `room`, and count it."""
        self.traffic.encoded(quantizer, x_BHFTD.shape)
        self.backend.write(quantizer, x_BHFTD, room, pages)

    def encode(self, quantizer: Quantizer, x_BHFTD: Tensor) -> Packed:
        """Encode tokens [B, H, F, T, D] that form a page of their own, and count it."""
        # By the quantizer itself: backends write into arenas of frames only.
        self.traffic.encoded(quantizer, x_BHFTD.shape)
        return quantizer.encode(x_BHFTD)

    def decode(self, quantizer: Quantizer, packed: Packed, dtype: torch.dtype) -> Tensor:
        """Return all stored tokens [B, H, F, T, D], as `Quantizer.decode` does, by the backend."""
        if isinstance(quantizer, Exact):
            return quantizer.decode(packed, dtype)
        pages = Pages(packed, packed, tuple(range(packed.shape[2])))
        decoded = decode_pages(quantizer, packed, pages, self.backend.stage).to(dtype)
        return decoded.view(packed.shape)

    def roped_keys(self, chunk: Chunk, plan: Plan) -> Tensor:
        """Return the chunk's keys at their absolute positions [B, H, F * T, D], to store roped."""
        # The shift grows as the window moves, so keys are stored at absolute positions. Without a
        # shift the keys of this pass are there already.
        if plan.shift == 0:
            return chunk.rotated_key
        return rotated(chunk.key, self.positions.frames(plan.frames), len(plan.frames))

    def turns_of(self, frames: Sequence[int], plan: Plan, roped: bool) -> Table | None:
        """Return the rotations of stored keys on reading; None if they need none.

        roped: whether these keys are stored with their position.
        """
        # The usual case first, since every segment of every layer asks: nothing moves.
        if roped and not plan.lift and not plan.shift:
            return None
        moved = tuple(plan.lift if f < self.spec.sink else -plan.shift for f in frames)
        if roped and not any(moved):
            return None
        # Rotations add up: roped keys need only the offset, un-roped keys the whole position.
        places = moved if roped else tuple(f + m for f, m in zip(frames, moved, strict=True))
        # Every layer asks for the same few tables, and to make one costs sines and a transfer.
        if (roped, *places) not in self.turns:
            make = self.positions.shifts if roped else self.positions.frames
            self.turns[roped, *places] = make(places)
        return self.turns[roped, *places]


def demand_known(
    placements: Mapping[int, Placement], frames: Collection[int], tiers: Iterable[str]
) -> None:
    """Check a policy's placements: only stored frames, only tiers that the method has.

    Raises  ValueError: another frame or tier.
    """
    # A frame that a policy sends to a misspelt tier would be lost without a word.
    allowed = list(dict.fromkeys((*tiers, POOL, DROP)))
    for frame, placement in placements.items():
        if frame not in frames:
            raise ValueError(f"the retention policy decided over frame {frame}, not stored")
        for name in (
            (placement.first, placement.rest) if isinstance(placement, Split) else (placement,)
        ):
            if name not in allowed:
                raise ValueError(
                    f"the retention policy sent frame {frame} to tier {name}: the method has "
                    f"{', '.join(allowed)}; add it to the policy's `tiers` and the method's"
                )


class Layer(Protocol):
    """Interface of the history of one layer.

    A pass calls `prepare` and `segments`, attends, and then calls `commit` if it stores history,
    else `observe_noisy`.
    """

    # Three kinds: `FrameLayer` and `TokenLayer` by the policy, and the read-only `SharedLayer`.
    def prepare(self, query_BHTD: Tensor, plan: Plan) -> None:
        """Let the policy act on history before a pass attends to it.

        query: rotated queries of the pass.
        """

    def make_room(self) -> None:
        """Let the policy evict tokens before a new chunk starts."""

    def segments(self, plan: Plan) -> list[Segment]:
        """Return the stored frames that a pass sees."""

    def observe_noisy(self, chunk: Chunk, plan: Plan) -> None:
        """Show the policy a chunk after a denoising pass."""

    def commit(self, chunk: Chunk, plan: Plan) -> None:
        """Let the policy decide over history and the finished chunk, and store the result."""

    def evict(self, first: int) -> None:
        """Evict frames after the model's sink and before `first`."""

    def renew(self, frames: range) -> None:
        """Free the newest frames, which are stored again."""

    @property
    def ledger(self) -> dict[str, int]:
        """Bytes of the allocated tensors, by component."""

    @property
    def nominal_bytes(self) -> int:
        """Bytes of the history without metadata, at the nominal bits per value."""

    @property
    def num_frames_held(self) -> float:
        """Frames that attention still reads, full or pooled."""

    def stored(self) -> tuple[list[int], Tensor, Tensor]:
        """Return whole frames: indices, decoded keys and values [B, H, F, T, D] fp32."""
