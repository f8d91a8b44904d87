"""Curves over time as SVG: a panel a quantity, a line a method, each named where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.svg import COLOURS, Axes, line, page, span, spread, text

WIDTH_PX, HEIGHT_PX, GAP_PX, TOP_PX, LEFT_PX, BOTTOM_PX = 380, 250, 24, 40, 72, 52
LINE_PX, LETTER_PX = 13.0, 6.2  # between two names, of one letter
BLACK = "#000000"  # of the reference alone
HUES = [colour for colour in COLOURS if colour != BLACK]
# Lines that neighbours in a list never share, so that they are told apart without colours.
DASHES = ("none", "7 3", "2 3", "10 3 2 3", "14 4", "5 2 2 2 2 2")


@dataclass(frozen=True)
class Curve:
    """A named line, a value a second; the reference is black."""

    name: str
    values: Sequence[float]
    is_reference: bool = False


@dataclass(frozen=True)
class Panel:
    """One plot over seconds."""

    title: str
    y_title: str
    curves: Sequence[Curve]


def picture(rows: Sequence[tuple[str, Sequence[Panel]]]) -> str:
    """An SVG of rows of panels under their headings; a name has one look in all of them.

    Raises  ValueError: a panel without a curve, or a curve without a value.
    """
    curves = [curve for _, panels in rows for panel in panels for curve in panel.curves]
    names = list(dict.fromkeys(curve.name for curve in curves))
    looks = {name: _look(at) for at, name in enumerate(names)}
    label = LETTER_PX * max(map(len, names), default=0)
    width = LEFT_PX + WIDTH_PX + GAP_PX + label
    height = TOP_PX + HEIGHT_PX + BOTTOM_PX
    parts, top = [], 0.0
    for heading, panels in rows:
        parts.append(text(10, top + 20, heading, 'font-size="15"'))
        drawn = (_panel(panel, looks) for panel in panels)
        parts += [
            f'<g transform="translate({at * width:g} {top + 24:g})">{each}</g>'
            for at, each in enumerate(drawn)
        ]
        top += height + 24
    return page(width * max(len(panels) for _, panels in rows), top, parts)


def _look(at: int) -> str:
    """Colour and dashes of the nth name."""
    dashes = DASHES[(at + at // len(HUES)) % len(DASHES)]
    return f'stroke="{HUES[at % len(HUES)]}" stroke-width="1.6" stroke-dasharray="{dashes}"'


def _panel(panel: Panel, looks: dict[str, str]) -> str:
    """Axes and curves, each ending in its name."""
    longest = max(len(curve.values) for curve in panel.curves)
    axes = Axes(
        LEFT_PX, TOP_PX, WIDTH_PX, HEIGHT_PX,
        (0, float(longest)), span([value for curve in panel.curves for value in curve.values]),
    )  # fmt: skip
    parts = axes.drawn(panel.title, "seconds", panel.y_title)
    right, bottom = LEFT_PX + WIDTH_PX, TOP_PX + HEIGHT_PX
    ends = [axes.down(curve.values[-1]) for curve in panel.curves]
    places = spread(ends, LINE_PX, TOP_PX + 5, bottom - 5)
    # The reference on top: who lies beneath it is equal to it.
    pairs = sorted(zip(panel.curves, places, strict=True), key=lambda x: x[0].is_reference)
    for curve, place in pairs:
        look = f'stroke="{BLACK}" stroke-width="2.2"' if curve.is_reference else looks[curve.name]
        points = [(axes.across(i + 0.5), axes.down(y)) for i, y in enumerate(curve.values)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" {look}/>')
        parts.append(line(*points[-1], right + GAP_PX - 3, place, "#999999", 'stroke-width="0.5"'))
        weight = 'font-weight="bold"' if curve.is_reference else ""
        parts.append(text(right + GAP_PX, place + 4, curve.name, weight))
    return "".join(parts)
