"""Renders figures as SVG and PDF with matplotlib; equal figures give equal bytes.

Text stays text in SVG, and PDF embeds its fonts. A sheet grows with its panels, so that names next
to a plot never overlap and bars have the same height in every figure.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Sheet

from analysis.figures.figure import Bars, Curves, Figure, Panels, Scatter
from analysis.figures.looks import look, told_apart
from analysis.figures.panels import GREY, Room, draw, room
from analysis.figures.words import described
from harness.system.plain import plain

PT = 72.0
# Everything is laid out in points, and turned into inches and shares at the end.
EDGE_PT, BETWEEN_PT, HEADING_PT, NOTE_PT = 10.0, 12.0, 20.0, 9.0
LETTER_PT = 3.7  # average width of a letter in notes
STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "axes.linewidth": 0.7,
    "axes.edgecolor": "#555555",
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",  # text stays text instead of outlines
    # matplotlib salts ids at random by default, which would change the bytes.
    "svg.hashsalt": "video-kv-bench",
    "pdf.fonttype": 42,  # TrueType, which publishers take; the default is Type 3
    "text.parse_math": False,  # a `$` in a prompt or a name is a dollar
    "axes.formatter.useoffset": False,  # ticks show whole values, not offsets to a number aside
}


def svg(figure: Figure | Panels) -> str:
    """Render a figure as SVG.

    Raises  ValueError: a panel is empty.
    """
    # A date would make every file differ from the one before.
    data = {"Date": None, "Creator": "video-kv-bench", "Title": _title(figure)}
    drawn = _saved(figure, "svg", {**data, "Description": described(figure)}).decode()
    return plain(drawn)  # XML allows no control characters, not even as references


def pdf(figure: Figure | Panels) -> bytes:
    """Render a figure as PDF.

    Raises  ValueError: a panel is empty.
    """
    data = {"CreationDate": None, "Producer": None, "Creator": "video-kv-bench"}
    return _saved(figure, "pdf", {**data, "Title": _title(figure)})


def _saved(figure: Figure | Panels, how: str, metadata: dict[str, str | None]) -> bytes:
    """Render a figure in our style, whatever the user's settings of matplotlib are."""
    ours: dict[Any, Any] = {**mpl.rcParamsDefault, **STYLE}
    with mpl.rc_context(ours), warnings.catch_warnings():
        # Prompts and names of methods may hold any sign; text of SVG needs no glyphs of ours.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        file = io.BytesIO()
        # A single figure is a sheet of one panel, so that there is one layout for both.
        panels = figure if isinstance(figure, Panels) else Panels(figure.name, [[figure]])
        _sheet(panels).savefig(file, format=how, metadata=metadata)
        return file.getvalue()


def _title(figure: Figure | Panels) -> str:
    return figure.title or figure.name


# ---- where panels lie --------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A panel and its space; is_named: its bars show their names."""

    figure: Figure
    room: Room
    is_named: bool


def _sheet(panels: Panels) -> Sheet:
    """Lay out all panels, titles and notes of a figure, from top to bottom."""
    # Whoever builds a figure returns `Absent` instead; an empty panel is a mistake.
    if not panels.figures or any(not _has(each) for each in panels.figures):
        raise ValueError(f"{panels.name}: a panel without anything in it")
    grid = [_row(row) for row in panels.rows]
    width = max(sum(_across(cell) for cell in row) for row in grid) + 2 * EDGE_PT
    notes = _notes(panels, width)
    headings = [*panels.headings, *[""] * (len(grid) - len(panels.headings))]
    heads = [HEADING_PT if heading else 0.0 for heading in headings]
    # Every panel says how much space it needs, so the sheet's size follows from its content.
    rooms = [[cell.room for cell in row] for row in grid]
    heights = [max(each.top + each.height + each.bottom for each in row) for row in rooms]
    top = HEADING_PT + 4 if panels.title else 0.0
    height = EDGE_PT * 2 + top + sum(heads) + sum(heights) + NOTE_PT * len(notes)
    sheet = Sheet(figsize=(width / PT, height / PT), facecolor="white")

    def words(x: float, y: float, said: str, size: float, **more: Any) -> None:
        sheet.text(x / width, y / height, said, fontsize=size, va="top", **more)

    # A method's line has the same dashes in all panels of the sheet.
    curves = [c for each in panels.figures if isinstance(each, Curves) for c in each.curves]
    dashes = told_apart([(c.name, look(c.family).light) for c in curves])
    place = height - EDGE_PT
    if panels.title:
        words(EDGE_PT, place, panels.title, 11, fontweight="bold")
        place -= top
    for row, heading, head, row_height in zip(grid, headings, heads, heights, strict=True):
        # From the top downwards: `place` is the height that is left.
        words(EDGE_PT, place, heading, 10)
        place -= head
        across = EDGE_PT
        for cell in row:
            of = cell.room
            box = (across + of.left, place - of.top - of.height, of.width, of.height)
            shares = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
            draw(sheet.add_axes(shares), cell.figure, dashes, cell.is_named)
            across += _across(cell)
        place -= row_height
    for said in notes:
        words(EDGE_PT, place, said, 6.5, color=GREY)
        place -= NOTE_PT
    return sheet


def _row(row: Sequence[Figure]) -> list[Cell]:
    """Lay out one row; bars of the same methods as their left neighbour's omit the names."""
    found: list[Cell] = []
    for i, figure in enumerate(row):
        # Names are left out only if the left neighbour shows exactly these, in this order.
        before = row[i - 1] if i else None
        again = (
            isinstance(figure, Bars)
            and isinstance(before, Bars)
            and [bar.name for bar in figure.bars] == [bar.name for bar in before.bars]
        )
        found.append(Cell(figure, room(figure, not again), not again))
    # Bars have the same thickness in every figure, so only the other panels are stretched.
    tallest = max(cell.room.height for cell in found)
    stretched = [replace(cell, room=replace(cell.room, height=tallest)) for cell in found]
    return [
        cell if isinstance(cell.figure, Bars) else taller
        for cell, taller in zip(found, stretched, strict=True)
    ]


def _across(cell: Cell) -> float:
    """Return the width of a panel with its margins, in points."""
    return cell.room.left + cell.room.width + cell.room.right + BETWEEN_PT


def _has(figure: Figure) -> bool:
    """Whether a panel has anything to draw."""
    if isinstance(figure, Scatter):
        return bool(figure.points)
    if isinstance(figure, Bars):
        return bool(figure.bars)
    return bool(figure.curves) and all(len(each.xs) for each in figure.curves)


def _notes(panels: Panels, width: float) -> list[str]:
    """Collect the notes of panels and sheet, each once, wrapped to the width."""
    said: list[str] = []
    for figure in panels.figures:
        if isinstance(figure, Scatter) and figure.frontier:
            said.append(f"named: the frontier {figure.frontier_said}".rstrip())
        if isinstance(figure, Scatter) and figure.size_said:
            said.append(f"area of marks: {figure.size_said}")
        said.append(figure.note)
    said.append(panels.note)
    # Wrapped by an average width; matplotlib cannot wrap to a part of a sheet.
    letters = max(40, int((width - 2 * EDGE_PT) / LETTER_PT))
    return [line for each in dict.fromkeys(said) if each for line in textwrap.wrap(each, letters)]
