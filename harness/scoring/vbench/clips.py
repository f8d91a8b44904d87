"""Cuts long videos into clips as VBench-Long does."""

from __future__ import annotations

from dataclasses import dataclass

# In whole seconds: 165 frames at 16 per second (10.3 s) count as ten, as in the published study.
LONGEST_WHOLE_S = 10


@dataclass(frozen=True)
class Cutting:
    """A rule by which videos are cut into clips.

    longest_whole_s: longest video, in whole seconds, that is scored whole; 0 cuts every video.
    clip_s: length of every clip in seconds; None for the length of the dimension.
    """

    longest_whole_s: int = 0
    clip_s: int | None = None

    def describe(self, clip_s: int) -> str:
        """Return the rule for versions of scores. clip_s: length for the dimension."""
        which = f"above {self.longest_whole_s} s" if self.longest_whole_s else "at every length"
        return f"{which} the mean of clips of {self.clip_s or clip_s} s"


# The release's default lengths are its clip_length_mix.yaml, and it also has clip_length_1.0.yaml.
CUTTINGS = {
    "above_10s": Cutting(longest_whole_s=LONGEST_WHOLE_S),
    "released": Cutting(),
    "released_1s": Cutting(clip_s=1),
}


def spans(
    num_frames: int, fps: float, clip_s: int, longest_whole_s: int = LONGEST_WHOLE_S
) -> list[tuple[int, int]]:
    """Return the clips [start, stop) of a video in frames, or the whole video if it is short.

    longest_whole_s: as in `Cutting`. A video that is shorter than a clip is never cut.

    Clips are consecutive and `clip_s` seconds long. If they do not divide the video, the last clip
    overlaps the previous one.

    Source  VBench-Long's `split_video_into_clips`. It cuts videos of any length; up to ten seconds
            the short protocol is usual.
    """
    # Whole frames per second, as in the release.
    length = max(1, int(fps)) * clip_s
    is_short = longest_whole_s > 0 and num_frames / fps < longest_whole_s + 1
    if is_short or num_frames < length:
        return [(0, num_frames)]
    starts = list(range(0, num_frames - length + 1, length))
    # The last frames count too: a clip of full length ends the video.
    if starts[-1] + length < num_frames:
        starts.append(num_frames - length)
    return [(start, start + length) for start in starts]


def protocol(num_clips: int, clip_s: int) -> str:
    """Return the name of the protocol, as stored in rows."""
    return "whole" if num_clips == 1 else f"clips_{clip_s}s"
