"""Places for names beside and inside a plot, so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence


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


def ends(values: Sequence[float]) -> list[float]:
    """The ends of an axis."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    margin = MARGIN * (high - low) or MARGIN * abs(high) or 1.0
    return [low - margin, high + margin]


def shares(values: Sequence[float]) -> list[float]:
    """Where values lie between the ends of their axis."""
    low, high = ends(values)
    return [(value - low) / (high - low) for value in values]


# Where a name may stand about its mark, best first: which side across, which side upwards.
AROUND = {
    "top center": (0, 1), "bottom center": (0, -1), "middle right": (1, 0), "middle left": (-1, 0),
    "top right": (1, 1), "top left": (-1, 1), "bottom right": (1, -1), "bottom left": (-1, -1),
}  # fmt: skip
MARGIN = 0.07  # of an axis, beyond the outermost points
MARK, OFF = 6.0, 8.5  # from the middle of a mark to its edge, and to a name
Box = tuple[float, float, float, float]  # left, bottom, right, top


def around(
    marks: Sequence[tuple[float, float]],
    names: Sequence[tuple[int, float]],
    height: float,
    limits: tuple[float, float],
) -> dict[int, str]:
    """Where names may stand about their marks: over no other name or named mark, inside the plot.

    marks: places of all. names: of which, and how wide, the most important first; one that finds no
    place is left out. height: of a name. limits: width and height of the plot, from (0, 0), above
    which there is room for one name.
    """
    taken: list[Box] = []
    for at, _ in names:
        x, y = marks[at]
        taken.append((x - MARK, y - MARK, x + MARK, y + MARK))
    found: dict[int, str] = {}
    for at, width in names:
        for position, sides in AROUND.items():
            box = _beside(marks[at], sides, width, height)
            inside = min(box[:2]) >= 0 and box[2] <= limits[0] and box[3] <= limits[1] + height
            covers = any(
                box[0] < a[2] and a[0] < box[2] and box[1] < a[3] and a[1] < box[3] for a in taken
            )
            if inside and not covers:
                taken.append(box)
                found[at] = position
                break
    return found


def _beside(mark: tuple[float, float], sides: tuple[int, int], width: float, height: float) -> Box:
    """A name's box on one side of its mark; 0 is centred on it."""
    left, bottom = (
        at + {-1: -OFF - size, 0: -size / 2, 1: OFF}[side]
        for at, side, size in zip(mark, sides, (width, height), strict=True)
    )
    return (left, bottom, left + width, bottom + height)
