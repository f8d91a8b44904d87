"""Describes figures without drawing them; `paper` (SVG, PDF) and `page` (plotly) render them.

A renderer adds styles and no facts. A family has one colour and one marker in every figure
(`analysis.figures.looks`), so that figures agree and stay readable in greyscale. Lines of one
sheet have different dashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Axis:
    """An axis: its title with the unit, and the better direction (None: neither)."""

    title: str
    better: Literal["higher", "lower"] | None = None


@dataclass(frozen=True)
class Point:
    """A method's point.

    size: of the bubble, as a share of the largest. hollow: the value is less certain.
    """

    name: str
    x: float
    y: float
    family: str
    size: float | None = None
    hollow: bool = False
    is_reference: bool = False


@dataclass(frozen=True)
class Scatter:
    """Methods on two axes.

    frontier: names of methods that no other beats on the axes that `frontier_said` names, else on
        the two axes shown. They are emphasised and named; other names appear on hover and in the
        table of the figure's numbers (`analysis.figures.words.rows`).
    label_all: name every point.
    diagonal: draw y = x.
    """

    name: str
    title: str
    x: Axis
    y: Axis
    points: Sequence[Point]
    frontier: Sequence[str] = ()
    frontier_said: str = ""
    size_said: str = ""
    # For scatters that are read point by point, as that of published against measured.
    label_all: bool = False
    diagonal: bool = False
    note: str = ""

    def is_named(self, point: Point) -> bool:
        """Return whether the name of a point is drawn."""
        return self.label_all or point.is_reference or point.name in self.frontier


@dataclass(frozen=True)
class Curve:
    """The line of one method; the reference is black."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    family: str
    is_reference: bool = False


@dataclass(frozen=True)
class Curves:
    """A figure of lines over time, each labelled at its end.

    steps: draw each value as constant until the next point.
    """

    name: str
    title: str
    x: Axis
    y: Axis
    curves: Sequence[Curve]
    # Memory stays at a value until the next allocation; quality changes in between.
    steps: bool = False
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar, of stacked parts or a single one; low, high: interval of the sum."""

    name: str
    family: str
    parts: Sequence[float]
    low: float | None = None
    high: float | None = None
    is_reference: bool = False

    @property
    def total(self) -> float:
        """Length of the whole bar."""
        return float(sum(self.parts))


@dataclass(frozen=True)
class Bars:
    """Horizontal bars, one line per method; part_names: names of stacked parts.

    mark: a value to compare the bars with, drawn as a line with the label `mark_said`.
    """

    name: str
    title: str
    x: Axis
    bars: Sequence[Bar]
    part_names: Sequence[str] = ()
    # Of bars alone: in a scatter the reference is a point with lines through it.
    mark: float | None = None
    mark_said: str = ""
    note: str = ""


@dataclass(frozen=True)
class Panels:
    """Several figures on one sheet, row by row; headings: one per row, empty for none."""

    name: str
    rows: Sequence[Sequence[Scatter | Curves | Bars]]
    headings: Sequence[str] = ()
    title: str = ""
    note: str = ""

    @property
    def figures(self) -> list[Scatter | Curves | Bars]:
        """All figures of the sheet."""
        return [figure for row in self.rows for figure in row]


# A sheet (`Panels`) is none of these, so that sheets cannot contain sheets.
Figure = Scatter | Curves | Bars


@dataclass(frozen=True)
class Absent:
    """A figure that cannot be drawn, with the reason."""

    name: str
    title: str
    reason: str
