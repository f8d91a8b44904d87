"""Draws one panel with matplotlib; sizes are in points, 72 per inch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.path import Path
from matplotlib.textpath import TextPath

from analysis.figures.figure import Axis, Bars, Curves, Figure, Point, Scatter
from analysis.figures.looks import DASHES, look, part
from analysis.figures.spread import spread

# In points, because text does not scale with a plot.
NAME_PT, LINE_PT, GAP_PT = 7.5, 10.0, 14.0  # names: letter size, spacing, distance to the plot
SIDE_PT = 250.0  # least side of a plot
BAR_PT = 13.0
MARK_PT, BUBBLE_PT = 6.5, 24.0  # diameter of a mark, of the largest bubble
GREY, PALE = "#777777", "#e6e6e6"
LARGER = {"star": 1.5, "hexagram": 1.2, "star-diamond": 1.3, "cross": 1.1, "x": 1.1}  # thin
# plotly's names -> matplotlib's markers.
MARKERS: dict[str, Any] = {
    "diamond": "D", "circle": "o", "square": "s", "triangle-up": "^", "triangle-down": "v",
    "triangle-left": "<", "triangle-right": ">", "star": "*", "pentagon": "p", "cross": "P",
    "x": "X", "hexagon": "h", "diamond-tall": "d", "hexagram": (6, 1, 0),
    "star-diamond": (4, 1, 0),
    "triangle-ne": Path([(-1, 1), (1, 1), (1, -1), (-1, 1)], closed=True),
    "bowtie": Path([(-1, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)], closed=True),
    "hourglass": Path([(-1, -1), (1, -1), (-1, 1), (1, 1), (-1, -1)], closed=True),
}  # fmt: skip


@dataclass(frozen=True)
class Room:
    """Space of a panel in points: its plot, and the margins around it."""

    width: float
    height: float
    left: float
    right: float
    bottom: float
    top: float = 28.0


# Each call lays out the text, and the same names come in every panel.
@lru_cache(maxsize=4096)
def width_of(words: str, size: float = NAME_PT) -> float:
    """Return the width of a text in points, with some slack for other fonts."""
    # SVG holds text, not outlines, so the viewer's font may be wider than the one measured here.
    return 1.06 * float(TextPath((0, 0), words, size=size).get_extents().width) if words else 0.0


def room(figure: Figure, is_named: bool = True) -> Room:
    """Compute the space of a panel; is_named: bars show their names."""
    if isinstance(figure, Bars):
        names = max((width_of(bar.name) for bar in figure.bars), default=0.0)
        # The legend below has three names in a line.
        parts = 14.0 * -(-len(figure.part_names) // 3)
        height = max(40.0, BAR_PT * len(figure.bars))
        return Room(SIDE_PT, height, (names if is_named else 0) + 12, 34, 40 + parts)
    if isinstance(figure, Curves):
        names = max((width_of(each.name) for each in figure.curves), default=0.0)
        # Names stand at the ends of the lines, so the plot is high enough for all of them.
        height = max(0.72 * SIDE_PT, LINE_PT * len(figure.curves))
        return Room(1.2 * SIDE_PT, height, 52, names + GAP_PT + 8, 40)
    named = [point for point in figure.points if figure.is_named(point)]
    # Names stand in a column at the right, so the widest one decides.
    names = max((width_of(point.name) for point in named), default=0.0)
    height = max(SIDE_PT, LINE_PT * len(named))
    # The legend below has four families in a line.
    legend = 0.0 if figure.label_all else 13.0 * -(-len(_families(figure)) // 4)
    return Room(1.1 * SIDE_PT, height, 52, names + GAP_PT + 8, 42 + legend)


def draw(axes: Axes, figure: Figure, dashes: dict[str, int], is_named: bool = True) -> None:
    """Draw a panel.

    dashes: index in `DASHES` by curve name, the same for the whole sheet.
    """
    axes.set_title(figure.title, loc="left", fontsize=9, fontweight="bold", pad=8)
    if isinstance(figure, Bars):
        _bars(axes, figure, is_named)
    elif isinstance(figure, Curves):
        _curves(axes, figure, dashes)
    else:
        _scatter(axes, figure)
    # The y axis of bars holds names, so only the other two set a title there.
    axes.set_xlabel(_titled(figure.x))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def _titled(axis: Axis) -> str:
    return axis.title + (f" ({axis.better} is better)" if axis.better else "")


# ---- points ------------------------------------------------------------------------------------


def _scatter(axes: Axes, figure: Scatter) -> None:
    """Draw marks, the cross-hairs of the reference, and names at the right."""
    axes.grid(color=PALE, linewidth=0.6)
    # Marks at the edge stay inside; `spread.MARGIN` is the same on the page.
    axes.margins(0.07)
    axes.set_ylabel(_titled(figure.y))
    named = [point for point in figure.points if figure.is_named(point)]
    for point in figure.points:
        of = look(point.family, point.is_reference)
        # Without a frontier no point is special, so all are strong.
        is_strong = figure.is_named(point) or not figure.frontier
        across = MARK_PT * LARGER.get(of.marker, 1.0) + 1.5 * is_strong
        if point.size is not None:
            across = 4 + (BUBBLE_PT - 4) * point.size**0.5  # areas grow with the size
        axes.plot(
            [point.x],
            [point.y],
            linestyle="none",
            marker=MARKERS[of.marker],
            markersize=across,
            markerfacecolor="white" if point.hollow else of.light,
            # The edge tells a hollow mark's family, so it keeps the colour.
            markeredgecolor="#222222" if is_strong and not point.hollow else of.light,
            markeredgewidth=0.6,
            # Bubbles overlap, so even the strong ones are translucent.
            alpha=(0.8 if point.size is not None else 1.0) if is_strong else 0.45,
            zorder=4 if is_strong else 3,
            clip_on=False,
        )
        if point.is_reference:
            axes.axhline(point.y, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
            axes.axvline(point.x, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    if figure.diagonal:
        axes.axline((figure.points[0].x,) * 2, slope=1, color=GREY, linewidth=0.8, linestyle=":")
    places = [(p.name, p.x, p.y, look(p.family, p.is_reference).light) for p in named]
    _names(axes, places, [p.name for p in named if p.is_reference])
    if figure.label_all:
        return
    handles = []
    for family, point in _families(figure).items():
        of = look(point.family, point.is_reference)
        mark = {"marker": MARKERS[of.marker], "markersize": 6, "color": of.light}
        handles.append(Line2D([], [], linestyle="none", label=family, **mark))
    _beneath(axes, handles, 4, 38)


def _families(figure: Scatter) -> dict[str, Point]:
    """Return one point per family; the reference stands apart from its family."""
    found: dict[str, Point] = {}
    for point in sorted(figure.points, key=lambda p: not p.is_reference):
        found.setdefault(f"{point.name} (reference)" if point.is_reference else point.family, point)
    return found


def _beneath(axes: Axes, handles: Sequence[Any], columns: int, down_pt: float) -> None:
    """Draw a legend beneath the axis title, `down_pt` below the plot."""
    down = -down_pt / _size_pt(axes)[1]
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(-0.02, down),
        ncols=columns,
        fontsize=NAME_PT,
        frameon=False,
        borderaxespad=0,
        handletextpad=0.3,
        columnspacing=1.0,
        labelspacing=0.35,
    )


def _size_pt(axes: Axes) -> tuple[float, float]:
    """Return width and height of a plot in points."""
    dots = axes.figure.dpi / 72
    return axes.bbox.width / dots, axes.bbox.height / dots


def _names(
    axes: Axes, places: Sequence[tuple[str, float, float, str]], strong: Sequence[str]
) -> None:
    """Draw names in a column at the right, each with a thin line to its point."""
    # The limits are final here: names lie outside the plot and do not change them.
    width, height = _size_pt(axes)
    low, high = axes.get_ylim()
    heights = [(y - low) / (high - low) * height for _, _, y, _ in places]
    spots = spread(heights, LINE_PT, 3, height - 3)
    for (name, x, y, colour), spot in zip(places, spots, strict=True):
        axes.annotate(
            name,
            (x, y),
            xytext=(width + GAP_PT, spot),
            textcoords="axes points",
            fontsize=NAME_PT,
            color=colour,
            fontweight="bold" if name in strong else "normal",
            va="center",
            annotation_clip=False,
            zorder=2,
            arrowprops={
                "arrowstyle": "-", "color": colour, "alpha": 0.4, "linewidth": 0.6,
                "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5),
            },
        )  # fmt: skip


# ---- lines -------------------------------------------------------------------------------------


def _curves(axes: Axes, figure: Curves, dashes: dict[str, int]) -> None:
    """Draw lines, the reference on top; a line hidden beneath it equals it."""
    axes.grid(color=PALE, linewidth=0.6)
    axes.margins(x=0.02, y=0.06)
    axes.set_ylabel(_titled(figure.y))
    for curve in figure.curves:
        of = look(curve.family, curve.is_reference)
        (line,) = axes.plot(
            curve.xs,
            curve.ys,
            color=of.light,
            linewidth=2.2 if curve.is_reference else 1.3,
            drawstyle="steps-post" if figure.steps else "default",
            marker=MARKERS[of.marker] if len(curve.xs) == 1 else None,
            markersize=MARK_PT - 1,
            zorder=5 if curve.is_reference else 3,
        )
        if not curve.is_reference and DASHES[dashes[curve.name]]:
            line.set_dashes(DASHES[dashes[curve.name]])
    places = [
        (c.name, c.xs[-1], c.ys[-1], look(c.family, c.is_reference).light) for c in figure.curves
    ]
    _names(axes, places, [c.name for c in figure.curves if c.is_reference])


# ---- bars --------------------------------------------------------------------------------------


def _bars(axes: Axes, figure: Bars, is_named: bool) -> None:
    """Draw bars, the first method on top, each with its number at the end."""
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    for at, bar in enumerate(figure.bars):
        start = 0.0
        for i, length in enumerate(bar.parts):
            # Hatches tell stacked parts apart in greyscale.
            of = look(bar.family, bar.is_reference)
            colour, _, hatch = part(i) if figure.part_names else (of.light, "", "")
            axes.barh(
                at, length, 0.72, left=start,
                facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0.4,
            )  # fmt: skip
            start += length
        if bar.low is not None and bar.high is not None:
            ends = [bar.low, bar.high], [at, at]
            axes.plot(*ends, color="#222222", linewidth=0.9, zorder=4)
            axes.plot(*ends, color="#222222", linestyle="none", marker="|", markersize=4)
        axes.annotate(
            f"{bar.total:.4g}",
            (max(bar.total, bar.high or bar.total, 0.0), at),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=6.5,
            color="#444444",
            va="center",
            annotation_clip=False,
        )
    # Reversed limits put the first method on top.
    axes.set_ylim(len(figure.bars) - 0.4, -0.6)
    names = [bar.name for bar in figure.bars] if is_named else []
    axes.set_yticks(range(len(names)), names, fontsize=NAME_PT)
    axes.tick_params(axis="y", length=0)
    if figure.mark is not None:
        axes.axvline(figure.mark, color="black", linewidth=1, linestyle=":")
        axes.annotate(
            figure.mark_said,
            (figure.mark, -0.6),
            xytext=(0, 1),
            textcoords="offset points",
            fontsize=6.5,
            ha="center",
            va="bottom",
        )
    if figure.part_names:
        patches = [
            Patch(facecolor=c, hatch=hatch, edgecolor="white", linewidth=0.4, label=name)
            for name, (c, _, hatch) in zip(figure.part_names, map(part, count()), strict=False)
        ]
        _beneath(axes, patches, 3, 36)
