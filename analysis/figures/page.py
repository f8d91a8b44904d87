"""Renders figures for the page: plotly's JSON in an attribute of an element, without any script.

Once plotly is loaded, the page draws it like this, and again when the theme changes:

    for (const element of document.querySelectorAll("[data-plot]")) {
      const figure = JSON.parse(element.dataset.plot);
      for (const trace of figure.data) {                        // theme: "light" or "dark"
        const colour = trace.meta && trace.meta[theme];
        if (colour && trace.marker) trace.marker.color = colour;
        if (colour && trace.line) trace.line.color = colour;
      }
      Plotly.react(element, figure.data, {...figure.layout, ...its own}, {responsive: true});
    }

Colours in the data are those of the light theme. The page sets the colours of text and lines.
Backgrounds are transparent, and a plot is as wide as its element.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from analysis.figures.figure import Axis, Bars, Curves, Figure, Point, Scatter
from analysis.figures.looks import DASHES, Look, look, part, told_apart
from analysis.figures.spread import around, ends, shares
from analysis.figures.words import described

Json = dict[str, Any]
GREY = "#888888"  # visible in both themes
# Plots have no background of their own, so that the page's shows in both themes.
CLEAR = "rgba(0,0,0,0)"
# Size of a plot that names its marks, of a letter and of a line; narrow plots omit the names.
PLOT_PX, LETTER_PX, NAME_PX = (440.0, 285.0), 6.4, 12.0


def div(figure: Figure, id: str) -> str:
    """Return the HTML element of a figure; its label is the text alternative."""
    # Compact, and without NaN, which is no JSON: browsers would reject the whole figure.
    # An attribute rather than a script: the page's policy allows only scripts that it knows.
    content = json.dumps(plotted(figure), allow_nan=False, separators=(",", ":"))
    return (
        f'<div id="{escape(id)}" class="plot" role="img" aria-label="{escape(described(figure))}" '
        f'data-plot="{escape(content)}"></div>'
    )


def plotted(figure: Figure) -> Json:
    """Return data and layout as plotly takes them."""
    if isinstance(figure, Scatter):
        data, layout = _scatter(figure)
    elif isinstance(figure, Curves):
        data, layout = _curves(figure)
    else:
        data, layout = _bars(figure)
    common = {
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        # With "x" all methods at one place would answer at once and cover the plot.
        "hovermode": "closest",
        "legend": {
            "itemsizing": "constant",
            "orientation": "h",
            "y": -0.18,
            "yanchor": "top",
            "x": 0,
        },
        "margin": {"l": 60, "r": 20, "t": 10, "b": 50},
        "xaxis": _axis(figure.x),
    }
    return {"data": data, "layout": {**common, **layout}}


def looks(families: Iterable[str]) -> Mapping[str, Mapping[str, Mapping[str, str]]]:
    """Return colours and markers by theme and family, for plots that the page builds itself.

    The key `reference` is BF16's.
    """
    found = {family: look(family) for family in families} | {"reference": look("", True)}
    return {
        theme: {
            family: {"colour": getattr(each, theme), "marker": each.marker}
            for family, each in found.items()
        }
        for theme in ("light", "dark")
    }


def _axis(axis: Axis) -> Json:
    better = {"higher": " (higher is better)", "lower": " (lower is better)", None: ""}
    # plotly reads some HTML in texts, and names come from results.
    title = escape(axis.title) + better[axis.better]
    return {"title": {"text": title}, "zeroline": False, "automargin": True}


def _meta(of: Look) -> Json:
    return {"light": of.light, "dark": of.dark}


# ---- points ------------------------------------------------------------------------------------


def _scatter(figure: Scatter) -> tuple[list[Json], Json]:
    """Build one trace per family, and dotted lines through the reference."""
    # A trace per family is one entry of the legend, which switches the family on and off.
    groups: dict[str, list[Point]] = {}
    for point in figure.points:
        groups.setdefault("" if point.is_reference else point.family, []).append(point)
    spots = _names(figure)
    data = [_marks(figure, family, points, spots) for family, points in groups.items()]
    axes = {
        "xaxis": _axis(figure.x) | {"range": ends([point.x for point in figure.points])},
        "yaxis": _axis(figure.y) | {"range": ends([point.y for point in figure.points])},
    }
    # Dotted lines: through the reference, and the diagonal.
    dotted = {"dash": "dot", "width": 1, "color": GREY}
    shapes: list[Json] = []
    for point in figure.points:
        if point.is_reference:
            across = {"xref": "paper", "x0": 0, "x1": 1, "y0": point.y, "y1": point.y}
            down = {"yref": "paper", "y0": 0, "y1": 1, "x0": point.x, "x1": point.x}
            shapes += [{"type": "line", "line": dotted, **line} for line in (across, down)]
    if figure.diagonal and figure.points:
        values = [value for p in figure.points for value in (p.x, p.y)]
        low, high = min(values), max(values)
        corners = {"x0": low, "y0": low, "x1": high, "y1": high}
        shapes.append({"type": "line", "line": dotted, **corners})
    return data, {**axes, "shapes": shapes, "height": 460}


def _names(figure: Scatter) -> dict[str, str]:
    """Return the position of every name that fits on a page of usual width, by method."""
    # A wider page only spreads the points, so names do not overlap there either.
    points = figure.points
    xs, ys = shares([p.x for p in points]), shares([p.y for p in points])
    marks = [(x * PLOT_PX[0], y * PLOT_PX[1]) for x, y in zip(xs, ys, strict=True)]
    # The reference chooses its place first, since names that find none are left out.
    wanted = sorted(range(len(points)), key=lambda i: not points[i].is_reference)
    sizes = [(i, LETTER_PX * len(points[i].name)) for i in wanted if figure.is_named(points[i])]
    found = around(marks, sizes, NAME_PX, PLOT_PX)
    return {points[i].name: position for i, position in found.items()}


def _marks(figure: Scatter, family: str, points: Sequence[Point], spots: Mapping[str, str]) -> Json:
    # The empty family is that of the reference (`_scatter`).
    of = look(family, is_reference=not family)
    emphasised = [figure.is_named(point) or not figure.frontier for point in points]
    hover = "<b>%{customdata}</b><br>" + "<br>".join(
        f"{escape(axis.title)}: %{{{letter}:.4g}}"
        for letter, axis in (("x", figure.x), ("y", figure.y))
    )
    return {
        "type": "scatter",
        # The page drops the names on a narrow plot, where they would overlap (plots.js).
        "mode": "markers+text",
        "name": escape(family or points[0].name),
        "x": [p.x for p in points],
        "y": [p.y for p in points],
        "text": [escape(p.name) if p.name in spots else "" for p in points],
        "textposition": [spots.get(p.name, "top center") for p in points],
        "textfont": {"size": 10},
        "cliponaxis": False,  # marks on the edge of the plot stay whole
        "customdata": [escape(p.name) for p in points],
        "hovertemplate": hover + "<extra></extra>",
        "meta": _meta(of),
        "marker": {
            "color": of.light,
            "symbol": [of.marker + ("-open" if p.hollow else "") for p in points],
            # The root makes areas grow with the size, not diameters; no size gives a medium mark.
            "size": [
                (10.0 if p.size is None else 6 + 22 * p.size**0.5) + 2 * strong
                for p, strong in zip(points, emphasised, strict=True)
            ],
            "opacity": [1.0 if strong else 0.5 for strong in emphasised],
            "line": {"width": [1.5 if strong else 0.5 for strong in emphasised], "color": GREY},
        },
    }


# ---- lines -------------------------------------------------------------------------------------


def _curves(figure: Curves) -> tuple[list[Json], Json]:
    """Build one trace per method."""
    # By the light colour: dashes must not change with the theme.
    colours = [(each.name, look(each.family).light) for each in figure.curves]
    dashes = told_apart(colours)
    data: list[Json] = []
    # The reference is drawn last, on top.
    for curve in sorted(figure.curves, key=lambda each: each.is_reference):
        of = look(curve.family, curve.is_reference)
        lengths = () if curve.is_reference else DASHES[dashes[curve.name]]
        hover = f"<b>{escape(curve.name)}</b><br>{escape(figure.x.title)}: %{{x:.4g}}<br>"
        data.append({
            "type": "scatter",
            # One point makes no line, and would be invisible.
            "mode": "lines" if len(curve.xs) > 1 else "markers",
            "name": escape(curve.name),
            "x": list(curve.xs),
            "y": list(curve.ys),
            "hovertemplate": f"{hover}{escape(figure.y.title)}: %{{y:.4g}}<extra></extra>",
            "meta": _meta(of),
            "marker": {"color": of.light, "symbol": of.marker, "size": 8},
            "line": {
                "color": of.light,
                "width": 3 if curve.is_reference else 1.8,
                "dash": ",".join(f"{length:g}px" for length in lengths) or "solid",
                "shape": "hv" if figure.steps else "linear",
            },
        })  # fmt: skip
    height = 400 + 20 * -(-len(data) // 3)  # room for the legend, about three names per line
    return data, {"yaxis": _axis(figure.y), "height": height}


# ---- bars --------------------------------------------------------------------------------------


def _bars(figure: Bars) -> tuple[list[Json], Json]:
    """Put the first method on top; one trace per stacked part, or per family for single bars."""
    # Parts are traces across all methods; single bars are grouped by family, for the legend.
    data: list[Json] = [] if figure.part_names else _single(figure)
    for i, name in enumerate(figure.part_names):
        light, dark, _ = part(i)
        trace = _bar(
            figure, [bar.name for bar in figure.bars], [x.parts[i] for x in figure.bars], name
        )
        data.append(trace | {"marker": {"color": light}, "meta": {"light": light, "dark": dark}})
    order = [escape(each.name) for each in figure.bars]
    lines = []
    if figure.mark is not None:
        at = {"x0": figure.mark, "x1": figure.mark, "y0": 0, "y1": 1, "yref": "paper"}
        label = {"text": escape(figure.mark_said), "textposition": "end", "textangle": 0}
        line = {"dash": "dot", "width": 1.5, "color": GREY}
        lines = [{"type": "line", "line": line, "label": label, **at}]
    layout = {
        # Single bars too: families are traces, and plotly would otherwise leave room for each.
        "barmode": "stack",
        "height": 140 + 20 * len(order),
        "shapes": lines,
        "yaxis": {
            "categoryorder": "array",
            "categoryarray": order[::-1],  # plotly counts from the bottom
            "automargin": True,
            "dtick": 1,
        },
    }
    return data, layout


def _single(figure: Bars) -> list[Json]:
    groups: dict[str, list[int]] = {}
    for i, bar in enumerate(figure.bars):
        groups.setdefault("" if bar.is_reference else bar.family, []).append(i)
    found = []
    for family, places in groups.items():
        bars = [figure.bars[i] for i in places]
        of = look(family, is_reference=not family)
        values = [bar.total for bar in bars]
        trace = _bar(figure, [bar.name for bar in bars], values, family or bars[0].name)
        trace |= {"marker": {"color": of.light}, "meta": _meta(of)}
        if any(bar.high is not None for bar in bars):
            # plotly takes lengths from the end of the bar, not the ends of the interval.
            trace["error_x"] = {
                "type": "data",
                "symmetric": False,
                "color": GREY,
                "array": [0 if bar.high is None else bar.high - bar.total for bar in bars],
                "arrayminus": [0 if bar.low is None else bar.total - bar.low for bar in bars],
            }
        found.append(trace)
    return found


def _bar(figure: Bars, names: Sequence[str], values: Sequence[float], name: str) -> Json:
    said = f"<b>%{{y}}</b><br>{escape(name)}<br>{escape(figure.x.title)}: %{{x:.4g}}"
    return {
        "type": "bar",
        "orientation": "h",
        "name": escape(name),
        "y": [escape(each) for each in names],
        "x": list(values),
        "hovertemplate": said + "<extra></extra>",
    }
