"""VBench-Long's clips: how a video above ten seconds is cut."""

from __future__ import annotations

LONGEST_WHOLE_S = 10  # whole seconds: 165 frames at 16 a second, 10.3 s, are ten


def spans(num_frames: int, fps: float, clip_s: int) -> list[tuple[int, int]]:
    """The clips [start, stop) of a video in frames; one, the whole video, up to ten seconds.

    Consecutive clips of `clip_s`; the last one is as long as the others and shares frames with the
    one before it where the length is no multiple.

    Source  VBench-Long's `split_video_into_clips`, which cuts at the whole frames a second. There
            videos of any length are cut; up to ten seconds the short protocol is the usual one.
    """
    if num_frames / fps < LONGEST_WHOLE_S + 1:
        return [(0, num_frames)]
    length = max(1, int(fps)) * clip_s
    starts = list(range(0, num_frames - length + 1, length))
    if starts[-1] + length < num_frames:
        starts.append(num_frames - length)
    return [(start, start + length) for start in starts]


def protocol(num_clips: int, clip_s: int) -> str:
    """The name of what was done, as rows carry it."""
    return "whole" if num_clips == 1 else f"clips_{clip_s}s"
