"""Video files: lossless for scoring, MP4 and contact sheets for people."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

Frames = NDArray[np.uint8]

# Measured with PyAV 18.1 on 2 busy cores, 165 frames of 128x192 (12.2 MB raw): seconds to write,
# MB on disk. Every line is bit exact in RGB.
#                                      smooth motion   with grain (σ 3)   noise
#   ffv1, Golomb-Rice, 4 slices        0.12 s  2.6     0.12 s   6.6       0.20 s  13.6   <- chosen
#   ffv1, range coder, 4 slices        0.18 s  2.6     0.22 s   6.6       0.38 s  13.4
#   ffv1, Golomb-Rice, 16 slices       0.10 s  2.7     0.14 s   6.7       0.35 s  13.8
#   libx264rgb, qp 0, ultrafast        0.06 s  5.2     0.07 s   7.8       0.18 s  19.0
# x264 gains at most 0.06 s a video and takes up to twice the disk; each of FFV1's slices may have
# a thread, so the threads end at four however many cores there are.
_FFV1 = {"level": "3", "coder": "0", "slices": "4"}
_FFV1_THREADS = 4

# The tags are what a browser needs to turn YUV back into the colours that were meant.
_H264 = {
    "crf": "18",
    "movflags": "+faststart",
    "x264-params": "colorprim=bt709:transfer=bt709:colormatrix=bt709",
}
_BT709 = 1  # ITU-R BT.709 in FFmpeg's numbering of colour matrices

CELL_WIDTH_PX = (160, 256)  # a narrower frame is enlarged by a whole factor, a wider one shrunk


def write_lossless(path: Path, frames_THWC: Frames, fps: float) -> None:
    """Write frames bit for bit as FFV1 in Matroska, with their digest among the tags.

    The file appears under its name only when it is whole.

    Shapes  frames_THWC [T, H, W, 3] u8 RGB; any size from 2x2, odd ones too.
    Raises  ValueError: frames of another shape or dtype, or none at all.
    """
    _check(frames_THWC)
    tags = {"sha256": _digest(frames_THWC)}
    with _whole_file(path) as unfinished, _writer(unfinished, "matroska", tags) as container:
        stream = container.add_stream("ffv1", rate=_rate(fps), options=_FFV1)
        stream.pix_fmt = "bgr0"
        stream.codec_context.thread_count = _FFV1_THREADS
        stream.codec_context.thread_type = "SLICE"
        _encode(container, stream, frames_THWC)


def read_lossless(path: Path) -> Frames:
    """Read back what `write_lossless` wrote, and prove it by the digest.

    A digest, because FFmpeg conceals damage: a file cut short or with a wrong byte still decodes,
    to fewer or to other frames.

    Shapes  -> [T, H, W, 3] u8 RGB.
    Raises  UserError: the file is missing, cut short, damaged, or of another origin.
    """
    import av

    if not path.is_file():
        raise UserError(f"{path} is missing: repeat the run that makes it")
    try:
        with av.open(str(path)) as container:
            tags = {name.lower(): value for name, value in container.metadata.items()}
            container.streams.video[0].thread_type = "AUTO"
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        frames_THWC: Frames = np.stack(frames)
        whole = tags["sha256"] == _digest(frames_THWC)
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
    under study. An odd height or width grows by one pixel, a copy of the edge: 4:2:0 needs it.

    Shapes  frames_THWC [T, H, W, 3] u8 RGB.
    Raises  ValueError: frames of another shape or dtype, or none at all.
    """
    _check(frames_THWC)
    height, width = frames_THWC.shape[1:3]
    even_THWC = np.pad(frames_THWC, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with _whole_file(path) as unfinished, _writer(unfinished, "mp4") as container:
        stream = container.add_stream("libx264", rate=_rate(fps), options=_H264)
        stream.pix_fmt = "yuv420p"
        _encode(container, stream, even_THWC, dst_colorspace=_BT709)


def contact_sheet(
    path: Path, rows: Sequence[tuple[str, Frames]], columns: int = 8, fps: float = 16.0
) -> None:
    """Draw one labelled row of frames per video, the same instants under one another, as a PNG.

    The instants divide the shortest video evenly, first and last frame included. Small frames are
    enlarged by a whole factor without smoothing, so that what is seen is what was made. The first
    line of a label is its title; further lines are drawn smaller, in grey.

    Shapes  rows: (label, [T, H, W, 3] u8 RGB) each.
    Raises  ValueError: no rows, no columns, or frames of another shape or dtype.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not rows or columns < 1:
        raise ValueError(f"{len(rows)} rows of {columns} columns: a sheet needs at least one each")
    for _, frames_THWC in rows:
        _check(frames_THWC)
    title, small = ImageFont.load_default(17), ImageFont.load_default(13)
    margin, gap, header = 16, 4, 22
    last = min(len(frames_THWC) for _, frames_THWC in rows) - 1
    instants = np.unique(np.linspace(0, last, columns).round().astype(int))
    cells = [[_cell(frames_THWC[i]) for i in instants] for _, frames_THWC in rows]
    cell_width = max(row[0].width for row in cells)
    gutter = margin + max(_label_width(label, title, small) for label, _ in rows) + margin
    width = gutter + len(instants) * (cell_width + gap) - gap + margin
    height = margin + header + sum(row[0].height + gap for row in cells) - gap + margin

    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    lefts = [gutter + column * (cell_width + gap) for column in range(len(instants))]
    for left, instant in zip(lefts, instants, strict=True):
        centre = (left + cell_width / 2, margin + header / 2 - 4)
        draw.text(centre, f"{instant / fps:.2f} s", "#666666", small, anchor="mm")
    top = margin + header
    for (label, _), row in zip(rows, cells, strict=True):
        _draw_label(draw, (margin, top + row[0].height / 2), label, (title, small))
        for left, cell in zip(lefts, row, strict=True):
            sheet.paste(cell, (left, top))
        top += row[0].height + gap
    with _whole_file(path) as unfinished:
        sheet.save(unfinished, format="PNG", optimize=True)


def _cell(frame_HWC: Frames) -> Image:
    """One frame at a width fit for a sheet."""
    from PIL import Image

    height, width = frame_HWC.shape[:2]
    narrow, wide = CELL_WIDTH_PX
    picture = Image.fromarray(np.ascontiguousarray(frame_HWC))
    if width < narrow:
        factor = -(-narrow // width)
        return picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    if width > wide:
        size = (wide, max(1, round(height * wide / width)))
        return picture.resize(size, Image.Resampling.LANCZOS)
    return picture


def _label_width(
    label: str, title: FreeTypeFont | BitmapFont, small: FreeTypeFont | BitmapFont
) -> int:
    """Pixels that the longest line of a label takes."""
    first, *others = label.split("\n")
    return round(max(title.getlength(first), *(small.getlength(line) for line in ("", *others))))


def _draw_label(
    draw: Any,
    left_middle: tuple[float, float],
    label: str,
    fonts: tuple[FreeTypeFont | BitmapFont, FreeTypeFont | BitmapFont],
) -> None:
    """Draw a label's lines, centred on the middle of their row."""
    x, middle = left_middle
    lines = label.split("\n")
    step = 20
    for number, line in enumerate(lines):
        y = middle + (number - (len(lines) - 1) / 2) * step
        colour, font = ("#111111", fonts[0]) if number == 0 else ("#666666", fonts[1])
        draw.text((x, y), line, colour, font, anchor="lm")


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` if all goes well, else it is removed.

    A killed process leaves at most the other name, which nothing reads.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _writer(path: Path, kind: str, tags: Mapping[str, str] | None = None) -> Iterator[Any]:
    """An open container of the given kind; `mp4` tags are few, so ours go into Matroska only."""
    import av

    with av.open(str(path), "w", format=kind) as container:
        container.metadata.update(tags or {})
        yield container


def _encode(container: Any, stream: Any, frames_THWC: Frames, **conversion: int) -> None:
    """Encode all frames into one stream, and flush it."""
    import av

    stream.height, stream.width = frames_THWC.shape[1:3]
    for frame_HWC in frames_THWC:
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
        container.mux(stream.encode(picture.reformat(format=stream.pix_fmt, **conversion)))
    container.mux(stream.encode(None))


def _rate(fps: float) -> Fraction:
    """The frame rate as containers want it: a ratio of small integers (23.976 -> 24000/1001)."""
    return Fraction(fps).limit_denominator(1001)


def _digest(frames_THWC: Frames) -> str:
    """SHA-256 of the shape and the pixels."""
    digest = hashlib.sha256(str(frames_THWC.shape).encode())
    digest.update(np.ascontiguousarray(frames_THWC))
    return digest.hexdigest()


def _check(frames_THWC: Frames) -> None:
    """Refuse what is not a video of at least one frame."""
    shape, dtype = frames_THWC.shape, frames_THWC.dtype
    if len(shape) != 4 or shape[3] != 3 or 0 in shape or dtype != np.uint8:
        raise ValueError(f"frames {shape} {dtype}: give [T, H, W, 3] uint8 with T, H, W >= 1")
