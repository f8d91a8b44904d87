"""What a figure shows, said once: drawn for paper (SVG, PDF) or for the page (plotly).

A renderer adds looks and no facts. A family has one colour and one marker in every figure
(`analysis.figures.looks`), so that figures agree with each other and can be read in greyscale;
lines of one sheet differ in their dashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Axis:
    """Its title with the unit, and which way is good (None: neither)."""

    title: str
    better: Literal["higher", "lower"] | None = None


@dataclass(frozen=True)
class Point:
    """A method's place. size: of the bubble, in units of the largest; hollow: less certain."""

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

    frontier: names of those that no other beats on both axes or on the axes that `frontier_said`
    names; they are emphasised and named, the rest is named on hover and in the text.
    label_all: name every point. diagonal: draw y = x.
    """

    name: str
    title: str
    x: Axis
    y: Axis
    points: Sequence[Point]
    frontier: Sequence[str] = ()
    frontier_said: str = ""
    size_said: str = ""
    label_all: bool = False
    diagonal: bool = False
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """A line of a method; the reference is black."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    family: str
    is_reference: bool = False


@dataclass(frozen=True)
class Curves:
    """Lines over time, each named where it ends. steps: a value holds until the next point."""

    name: str
    title: str
    x: Axis
    y: Axis
    curves: Sequence[Curve]
    steps: bool = False
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """Parts of one bar that are stacked, or a single one; low and high: the interval of the sum."""

    name: str
    family: str
    parts: Sequence[float]
    low: float | None = None
    high: float | None = None
    is_reference: bool = False

    @property
    def total(self) -> float:
        """The whole bar."""
        return float(sum(self.parts))


@dataclass(frozen=True)
class Bars:
    """Horizontal bars, a line a method; part_names tell stacked parts apart.

    mark: a value to hold the bars against, drawn as a line and called mark_said.
    """

    name: str
    title: str
    x: Axis
    bars: Sequence[Bar]
    part_names: Sequence[str] = ()
    mark: float | None = None
    mark_said: str = ""
    note: str = ""


@dataclass(frozen=True)
class Panels:
    """Several figures on one sheet, row by row; headings: one a row, empty for none."""

    name: str
    rows: Sequence[Sequence[Scatter | Curves | Bars]]
    headings: Sequence[str] = ()
    title: str = ""
    note: str = ""

    @property
    def figures(self) -> list[Scatter | Curves | Bars]:
        """All of them."""
        return [figure for row in self.rows for figure in row]


Figure = Scatter | Curves | Bars


@dataclass(frozen=True)
class Absent:
    """A figure that cannot be drawn, and why."""

    name: str
    title: str
    reason: str
