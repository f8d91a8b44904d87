"""Whole spans of frames: for quantizers whose metadata pay only over many tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.api import KEEP, CacheSpec, FramePolicy, History, Placement
from methods.retention.bounds import require_counts

RECENT = "recent"


@dataclass(frozen=True)
class Spans(FramePolicy):
    """Frames wait in tier `recent` until their span is complete, then go to KEEP together.

    Spans are aligned: frames 0..span-1, then the next. A last span that never fills stays waiting.

    Source  the chunks over which Quant VideoGen (arXiv 2602.02958) shares its centroids.
    Raises  ValueError: a span below one frame; a model whose window would cut spans.
    """

    span: int = 3

    def __post_init__(self) -> None:
        """Refuse what is no span."""
        require_counts(self, "span", least=1)

    @property
    def tiers(self) -> tuple[str, ...]:
        """One, for those that wait."""
        return (RECENT,)

    def check(self, spec: CacheSpec) -> None:
        """The model's window must drop whole spans: it moves by chunks, between window and sink."""
        if spec.window is None:
            return
        sizes = {"chunk_frames": spec.chunk_frames, "window": spec.window, "sink": spec.sink}
        for name, size in sizes.items():
            if size % self.span:
                allowed = [s for s in range(1, spec.chunk_frames + 1) if not _rest(sizes, s)]
                raise ValueError(
                    f"Spans.span={self.span} does not divide the model's {name}={size}, so its "
                    f"window would cut a span: choose {', '.join(map(str, allowed))}, "
                    "or model.window=null"
                )

    def max_frames(self, tier: str, num_frames: int) -> int | None:
        """Whole spans; how many frames wait depends on the chunks."""
        if tier == RECENT:
            return None
        return num_frames // self.span * self.span if tier == KEEP else 0

    def decide(self, history: History) -> Mapping[int, Placement]:
        """Complete spans are kept."""
        stored = set(history.frames)
        return {f: KEEP if self._of(f) <= stored else RECENT for f in history.frames}

    def _of(self, frame: int) -> set[int]:
        """The frames of a frame's span."""
        first = frame // self.span * self.span
        return set(range(first, first + self.span))


def _rest(sizes: Mapping[str, int], span: int) -> bool:
    return any(size % span for size in sizes.values())
