"""Encodes whole spans of frames together, for quantizers with large metadata per page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.api import KEEP, CacheSpec, FramePolicy, History, Placement
from methods.retention.bounds import require_counts

RECENT = "recent"


@dataclass(frozen=True)
class Spans(FramePolicy):
    """Holds frames in tier `recent` until their span is complete, then moves them to KEEP.

    Spans are aligned to frames 0..span-1 and so on. An incomplete last span stays in `recent`.

    span: frames per span, at least 1.

    Source  the chunks over which Quant VideoGen (arXiv 2602.02958) shares its centroids.
    Raises  ValueError: a span below one frame; a model whose window would cut a span.
    """

    span: int = 3

    def __post_init__(self) -> None:
        require_counts(self, "span", least=1)

    @property
    def tiers(self) -> tuple[str, ...]:
        """Return the name of the only tier, `recent`."""
        return (RECENT,)

    def check(self, spec: CacheSpec) -> None:
        """Check that the model's window always drops whole spans."""
        if spec.window is None:
            return
        # The window starts after the sink, has its own length, and moves by chunks: if the span
        # divides all three, the border never lies inside a span.
        sizes = {"chunk_frames": spec.chunk_frames, "window": spec.window, "sink": spec.sink}
        for name, size in sizes.items():
            if size % self.span:
                allowed = [
                    span
                    for span in range(1, spec.chunk_frames + 1)
                    if all(each % span == 0 for each in sizes.values())
                ]
                raise ValueError(
                    f"Spans.span={self.span} does not divide the model's {name}={size}, so its "
                    f"window would cut a span: choose {', '.join(map(str, allowed))}, "
                    "or model.window=null"
                )

    def max_frames(self, tier: str, num_frames: int) -> int | None:
        """Return the frames of whole spans for KEEP; unknown (None) for `recent`."""
        # KEEP holds whole spans only, so the rest of a history does not count.
        if tier == RECENT:
            return None
        return num_frames // self.span * self.span if tier == KEEP else 0

    def decide(self, history: History) -> Mapping[int, Placement]:
        """Place frames of complete spans in KEEP and the others in `recent`."""
        stored, placements = set(history.frames), {}
        for frame in history.frames:
            first = frame // self.span * self.span
            is_complete = stored.issuperset(range(first, first + self.span))
            placements[frame] = KEEP if is_complete else RECENT
        return placements
