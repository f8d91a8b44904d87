"""Describes a figure in words and as a table of its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from analysis import numbers
from analysis.figures.figure import Axis, Bars, Curves, Figure, Panels, Scatter
from harness.system.text_table import Grid

DIRECTION = {"higher": ", higher is better", "lower": ", lower is better", None: ""}
MANY = 12  # names that a sentence takes
number = partial(numbers.number, none="", digits=4)


def described(figure: Figure | Panels) -> str:
    """Return the text alternative: axes, extremes and frontier."""
    if isinstance(figure, Panels):
        said = [f"{figure.title}."] if figure.title else []
        said += [described(each) for each in figure.figures]
        return " ".join([*said, *_noted(figure.note)])
    if isinstance(figure, Scatter):
        return _of_scatter(figure)
    return _of_curves(figure) if isinstance(figure, Curves) else _of_bars(figure)


def rows(figure: Figure) -> Grid:
    """Return the numbers of a figure, one line per method."""
    notes = [figure.note] if figure.note else []
    if isinstance(figure, Scatter):
        return _points(figure, notes)
    return _ends(figure, notes) if isinstance(figure, Curves) else _lengths(figure, notes)


def _of_scatter(figure: Scatter) -> str:
    points = figure.points
    # A sentence even then: a figure without a text alternative is silent for a screen reader.
    if not points:
        return f"{figure.title}: no method has a place."
    axes = f"{_axis(figure.y)} over {_axis(figure.x)}"
    said = [f"{figure.title}: {axes}; {_counted(len(points), 'method')}."]
    for axis, values in ((figure.x, [p.x for p in points]), (figure.y, [p.y for p in points])):
        # Screen readers get the extremes by name, which a sighted reader sees at once.
        ordered = sorted(zip(values, points, strict=True), key=lambda pair: pair[0])
        (low, first), (high, last) = ordered[0], ordered[-1]
        said.append(
            f"{axis.title}: from {number(low)} ({first.name}) to {number(high)} ({last.name})."
        )
    said += [
        f"{p.name}, the reference, is at {number(p.x)} and {number(p.y)}."
        for p in points
        if p.is_reference
    ]
    if figure.frontier:
        over = f" ({figure.frontier_said})" if figure.frontier_said else ""
        said.append(f"On the frontier{over}: {numbers.listed(figure.frontier, MANY)}.")
    if figure.size_said:
        said.append(f"Areas of marks: {figure.size_said}.")
    return " ".join([*said, *_noted(figure.note)])


def _of_curves(figure: Curves) -> str:
    curves = [each for each in figure.curves if len(each.ys)]
    if not curves:
        return f"{figure.title}: no method has a line."
    said = [
        f"{figure.title}: {_axis(figure.y)} over {figure.x.title}; "
        f"{_counted(len(curves), 'method')}."
    ]
    ordered = sorted(curves, key=lambda each: each.ys[-1])
    # Drift shows at the end of a video, so only the end is described.
    low, high = ordered[0], ordered[-1]
    # One method is the lowest and the highest at once.
    if low is not high:
        said.append(
            f"At the end the lowest is {low.name} ({number(low.ys[-1])}), the highest "
            f"{high.name} ({number(high.ys[-1])})."
        )
    said += [
        f"{each.name} goes from {number(each.ys[0])} to {number(each.ys[-1])}."
        for each in curves
        if each.is_reference or len(curves) == 1
    ]
    return " ".join([*said, *_noted(figure.note)])


def _of_bars(figure: Bars) -> str:
    ordered = sorted(figure.bars, key=lambda each: each.total)
    said = [f"{figure.title}: {_axis(figure.x)}; {_counted(len(ordered), 'method')}."]
    if ordered:
        said.append(
            f"From {number(ordered[0].total)} ({ordered[0].name}) to "
            f"{number(ordered[-1].total)} ({ordered[-1].name})."
        )
    if figure.mark is not None:
        said.append(f"{figure.mark_said}: {number(figure.mark)}.")
    if figure.part_names:
        said.append(f"Parts: {', '.join(figure.part_names)}.")
    return " ".join([*said, *_noted(figure.note)])


def _points(figure: Scatter, notes: Sequence[str]) -> Grid:
    # Sizes are shares of the largest, so the heading says whose size is 1.
    has_size = any(point.size is not None for point in figure.points)
    header = ["method", figure.x.title, figure.y.title]
    header += [f"{figure.size_said}, largest is 1"] * has_size + ["frontier"] * bool(
        figure.frontier
    )
    lines = [
        [p.name, number(p.x), number(p.y)]
        + [number(p.size)] * has_size
        + ["yes" if p.name in figure.frontier else ""] * bool(figure.frontier)
        for p in figure.points
    ]
    words = {0, len(header) - 1} if figure.frontier else {0}
    said = [f"frontier: {figure.frontier_said}"] if figure.frontier_said else []
    return Grid(figure.title, header, lines, [*said, *notes], words=words, name=figure.name)


def _ends(figure: Curves, notes: Sequence[str]) -> Grid:
    """List all points if few and common to all curves, else ends and extremes."""
    # A trace has its own times in every run, so its points make no columns.
    shared = len({tuple(each.xs) for each in figure.curves}) == 1
    xs = figure.curves[0].xs if shared and figure.curves else ()
    if shared and len(xs) <= MANY:
        header = ["method", *(f"{number(x)}" for x in xs)]
        lines = [[each.name, *map(number, each.ys)] for each in figure.curves]
        title = f"{figure.title}: {figure.y.title} by {figure.x.title}"
        return Grid(title, header, lines, notes, name=figure.name)
    header = ["method", "first", "last", "smallest", "largest", "points"]
    lines = []
    for each in figure.curves:
        ends = (each.ys[0], each.ys[-1], min(each.ys), max(each.ys))
        lines.append([each.name, *map(number, ends), str(len(each.ys))])
    title = f"{figure.title}: {figure.y.title}"
    return Grid(title, header, lines, notes, name=figure.name)


def _lengths(figure: Bars, notes: Sequence[str]) -> Grid:
    # Columns that no bar would fill are left out.
    bounded = any(bar.low is not None for bar in figure.bars)
    parts = list(figure.part_names)
    header = ["method", figure.x.title, *parts, *(["from", "to"] if bounded else [])]
    lines = []
    for bar in figure.bars:
        cells = [bar.name, number(bar.total)]
        cells += [number(value) for value in bar.parts] if parts else []
        lines.append(cells + ([number(bar.low), number(bar.high)] if bounded else []))
    marked = [] if figure.mark is None else [f"{figure.mark_said}: {number(figure.mark)}"]
    return Grid(figure.title, header, lines, [*marked, *notes], name=figure.name)


def _axis(axis: Axis) -> str:
    return axis.title + DIRECTION[axis.better]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _noted(note: str) -> list[str]:
    """Return a note as a sentence."""
    return [note if note.endswith(".") else f"{note}."] if note else []
