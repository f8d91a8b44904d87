"""Places for names beside a plot, so that none covers another."""

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


# Where a name may stand about its mark, best first: the shares of its size that it is moved by.
AROUND = {
    "top center": (-0.5, 0.35), "bottom center": (-0.5, -1.35), "middle right": (0.1, -0.5),
    "middle left": (-1.1, -0.5), "top right": (0.05, 0.2), "top left": (-1.05, 0.2),
    "bottom right": (0.05, -1.2), "bottom left": (-1.05, -1.2),
}  # fmt: skip


def around(
    marks: Sequence[tuple[float, float]],
    names: Sequence[tuple[int, float]],
    height: float,
    limits: tuple[float, float],
) -> dict[int, str]:
    """Where names may stand about their marks without covering a name or leaving the plot.

    marks: places of all. names: of which, and how wide, the most important first; one that finds no
    place is left out. height: of a name. limits: width and height of the plot, from (0, 0).
    """
    taken: list[tuple[float, float, float, float]] = []
    found: dict[int, str] = {}
    for at, width in names:
        for position, (right, up) in AROUND.items():
            x, y = marks[at][0] + right * width, marks[at][1] + up * height
            box = (x, y, x + width, y + height)
            inside = box[0] >= 0 and box[2] <= limits[0] and box[3] <= limits[1] + height
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                found[at] = position
                break
    return found


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
