"""Writes video files for VBench: lossless, or encoded as in the published study."""

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

# Lossless RGB without colour conversion. The package reads with decord and OpenCV; both return
# these frames bit for bit (tests/scoring/test_vbench.py). FFV1, which runs store, needs a Matroska
# file, but the package accepts only .mp4 and .gif.
LOSSLESS = ("libx264rgb", "rgb24", {"qp": "0", "preset": "ultrafast"})
STUDY = ("libx264", "yuv420p", {"crf": "23"})  # FFmpeg's defaults, which the study used

Encoding = tuple[str, str, dict[str, str]]
Span = tuple[int, int]


class Stage:
    """A folder of staged clips, each written once and deleted with the frames it is from."""

    # Several dimensions read the same frames one after the other.
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vbench-"))
        self._paths: dict[tuple[int, float, Span], Path] = {}
        self._lock = Lock()
        self._count = 0
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def lossless(self, frames_THWC: Frames, fps: float, span: Span) -> Path:
        """Return a lossless file of a span of frames.

        Shapes  frames_THWC [T, H, W, 3] u8 RGB, the whole video.
        Raises  ValueError: not a video of at least one frame. OSError: the file cannot be written.
        """
        key = (id(frames_THWC), fps, span)
        with self._lock:
            if key not in self._paths:
                self._count += 1
                path = self.folder / f"{self._count}.mp4"
                write(path, frames_THWC[slice(*span)], fps, LOSSLESS)
                self._paths[key] = path
                # Remove the key together with the frames: a new array may get the same id.
                weakref.finalize(frames_THWC, self._forget, key)
            return self._paths[key]

    def _forget(self, key: tuple[int, float, Span]) -> None:
        """Remove the file of frames that no longer exist."""
        # Do not take the lock: this may run at any time, also while this thread holds it.
        path = self._paths.pop(key, None)
        if path is not None:
            path.unlink(missing_ok=True)


def write(path: Path, frames_THWC: Frames, fps: float, encoding: Encoding) -> None:
    """Encode frames with x264 into an MP4 file.

    Shapes  frames_THWC [T, H, W, 3] u8 RGB.
    Raises  ValueError: not a video of at least one frame. OSError: the file cannot be written, or
    the encoder does not support this size.
    """
    import av

    check_frames(frames_THWC)
    # bitexact: without dates and versions of libraries, so equal frames are equal files.
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
