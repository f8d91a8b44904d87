"""Scatter pictures as SVG: a panel a metric, every point named in a column beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from analysis.svg import COLOURS, Axes, line, page, span, spread, text

SIDE_PX, LABEL_PX, GAP_PX, TOP_PX, LEFT_PX, BOTTOM_PX = 460, 300, 14, 40, 62, 48
LINE_PX = 13.0  # between two names


@dataclass(frozen=True)
class Point:
    """A named place; `group` chooses the colour, a hollow one is less certain."""

    name: str
    x: float
    y: float
    group: str
    hollow: bool = False


@dataclass(frozen=True)
class Panel:
    """One plot with its axes' names."""

    title: str
    x_title: str
    y_title: str
    points: Sequence[Point]


def picture(rows: Sequence[Sequence[Panel]]) -> str:
    """An SVG of panels in rows.

    Raises  ValueError: a panel without points.
    """
    points = [point for row in rows for panel in row for point in panel.points]
    groups = sorted({point.group for point in points})
    colours = {group: COLOURS[i % len(COLOURS)] for i, group in enumerate(groups)}
    width = LEFT_PX + SIDE_PX + GAP_PX + LABEL_PX
    height = TOP_PX + SIDE_PX + BOTTOM_PX
    parts = [
        f'<g transform="translate({column * width} {place * height})">{_panel(panel, colours)}</g>'
        for place, row in enumerate(rows)
        for column, panel in enumerate(row)
    ]
    across, down = width * max(len(row) for row in rows), height * len(rows)
    return page(across, down, parts)


def _panel(panel: Panel, colours: dict[str, str]) -> str:
    """Frame, ticks, points, and names at the right with a line to each point."""
    xs, ys = span([p.x for p in panel.points]), span([p.y for p in panel.points])
    axes = Axes(LEFT_PX, TOP_PX, SIDE_PX, SIDE_PX, xs, ys)
    right, bottom = LEFT_PX + SIDE_PX, TOP_PX + SIDE_PX
    parts = axes.drawn(panel.title, panel.x_title, panel.y_title)
    heights = [axes.down(point.y) for point in panel.points]
    for point, place in zip(
        panel.points, spread(heights, LINE_PX, TOP_PX + 5, bottom - 5), strict=True
    ):
        x, y, colour = axes.across(point.x), axes.down(point.y), colours[point.group]
        parts.append(line(x, y, right + GAP_PX - 3, place, colour, 'stroke-opacity="0.3"'))
        fill = "white" if point.hollow else colour
        shape = f'cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}"'
        parts.append(f"<circle {shape}><title>{escape(point.name)}</title></circle>")
        parts.append(text(right + GAP_PX, place + 4, point.name, f'fill="{colour}"'))
    return "".join(parts)
