"""Contact sheets: one image with frames of several videos at the same instants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.results.video_files import Frames, check_frames
from harness.system.files import whole_file

if TYPE_CHECKING:
    from PIL.Image import Image

CELL_WIDTH_PX = (160, 256)  # narrower frames are enlarged by a whole factor, wider ones shrunk


def contact_sheet(
    path: Path, rows: Sequence[tuple[str, Frames]], columns: int = 8, fps: float = 16.0
) -> None:
    """Write a PNG with one labelled row of frames per video; a column shows one instant.

    The instants divide the shortest video evenly, first and last frame included. The first line of
    a label is its title; further lines are drawn smaller, in grey.

    Shapes  rows: (label, [T, H, W, 3] u8 RGB) each.
    Raises  ValueError: no rows, no columns, or frames of another shape or dtype.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not rows or columns < 1:
        raise ValueError(f"{len(rows)} rows of {columns} columns: a sheet needs at least one each")
    for _, frames_THWC in rows:
        check_frames(frames_THWC)
    # Pillow's own font: the picture needs no font of the machine.
    title, small = ImageFont.load_default(17), ImageFont.load_default(13)
    margin, gap, header = 16, 4, 22
    last = min(len(frames_THWC) for _, frames_THWC in rows) - 1
    # The shortest video decides, so that a column is one instant of all of them. unique: a video
    # with fewer frames than columns would repeat frames.
    instants = np.unique(np.linspace(0, last, columns).round().astype(int))
    cells = [[_cell(frames_THWC[i]) for i in instants] for _, frames_THWC in rows]
    # Rows may differ in height, as videos do in size, but instants stand under each other.
    cell_width = max(row[0].width for row in cells)
    lengths = []
    for label, _ in rows:
        first, *others = label.split("\n")
        lengths += [title.getlength(first), *(small.getlength(line) for line in others)]
    # The longest line of a label decides, since labels are never cut.
    gutter = margin + round(max(lengths)) + margin
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
        # The lines of the label, centred vertically on their row.
        lines = label.split("\n")
        for number, line in enumerate(lines):
            y = top + row[0].height / 2 + (number - (len(lines) - 1) / 2) * 20
            colour, font = ("#111111", title) if number == 0 else ("#666666", small)
            draw.text((margin, y), line, colour, font, anchor="lm")
        for left, cell in zip(lefts, row, strict=True):
            sheet.paste(cell, (left, top))
        top += row[0].height + gap
    with whole_file(path) as unfinished:
        # optimize=True would take ten times as long for files that are three per cent smaller. The
        # format is named, since the suffix of an unfinished file does not tell it.
        sheet.save(unfinished, format="PNG")


def _cell(frame_HWC: Frames) -> Image:
    """Return one frame scaled to a width within CELL_WIDTH_PX."""
    from PIL import Image

    height, width = frame_HWC.shape[:2]
    narrow, wide = CELL_WIDTH_PX
    picture = Image.fromarray(np.ascontiguousarray(frame_HWC))
    if width < narrow:
        # Nearest neighbour by a whole factor: smoothing would hide artefacts of the method.
        factor = -(-narrow // width)
        return picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    if width > wide:
        # A frame may be so wide that its height would round to nothing.
        size = (wide, max(1, round(height * wide / width)))
        return picture.resize(size, Image.Resampling.LANCZOS)
    return picture
