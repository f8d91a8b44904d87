"""Places names next to and inside a plot without overlap."""

from __future__ import annotations

from collections.abc import Sequence


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions near the wanted ones, in order, `gap` apart within [low, high] if they fit.

    Neighbours that are too close form a block, centred on the mean of what its members want.
    """
    if not wanted:
        return []
    # If not all fit, they share the space evenly.
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    # One pass from below. Every name begins one block, which is merged at most once, so this takes
    # linear time after the sort.
    blocks: list[list[float]] = []  # first place, number of members
    for i in order:
        blocks.append([min(max(wanted[i], low), high), 1])
        # A block that reaches into the one below joins it, which may then reach the next one.
        while len(blocks) > 1 and blocks[-2][0] + blocks[-2][1] * gap > blocks[-1][0]:
            start, count = blocks.pop()
            before = blocks[-1]
            total = before[1] + count
            middle = (before[0] * before[1] + (start - before[1] * gap) * count) / total
            blocks[-1] = [min(max(middle, low), high - (total - 1) * gap), total]
    places = [start + k * gap for start, count in blocks for k in range(int(count))]
    return [place for _, place in sorted(zip(order, places, strict=True))]


def ends(values: Sequence[float]) -> list[float]:
    """Return the ends of an axis: the range of the values plus a margin."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    # Equal values have no range; zero has not even a size.
    margin = MARGIN * (high - low) or MARGIN * abs(high) or 1.0
    return [low - margin, high + margin]


def shares(values: Sequence[float]) -> list[float]:
    """Return positions of values along their axis, as shares from 0 to 1."""
    low, high = ends(values)
    return [(value - low) / (high - low) for value in values]


# Positions of a name around its mark, best first: side across (-1 left, 1 right), side upwards.
AROUND = {
    "top center": (0, 1), "bottom center": (0, -1), "middle right": (1, 0), "middle left": (-1, 0),
    "top right": (1, 1), "top left": (-1, 1), "bottom right": (1, -1), "bottom left": (-1, -1),
}  # fmt: skip
MARGIN = 0.07  # share of the range, beyond the outermost points
MARK, OFF = 6.0, 8.5  # from a mark's centre to its edge, and to a name
Box = tuple[float, float, float, float]  # left, bottom, right, top


def around(
    marks: Sequence[tuple[float, float]],
    names: Sequence[tuple[int, float]],
    height: float,
    limits: tuple[float, float],
) -> dict[int, str]:
    """Place names around their marks, inside the plot, over no other name or named mark.

    marks: positions of all points.
    names: (index of the mark, width), the most important first; a name that finds no place is left
        out.
    height: of a name.
    limits: width and height of the plot, from (0, 0); one name may stand above it.
    """
    # Marks without a name may be covered: their names appear on hover.
    taken: list[Box] = []
    for at, _ in names:
        x, y = marks[at]
        taken.append((x - MARK, y - MARK, x + MARK, y + MARK))
    found: dict[int, str] = {}
    for at, width in names:
        for position, sides in AROUND.items():
            # The first free position counts, and none is moved again: important names come first.
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
    """Return the box of a name on one side of its mark; side 0 centres it."""
    left, bottom = (
        at + {-1: -OFF - size, 0: -size / 2, 1: OFF}[side]
        for at, side, size in zip(mark, sides, (width, height), strict=True)
    )
    return (left, bottom, left + width, bottom + height)
