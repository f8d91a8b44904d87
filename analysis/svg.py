"""Pieces of pictures: axes, places for names, texts and lines as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# Okabe and Ito's colours, told apart by nearly everyone, and two greys.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#000000", "#999999", "#8B6C00", "#5D3A9B"),
)


@dataclass(frozen=True)
class Axes:
    """A frame on the page, and the spans of values that it shows."""

    left: float
    top: float
    width: float
    height: float
    xs: tuple[float, float]
    ys: tuple[float, float]

    def across(self, x: float) -> float:
        """Where a value lies."""
        return self.left + (x - self.xs[0]) / (self.xs[1] - self.xs[0]) * self.width

    def down(self, y: float) -> float:
        """Where a value lies; larger ones are higher."""
        return self.top + (self.ys[1] - y) / (self.ys[1] - self.ys[0]) * self.height

    def drawn(self, title: str, x_title: str, y_title: str) -> list[str]:
        """Lines at round values with their numbers, and the titles."""
        right, bottom = self.left + self.width, self.top + self.height
        parts = [text(self.left, self.top - 14, title, 'font-size="14" font-weight="bold"')]
        for x in ticks(*self.xs):
            parts.append(line(self.across(x), self.top, self.across(x), bottom, "#eeeeee"))
            parts.append(text(self.across(x), bottom + 15, f"{x:g}", 'text-anchor="middle"'))
        for y in ticks(*self.ys):
            parts.append(line(self.left, self.down(y), right, self.down(y), "#eeeeee"))
            parts.append(text(self.left - 5, self.down(y) + 4, f"{y:g}", 'text-anchor="end"'))
        centre, middle = self.left + self.width / 2, self.top + self.height / 2
        parts.append(text(centre, bottom + 34, x_title, 'text-anchor="middle"'))
        turned = f'text-anchor="middle" transform="rotate(-90 14 {middle:.1f})"'
        return [*parts, text(14, middle, y_title, turned)]


def page(across: float, down: float, parts: Sequence[str]) -> str:
    """A whole picture of parts on white."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across:g} {down:g}" '
        f'width="{across:g}" height="{down:g}" font-family="sans-serif" font-size="11">\n'
        f'<rect width="{across:g}" height="{down:g}" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
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


def span(values: Sequence[float]) -> tuple[float, float]:
    """What an axis shows: all values with a margin, and never nothing.

    Raises  ValueError: there are none.
    """
    if not values:
        raise ValueError("a panel without points")
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def text(x: float, y: float, words: str, style: str = "") -> str:
    """Words that begin at a place, or as `style` says."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str, style: str = "") -> str:
    """A straight line."""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" {style}/>'
