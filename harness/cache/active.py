"""Exact keys and values of chunks that are still being denoised."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from harness.api import Exact, Packed
from harness.cache.attention.base import Segment
from harness.cache.layer import Chunk, Context, Plan
from harness.cache.pages import Pages


@dataclass
class ActiveChunks:
    """Exact keys and values of one layer, from the newest pass of each unfinished chunk.

    A pass sees the chunks before its own. Each pass of a chunk replaces its entry; storing the
    chunk in the history frees it. A skipped pass leaves the entry unchanged.
    """

    context: Context
    held: dict[range, tuple[Packed, Packed]] = field(default_factory=dict)

    def store(self, chunk: Chunk, plan: Plan) -> None:
        """Store a chunk's keys, rotated to absolute positions, and its values."""
        sizes = (len(plan.frames), -1)
        # Absolute positions hold for every later pass, whose window may have moved.
        keys, values = self.context.roped_keys(chunk, plan), chunk.value
        # Exact storage copies nothing, so the next pass of the chunk simply replaces these tensors.
        self.held[plan.frames] = (
            Exact().encode(keys.unflatten(2, sizes)),
            Exact().encode(values.unflatten(2, sizes)),
        )

    def taken(self, frames: range) -> tuple[Tensor, Tensor]:
        """Remove a chunk; return its rotated keys and its values [B, H, F * T, D]."""
        key, value = self.held.pop(frames)
        return key.parts["exact"].flatten(2, 3), value.parts["exact"].flatten(2, 3)

    def free(self, frames: range) -> None:
        """Free a chunk, if it is stored."""
        self.held.pop(frames, None)

    def segments(self, plan: Plan) -> list[Segment]:
        """Return the chunks that a pass sees, with the rotations to the positions of the plan."""
        exact, found = Exact(), []
        # Later chunks may be stored too, when an earlier one runs again in the next row.
        for frames in sorted(self.held, key=lambda each: each.start):
            if frames.start >= plan.frames.start:
                break
            shown = [frame for frame in frames if plan.shows(frame)]
            if not shown:
                continue
            key, value = self.held[frames]
            pages = Pages(key, value, tuple(frame - frames.start for frame in shown))
            turns = self.context.turns_of(shown, plan, roped=True)
            found.append(Segment(pages, exact, exact, turns))
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return sum(packed.nbytes for pair in self.held.values() for packed in pair)
