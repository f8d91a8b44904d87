"""Cuts videos of more than ten seconds into VBench-Long's clips."""

from __future__ import annotations

LONGEST_WHOLE_S = 10  # in whole seconds: 165 frames at 16 per second (10.3 s) count as ten


def spans(num_frames: int, fps: float, clip_s: int) -> list[tuple[int, int]]:
    """Return the clips [start, stop) of a video in frames; up to ten seconds, the whole video.

    Clips are consecutive and `clip_s` seconds long. If they do not divide the video, the last clip
    overlaps the previous one.

    Source  VBench-Long's `split_video_into_clips`, which uses whole frames per second. It cuts
            videos of any length; up to ten seconds the short protocol is usual.
    """
    if num_frames / fps < LONGEST_WHOLE_S + 1:
        return [(0, num_frames)]
    length = max(1, int(fps)) * clip_s
    starts = list(range(0, num_frames - length + 1, length))
    if starts[-1] + length < num_frames:
        starts.append(num_frames - length)
    return [(start, start + length) for start in starts]


def protocol(num_clips: int, clip_s: int) -> str:
    """Return the name of the protocol, as stored in rows."""
    return "whole" if num_clips == 1 else f"clips_{clip_s}s"
