"""Files that VBench can read: frames bit for bit, or encoded as the published study did."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from fractions import Fraction
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from harness.results.video_files import check_frames
from harness.scoring.metrics.metric import Frames

# RGB without a colour conversion and without loss. The package reads by decord and by OpenCV; both
# give these frames back bit for bit (tests/scoring/test_vbench.py). FFV1, which runs keep, needs a
# Matroska file, and the package takes no other names than .mp4 and .gif.
LOSSLESS = ("libx264rgb", "rgb24", {"qp": "0", "preset": "ultrafast"})
STUDY = ("libx264", "yuv420p", {"crf": "23"})  # FFmpeg's defaults, which the study left as they are

Encoding = tuple[str, str, dict[str, str]]
Span = tuple[int, int]


class Stage:
    """A folder of staged clips; each is written once and lives as long as the frames it is from.

    Several dimensions look at the same frames, one after the other.
    """

    def __init__(self) -> None:
        """Make the folder."""
        self.folder = Path(tempfile.mkdtemp(prefix="vbench-"))
        self._paths: dict[tuple[int, float, Span], Path] = {}
        self._lock = Lock()
        self._count = 0
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def lossless(self, frames_THWC: Frames, fps: float, span: Span) -> Path:
        """A file of the frames from start to stop of a video.

        Shapes  frames_THWC [T, H, W, 3] u8 RGB, all of the video.
        Raises  ValueError: no video of at least one frame. OSError: it cannot be written.
        """
        key = (id(frames_THWC), fps, span)
        with self._lock:
            if key not in self._paths:
                self._count += 1
                path = self.folder / f"{self._count}.mp4"
                write(path, frames_THWC[slice(*span)], fps, LOSSLESS)
                self._paths[key] = path
                weakref.finalize(frames_THWC, self._forget, key)  # before another takes the id
            return self._paths[key]

    def _forget(self, key: tuple[int, float, Span]) -> None:
        """Remove a file whose frames are gone; without the lock, for this runs at any time."""
        path = self._paths.pop(key, None)
        if path is not None:
            path.unlink(missing_ok=True)


def write(path: Path, frames_THWC: Frames, fps: float, encoding: Encoding) -> None:
    """Encode frames by x264 into an MP4 file.

    Shapes  frames_THWC [T, H, W, 3] u8 RGB.
    Raises  ValueError: no video of at least one frame. OSError: it cannot be written, or not at
    this size.
    """
    import av

    check_frames(frames_THWC)
    codec, pix_fmt, options = encoding
    with av.open(str(path), "w", format="mp4", options={"fflags": "bitexact"}) as container:
        stream: Any = container.add_stream(
            codec, rate=Fraction(fps).limit_denominator(1001), options=options
        )
        stream.pix_fmt = pix_fmt
        stream.height, stream.width = frames_THWC.shape[1:3]
        for frame_HWC in frames_THWC:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
