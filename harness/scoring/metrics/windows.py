"""Summarizes a per-frame quantity over the clip, its parts and windows of time.

All metrics share these definitions:

- *Per frame*: one value per pixel frame.
- *First chunk*: the pixel frames of the first chunk of latent frames, which have their own column.
- *Rest*: all frames after the first chunk.
- *0-2 s, 2-5 s, after 5 s*: by time from frame 0, first chunk included.
- *Windows*: consecutive spans of one second after the first chunk. A last partial span is a window
  if it is at least half full; otherwise it joins the previous one. A window at the cap of its
  quantity (PSNR of identical frames) is None.
- *Drift*: the change over windows. *Last minus first* is the last window minus the first one;
  *slope* is least squares over (centre of window in seconds, value of window), in units per second.
- *Segments*: the parts of a video that follow one prompt each, the first without the first chunk.
  Each has a mean and a drift, that of its own windows. A video of one prompt has no segments.
- *Means* are means of the per-frame quantity. For PSNR this is the squared error; decibels are
  computed from the mean.

A value that does not exist is None. A separate column gives the reason for a missing drift (no
frame after the first chunk, a single window, a window at the cap), since the other values exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.results.scores import Column, Value
from harness.scoring.metrics.metric import Clip, Unscorable

Series = NDArray[np.float64]
WINDOW_S = 1.0
# Part of the metrics' versions: another definition of windows scores all videos again.
WINDOWS = f"windows of {WINDOW_S:g} s behind the first chunk"
_SPANS = ("0 to 2 s", "2 to 5 s", "after 5 s")
SPANS_S = {"0_2s": (0.0, 2.0), "2_5s": (2.0, 5.0), "after_5s": (5.0, np.inf)}


@dataclass(frozen=True)
class Quantity:
    """A per-frame quantity, with the names, units and meanings of its columns.

    better: which direction is better, or None.
    suffix: unit at the end of column names (`_db`). unit: the unit itself (`dB`).
    cap: value of identical frames, for quantities that are infinite there.
    """

    name: str
    meaning: str
    better: Literal["higher", "lower"] | None = None
    suffix: str = ""
    unit: str = ""
    cap: float | None = None

    def drift_column(self, part: Literal["last_minus_first", "slope", "reason", "segments"]) -> str:
        """Return the name of a drift column."""
        if part == "reason":
            return f"drift_{self.name}_reason"
        per_s = "_per_s" if part == "slope" else ""
        return f"drift_{self.name}_{part}{self.suffix}{per_s}"

    def columns(self) -> tuple[Column, ...]:
        """Return the columns in the order of `row`."""

        def column(part: str, meaning: str, kind: type = float) -> Column:
            name = f"{self.name}{part}{self.suffix}"
            return Column(name, f"{self.meaning}{meaning}", self.unit, self.better, kind)

        # A pure number changes by so much per second.
        per_s = f"{self.unit}/s" if self.unit else "1/s"
        return (
            column("", ", whole video"),
            column("_first_chunk", ", first chunk"),
            column("_rest", ", after the first chunk"),
            *(column(f"_{span}", f", {said}") for span, said in zip(SPANS_S, _SPANS, strict=True)),
            column("_windows", ", each second behind the first chunk", list[float]),
            Column(
                self.drift_column("last_minus_first"),
                f"{self.meaning}, last second less the first one behind the first chunk",
                self.unit,
                self.better,
            ),
            Column(
                self.drift_column("slope"), f"{self.meaning}, change in time", per_s, self.better
            ),
            Column(self.drift_column("reason"), f"why {self.name} has no drift", "", None, str),
            column("_segments", ", each prompt's segment behind the first chunk", list[float]),
            Column(
                self.drift_column("segments"),
                f"{self.meaning}, last second less the first one of each prompt's segment",
                self.unit,
                self.better,
                list[float],
            ),
        )

    def row(self, summary: Summary) -> dict[str, Value]:
        """Return the values of the columns for one summary."""
        # `or None`: a video of one prompt has no segments, which is not an empty list of them.
        values: tuple[Value, ...] = (
            summary.mean,
            summary.first_chunk,
            summary.rest,
            *(summary.spans[span] for span in SPANS_S),
            summary.windows,
            summary.last_minus_first,
            summary.slope_per_s,
            summary.drift_reason,
            [part.mean if part else None for part in summary.segments] or None,
            [part.last_minus_first if part else None for part in summary.segments] or None,
        )
        # Columns and values stand in the same order, of which `strict` checks the length.
        names = (column.name for column in self.columns())
        return dict(zip(names, values, strict=True))


@dataclass(frozen=True)
class Summary:
    """Summary of one quantity of one video; None for values that do not exist.

    segments: the same of each prompt's segment; empty if the video follows one prompt.

    Units  those of the quantity; `slope_per_s` in that unit per second.
    """

    mean: float
    first_chunk: float | None
    rest: float | None
    spans: dict[str, float | None]
    windows: list[float | None]
    last_minus_first: float | None
    slope_per_s: float | None
    drift_reason: str | None = None
    segments: Sequence[Summary | None] = ()


def summarise(
    per_frame_T: Series,
    clip: Clip,
    read: Callable[[float], float] = float,
    first_frame: int = 0,
    cap: float | None = None,
) -> Summary:
    """Return means over the clip, its parts and each window, and the drift.

    read: converts a mean of the per-frame quantity to the reported value, such as squared error to
    decibels.
    first_frame: frame of the first value; 1 for changes from the previous frame. Windows and parts
    still count frames, so the first part has one value less.
    cap: output of `read` for identical frames; a window at the cap has no value.

    Shapes  per_frame_T [T - first_frame] f64.
    Raises  Unscorable: there are no frames, or a value is not finite.
    """
    if per_frame_T.size == 0:
        raise Unscorable("the video has no frames")
    if wrong := int((~np.isfinite(per_frame_T)).sum()):
        raise Unscorable(f"not finite in {wrong} of {per_frame_T.size} frames")

    def mean(start: int, stop: int) -> float | None:
        values_T = per_frame_T[max(0, start - first_frame) : max(0, stop - first_frame)]
        return read(float(values_T.mean())) if values_T.size else None

    # The first chunk is generated before any history exists, so every method that skips no pass
    # reproduces it exactly. It would improve a mean, and a window that includes it would make a
    # constant error look like a growing one.
    num_frames = first_frame + len(per_frame_T)
    first = min(clip.first_chunk_frames, num_frames)
    # A span that begins after the end is empty, so its mean is None. The last one ends at infinity,
    # which cannot be rounded to a frame.
    edges = {
        name: [min(num_frames, round(min(t, num_frames) * clip.fps)) for t in span]
        for name, span in SPANS_S.items()
    }
    pieces = windows(num_frames - first, max(1, round(WINDOW_S * clip.fps)))
    centres_s, levels = [], []
    for start, stop in pieces if first < num_frames else ():
        level = mean(first + start, first + stop)
        # None: changes from frame to frame have no value for the first frame.
        if level is not None:
            centres_s.append((first + (start + stop) / 2) / clip.fps)
            levels.append(level)
    # A window at the cap stands for infinity, so no difference or slope with it has a meaning.
    num_capped = sum(cap is not None and level >= cap for level in levels)
    reason = None
    if not levels:
        reason = "no frame behind the first chunk"
    elif len(levels) == 1:
        reason = "a single window of a second behind the first chunk"
    elif num_capped:
        reason = (
            f"{num_capped} of {len(levels)} windows equal the reference's: {cap:g} stands for "
            "infinity there, and no difference to it means anything"
        )
    return Summary(
        mean=read(float(per_frame_T.mean())),
        first_chunk=mean(0, first),
        rest=mean(first, num_frames),
        spans={name: mean(*span) for name, span in edges.items()},
        windows=[None if cap is not None and level >= cap else level for level in levels],
        last_minus_first=None if reason else levels[-1] - levels[0],
        slope_per_s=None if reason else slope(centres_s, levels),
        drift_reason=reason,
        segments=segments(per_frame_T, clip, read, max(0, first - first_frame), cap),
    )


def segments(
    per_frame_T: Series, clip: Clip, read: Callable[[float], float], first: int, cap: float | None
) -> list[Summary | None]:
    """Return the summary of each prompt's segment; [] if the video follows one prompt.

    The first segment begins behind the first chunk; it is None if the prompt changes there.

    first: place of the first value behind the first chunk. read, cap: as in `summarise`.
    """
    if not clip.switches:
        return []
    # A segment is summarised as a video of its own, all of whose frames count.
    alone = replace(clip, first_chunk_frames=0, switches=())
    # Counted from the first value behind the first chunk, where `per_frame_T[first:]` begins.
    edges = [frame - clip.first_chunk_frames for frame in clip.switches]
    return [
        summarise(part_T, alone, read, cap=cap) if part_T.size else None
        for part_T in np.split(per_frame_T[first:], edges)
    ]


def windows(num_frames: int, length: int) -> list[tuple[int, int]]:
    """Return consecutive spans [start, stop) of `length` frames; a short last one is merged.

    A last span is merged with the previous one if it is less than half full. Twenty frames in
    windows of eight give (0, 8), (8, 16), (16, 20); nineteen give (0, 8), (8, 19).
    """
    # A last span that is at least half full counts as one more window.
    num_windows = max(1, num_frames // length + (2 * (num_frames % length) >= length))
    starts = [i * length for i in range(num_windows)]
    return list(zip(starts, [*starts[1:], num_frames], strict=True))


def slope(times_s: list[float], values: list[float]) -> float | None:
    """Return the least-squares slope per second, or None for fewer than two points."""
    if len(times_s) < 2:
        return None
    # Around the mean time the intercept drops out of the normal equations.
    from_middle_s = np.array(times_s) - np.mean(times_s)
    return float(from_middle_s @ np.array(values) / (from_middle_s @ from_middle_s))
