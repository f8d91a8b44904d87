"""Scatter pictures as SVG: a panel a metric, every point named in a column beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

SIDE_PX, LABEL_PX, GAP_PX, TOP_PX, LEFT_PX, BOTTOM_PX = 460, 300, 14, 40, 62, 48
LINE_PX = 13.0  # between two names
# Okabe and Ito's colours, told apart by nearly everyone, and two greys.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#000000", "#999999", "#8B6C00", "#5D3A9B"),
)


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
        f'<g transform="translate({column * width} {line * height})">{_panel(panel, colours)}</g>'
        for line, row in enumerate(rows)
        for column, panel in enumerate(row)
    ]
    across, down = width * max(len(row) for row in rows), height * len(rows)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across} {down}" '
        f'width="{across}" height="{down}" font-family="sans-serif" font-size="11">\n'
        f'<rect width="{across}" height="{down}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values within [low, high], at most `most` of them, steps of 1, 2 or 5 times 10^n.

    Raises  ValueError: high is not above low.
    """
    if not high > low:
        raise ValueError(f"ticks from {low} to {high}: give a span")
    exponent = -12
    while True:
        for digit in (1, 2, 5):
            step = digit * 10.0**exponent
            first, last = -(-low // step), high // step
            if last - first < most:
                whole = range(int(first), int(last) + 1)
                return [round(i * step, max(0, -exponent)) for i in whole]
        exponent += 1


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near those wanted, in the same order, `gap` apart within [low, high] if they fit.

    Neighbours that are too close share a block, centred on what its members want.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []  # first place, number of members
    for i in order:
        blocks.append([min(max(wanted[i], low), high), 1])
        while len(blocks) > 1 and blocks[-2][0] + blocks[-2][1] * gap > blocks[-1][0]:
            start, count = blocks.pop()
            before = blocks[-1]
            total = before[1] + count
            middle = (before[0] * before[1] + (start - before[1] * gap) * count) / total
            blocks[-1] = [min(max(middle, low), high - (total - 1) * gap), total]
    places = [start + k * gap for start, count in blocks for k in range(int(count))]
    return [place for _, place in sorted(zip(order, places, strict=True))]


def _panel(panel: Panel, colours: dict[str, str]) -> str:
    """Frame, ticks, points, and names at the right with a line to each point."""
    xs, ys = _span([p.x for p in panel.points]), _span([p.y for p in panel.points])
    right, bottom = LEFT_PX + SIDE_PX, TOP_PX + SIDE_PX

    def across(x: float) -> float:
        return LEFT_PX + (x - xs[0]) / (xs[1] - xs[0]) * SIDE_PX

    def down(y: float) -> float:
        return bottom - (y - ys[0]) / (ys[1] - ys[0]) * SIDE_PX

    parts = [_text(LEFT_PX, TOP_PX - 14, panel.title, 'font-size="14" font-weight="bold"')]
    for x in ticks(*xs):
        parts.append(_line(across(x), TOP_PX, across(x), bottom, "#eeeeee"))
        parts.append(_text(across(x), bottom + 15, f"{x:g}", 'text-anchor="middle"'))
    for y in ticks(*ys):
        parts.append(_line(LEFT_PX, down(y), right, down(y), "#eeeeee"))
        parts.append(_text(LEFT_PX - 5, down(y) + 4, f"{y:g}", 'text-anchor="end"'))
    centre = LEFT_PX + SIDE_PX / 2
    parts.append(_text(centre, bottom + 34, panel.x_title, 'text-anchor="middle"'))
    middle = TOP_PX + SIDE_PX / 2
    turned = f'text-anchor="middle" transform="rotate(-90 14 {middle:.1f})"'
    parts.append(_text(14, middle, panel.y_title, turned))
    heights = [down(point.y) for point in panel.points]
    for point, place in zip(
        panel.points, spread(heights, LINE_PX, TOP_PX + 5, bottom - 5), strict=True
    ):
        x, y, colour = across(point.x), down(point.y), colours[point.group]
        parts.append(_line(x, y, right + GAP_PX - 3, place, colour, 'stroke-opacity="0.3"'))
        fill = "white" if point.hollow else colour
        shape = f'cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}"'
        parts.append(f"<circle {shape}><title>{escape(point.name)}</title></circle>")
        parts.append(_text(right + GAP_PX, place + 4, point.name, f'fill="{colour}"'))
    return "".join(parts)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """What an axis shows: all values with a margin, and never nothing."""
    if not values:
        raise ValueError("a panel without points")
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, style: str = "") -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" {style}/>'
