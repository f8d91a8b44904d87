"""Video files: raw frames from generating, a lossless file for scoring, an MP4 for people.

Generating writes raw frames, because that takes little time compared with a denoising pass.
Scoring reads them and packs them losslessly to a fifth of the size or less.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.system.errors import UserError
from harness.system.files import whole_file
from harness.system.logs import log

Frames = NDArray[np.uint8]

# Measured with PyAV 18.1 on 2 busy cores, 165 frames of 128x192 (12.2 MB raw): seconds to write,
# MB on disk. Every line is bit exact in RGB.
#                                      smooth motion   with grain (σ 3)   noise
#   ffv1, Golomb-Rice, 4 slices        0.12 s  2.6     0.12 s   6.6       0.20 s  13.6   <- chosen
#   ffv1, range coder, 4 slices        0.18 s  2.6     0.22 s   6.6       0.38 s  13.4
#   ffv1, Golomb-Rice, 16 slices       0.10 s  2.7     0.14 s   6.7       0.35 s  13.8
#   libx264rgb, qp 0, ultrafast        0.06 s  5.2     0.07 s   7.8       0.18 s  19.0
# x264 saves at most 0.06 s per video and takes up to twice the disk. FFV1 uses one thread per
# slice, so more than four threads bring nothing.
_FFV1 = {"level": "3", "coder": "0", "slices": "4"}
_FFV1_THREADS = 4

# Browsers need these tags to convert YUV back to the original colours.
_H264 = {
    "crf": "18",
    "movflags": "+faststart",
    "x264-params": "colorprim=bt709:transfer=bt709:colormatrix=bt709",
}
_BT709 = 1  # ITU-R BT.709 in FFmpeg's numbering of colour matrices


def write_raw(path: Path, frames_THWC: Frames) -> None:
    """Write uncompressed frames as a NumPy file.

    Shapes  frames_THWC [T, H, W, 3] u8 RGB.
    Raises  ValueError: frames of another shape or dtype, or none at all.
    """
    check_frames(frames_THWC)
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        # Not numpy.save: on a full disk its error has no errno, so the cause would be lost.
        header = np.lib.format.header_data_from_array_1_0(frames_THWC)
        np.lib.format.write_array_header_1_0(file, header | {"fortran_order": False})
        file.write(np.ascontiguousarray(frames_THWC).data)


def frames_file(stem: Path) -> Path | None:
    """Return the file with a video's exact frames, lossless before raw; None if there is none."""
    return next((p for p in (stem.with_suffix(e) for e in (".mkv", ".npy")) if p.exists()), None)


def read_frames(stem: Path) -> Frames:
    """Read the exact frames of a video from its lossless or raw file.

    Shapes  -> [T, H, W, 3] u8 RGB.
    Raises  UserError: no file, or a damaged one.
    """
    path = frames_file(stem)
    log.debug("read %s", path)
    if path is None or path.suffix == ".mkv":
        return read_lossless(path or stem.with_suffix(".mkv"))
    # np.load refuses pickled objects unless told otherwise, so a file from elsewhere runs no code.
    try:
        frames: Frames = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} is damaged: type `rm '{path}'` and repeat the run that makes it"
        ) from error
    return frames


def pack_frames(stem: Path, frames_THWC: Frames, fps: float) -> None:
    """Replace the raw file of a video by a lossless one."""
    if not stem.with_suffix(".mkv").exists():
        write_lossless(stem.with_suffix(".mkv"), frames_THWC, fps)
    # Removed last: a process killed before this line leaves both files, never none. The lossless
    # one then exists, is taken as it is, and is verified when it is read.
    stem.with_suffix(".npy").unlink(missing_ok=True)


def write_lossless(path: Path, frames_THWC: Frames, fps: float) -> None:
    """Write frames losslessly as FFV1 in Matroska, with their digest as a tag.

    The file gets its name only once it is complete.

    Shapes  frames_THWC [T, H, W, 3] u8 RGB; any size from 2x2, odd ones too.
    Raises  ValueError: frames of another shape or dtype, or none at all.
    """
    check_frames(frames_THWC)
    tags = {"sha256": digest(frames_THWC)}
    with whole_file(path) as unfinished, _writer(unfinished, "matroska", tags) as container:
        stream = container.add_stream("ffv1", rate=_rate(fps), options=_FFV1)
        stream.pix_fmt = "bgr0"  # 8-bit RGB without conversion to YUV, which would round
        stream.codec_context.thread_count = _FFV1_THREADS
        stream.codec_context.thread_type = "SLICE"
        _encode(container, stream, frames_THWC)


def read_lossless(path: Path) -> Frames:
    """Read a file of `write_lossless` and verify its frames by the stored digest.

    Shapes  -> [T, H, W, 3] u8 RGB.
    Raises  UserError: the file is missing, cut short, damaged, or of another origin.
    """
    import av

    if not path.is_file():
        raise UserError(f"{path} is missing: repeat the run that makes it")
    try:
        with av.open(str(path)) as container:
            # Matroska stores the names of tags in capitals.
            tags = {name.lower(): value for name, value in container.metadata.items()}
            container.streams.video[0].thread_type = "AUTO"
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        frames_THWC: Frames = np.stack(frames)
        # FFmpeg conceals damage: a truncated file or a wrong byte still decodes, to fewer or
        # different frames. Only the digest detects that.
        whole = tags["sha256"] == digest(frames_THWC)
    except (av.FFmpegError, LookupError, ValueError):
        whole = False
    if not whole:
        raise UserError(
            f"{path} is not a whole lossless video of this harness (cut short or damaged): "
            f"type `rm '{path}'` and repeat the run that makes it"
        )
    return frames_THWC


def write_mp4(path: Path, frames_THWC: Frames, fps: float) -> None:
    """Write an H.264 file that every browser plays; for people only, never for scoring.

    Even at this visually clean setting the loss (about 30 dB on grain) is larger than the effects
    under study.

    Shapes  frames_THWC [T, H, W, 3] u8 RGB.
    Raises  ValueError: frames of another shape or dtype, or none at all.
    """
    check_frames(frames_THWC)
    height, width = frames_THWC.shape[1:3]
    # 4:2:0 needs even sizes: an odd height or width grows by one pixel, a copy of the edge.
    even_THWC = np.pad(frames_THWC, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with whole_file(path) as unfinished, _writer(unfinished, "mp4") as container:
        stream = container.add_stream("libx264", rate=_rate(fps), options=_H264)
        stream.pix_fmt = "yuv420p"
        _encode(container, stream, even_THWC, dst_colorspace=_BT709)


@contextmanager
def _writer(path: Path, kind: str, tags: Mapping[str, str] | None = None) -> Iterator[Any]:
    """Open a container for writing; equal frames give equal bytes."""
    import av

    options = {"fflags": "bitexact"}  # no random ids and no version of FFmpeg in the file
    # The format is named, since FFmpeg would take it from the suffix, here `.unfinished`.
    with av.open(str(path), "w", format=kind, options=options) as container:
        container.metadata.update(tags or {})
        yield container


def _encode(container: Any, stream: Any, frames_THWC: Frames, **conversion: int) -> None:
    """Encode all frames into one stream and flush it."""
    import av

    stream.height, stream.width = frames_THWC.shape[1:3]
    for frame_HWC in frames_THWC:
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
        container.mux(stream.encode(picture.reformat(format=stream.pix_fmt, **conversion)))
    container.mux(stream.encode(None))


def _rate(fps: float) -> Fraction:
    """Return the frame rate as a ratio of small integers (23.976 -> 24000/1001)."""
    return Fraction(fps).limit_denominator(1001)


def digest(frames_THWC: Frames) -> str:
    """Return the SHA-256 of shape and pixels, which rows and lossless files store."""
    # The shape too: the same bytes are another video in other sizes.
    content = hashlib.sha256(str(frames_THWC.shape).encode())
    content.update(np.ascontiguousarray(frames_THWC).data)
    return content.hexdigest()


def check_frames(frames_THWC: Frames) -> None:
    """Raise ValueError unless the frames are [T, H, W, 3] u8 with T, H, W >= 1."""
    shape, dtype = frames_THWC.shape, frames_THWC.dtype
    if len(shape) != 4 or shape[3] != 3 or 0 in shape or dtype != np.uint8:
        raise ValueError(f"frames {shape} {dtype}: give [T, H, W, 3] uint8 with T, H, W >= 1")
