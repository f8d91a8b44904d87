"""What the layers of a session share, and what the session asks of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from harness.api import DROP, POOL, CacheSpec, Method, Placement, Retention, Split, Stores
from harness.cache.attention.base import Backend, Segment
from harness.cache.positions import Positions, Table

HIDDEN = -1e4  # a logit that draws no attention, finite so that hidden tokens alone stay a number


@dataclass(frozen=True)
class Plan:
    """Where one pass stands in the video, the same for all layers.

    stores: what is kept of the pass.
    shift: frames by which positions behind the sink move back.
    lift: frames by which positions of the sink move forward.
    hidden: stored frames between the sink and those that the model lets this pass see.
    sees: the earlier frames that the caller lets this pass see; None for all of them.
    turns: rotation of the current chunk's queries and keys.
    """

    frames: range
    stores: Stores
    shift: int
    turns: Table
    lift: int = 0
    hidden: range = range(0)
    sees: range | None = None

    def shows(self, frame: int) -> bool:
        """Whether this pass may attend to an earlier frame, if it is stored."""
        return frame not in self.hidden and (self.sees is None or frame in self.sees)

    def rotate(self, x_BHTD: Tensor) -> Tensor:
        """Turn queries or keys of the current chunk [B, H, F * T, D] to the pass's positions."""
        return self.turns.rotate(x_BHTD.unflatten(2, (len(self.frames), -1))).flatten(2, 3)


@dataclass(frozen=True)
class Chunk:
    """The current chunk in one layer [B, H, F * T, D].

    key: un-rotated. rotated_query, rotated_key: at their positions of this pass. The query has the
    model's query heads, the others its KV heads.
    """

    key: Tensor
    value: Tensor
    rotated_query: Tensor
    rotated_key: Tensor


@dataclass
class Context:
    """One video under one method: what its layers share.

    retention: the method's, sized for the video. num_frames: of the whole video. turns: tables of
    the pass that runs, by the places that stored keys move to.
    """

    spec: CacheSpec
    method: Method
    retention: Retention
    backend: Backend
    num_frames: int
    positions: Positions
    roped: bool
    turns: dict[tuple[int | bool, ...], Table] = field(default_factory=dict)

    @property
    def reach(self) -> int:
        """The most frames that attention reaches, of those over which the policy decides."""
        window = self.spec.window
        own = self.spec.sink if self.spec.sink_rate else 0
        return (self.num_frames if window is None else min(self.num_frames, window)) - own

    def roped_keys(self, chunk: Chunk, plan: Plan) -> Tensor:
        """Keys at their absolute positions [B, H, F * T, D], as they are stored roped."""
        if plan.shift == 0:
            return chunk.rotated_key
        keys = chunk.key.unflatten(2, (len(plan.frames), -1))
        return self.positions.frames(plan.frames).rotate(keys).flatten(2, 3)

    def turns_of(self, frames: Sequence[int], plan: Plan, roped: bool) -> Table | None:
        """How stored keys turn on reading; layers that hold the same frames share the tables."""
        moved = tuple(plan.lift if f < self.spec.sink else -plan.shift for f in frames)
        if roped and not any(moved):
            return None
        places = moved if roped else tuple(f + m for f, m in zip(frames, moved, strict=True))
        if (roped, *places) not in self.turns:
            make = self.positions.shifts if roped else self.positions.frames
            self.turns[roped, *places] = make(places)
        return self.turns[roped, *places]


def demand_known(
    placements: Mapping[int, Placement], frames: Collection[int], tiers: Iterable[str]
) -> None:
    """A policy may decide over stored frames alone, and name tiers that the method has.

    Raises  ValueError: it did something else.
    """
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
    """The history of one layer."""

    def segments(self, plan: Plan) -> list[Segment]:
        """History as a pass sees it."""

    def observe_noisy(self, chunk: Chunk, plan: Plan) -> None:
        """A pass that is not the commit has attended."""

    def commit(self, chunk: Chunk, plan: Plan) -> None:
        """Let the policy decide over history and the finished chunk, and store what stays."""

    def evict(self, first: int) -> None:
        """Let go of frames behind the model's sink and before `first`."""

    @property
    def ledger(self) -> Counter[str]:
        """Bytes of the tensors held, by what they are."""

    @property
    def nominal_bytes(self) -> int:
        """Bytes of the codes alone, as a bit width is usually quoted."""

    @property
    def num_frames_held(self) -> float:
        """Frames that still have a place in the attention."""

    def stored(self) -> tuple[list[int], Tensor, Tensor]:
        """What is stored in full, decoded: frames, keys and values [B, H, F, T, D] fp32."""
