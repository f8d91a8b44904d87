"""Places where people live, and the woods behind them."""

from __future__ import annotations

from harness.small_model.scenes.parts import RGB
from harness.small_model.scenes.patches import (
    GROUND_Y,
    LEFT,
    RIGHT,
    Patch,
    disc,
    every,
    floor,
    hills,
    poly,
    rect,
    sky,
)

# Fixed lists and no random numbers: the look of a place is the same in every clip, so that a place
# can be recognized and shifted.
_TALL, _WALLS = (30, 14, 44, 22, 36), ((176, 120, 104), (150, 150, 168), (204, 176, 132))
_BLOOMS: tuple[RGB, ...] = ((236, 90, 120), (250, 210, 80), (180, 110, 210), (250, 250, 250))


def _house(x: float, i: int) -> list[Patch]:
    """Return house `i` of a street, with its left edge at x."""
    top = _TALL[i % 5]
    panes = [
        rect((250, 232, 160), x + 5 + 11 * c, y, x + 11 + 11 * c, y + 8, 0.7)
        for c in range(3)
        for y in range(top + 6, 78, 16)
    ]
    return [rect(_WALLS[i % 3], x, top, x + 37, GROUND_Y, 0.7), *panes]


def tree(x: float, y: float, size: float, paint: RGB, depth: float) -> list[Patch]:
    """Return a tree whose trunk ends at x, y."""
    return [
        rect((110, 76, 48), x - size * 0.1, y - size * 0.5, x + size * 0.1, y, depth),
        disc(paint, x, y - size * 0.72, size * 0.34, size * 0.34, depth),
    ]


# Each place is a list of patches, back to front.
PLACES: dict[str, list[Patch]] = {
    "street": [
        *sky((140, 180, 220), (220, 222, 220)),
        # Houses at depth 0.7 pass more slowly than the road in front of them when the camera pans.
        *every(38, _house),
        floor((170, 166, 164)),
        rect((84, 84, 92), LEFT, 98, RIGHT, 130, 1.0),
        *every(28, lambda x, i: [rect((235, 232, 210), x, 112, x + 14, 115, 1.0)]),
    ],
    "road": [
        *sky((126, 190, 236), (222, 236, 240)),
        *hills((120, 164, 110), 92, 24, 60, 0.4),
        floor((156, 180, 96), 84),
        rect((92, 92, 98), LEFT, 94, RIGHT, 122, 1.0),
        *every(30, lambda x, i: [rect((246, 240, 200), x, 106, x + 16, 109, 1.0)]),
        *every(70, lambda x, i: [rect((160, 120, 80), x, 62, x + 3, 92, 0.8),
                                  rect((160, 120, 80), x - 7, 66, x + 10, 68, 0.8)]),
    ],
    "field": [
        *sky((112, 186, 244), (212, 234, 250)),
        *hills((130, 186, 112), 96, 30, 80, 0.4),
        floor((104, 170, 74), 86),
        *every(66, lambda x, i: tree(x + 20, 88, 30, (70, 136, 66), 0.7)),
        *every(13, lambda x, i: [poly((80, 146, 56), 1.0, (x, 124), (x + 2, 114), (x + 4, 124))]),
    ],
    "garden": [
        *sky((130, 196, 244), (224, 240, 246)),
        *hills((84, 150, 84), 84, 22, 34, 0.8),
        *every(12, lambda x, i: [rect((244, 240, 230), x, 70, x + 6, 92, 1.0)]),
        rect((232, 226, 214), LEFT, 76, RIGHT, 80, 1.0),
        floor((120, 182, 88), 90),
        *every(15, lambda x, i: [rect((70, 140, 60), x + 3, 92, x + 5, 102, 1.0),
                                  disc(_BLOOMS[i % 4], x + 4, 91, 5, 5, 1.0)]),
    ],
    "forest": [
        *sky((106, 164, 124), (176, 208, 150)),
        *every(24, lambda x, i: [rect((92, 84, 66), x, 0, x + 7, 92, 0.5)]),
        *hills((66, 122, 70), 8, 26, 24, 0.5),
        *every(46, lambda x, i: [rect((96, 66, 44), x + 12, 0, x + 24, 96, 1.0)]),
        *hills((44, 98, 54), 0, 32, 36, 1.0),
        floor((88, 104, 52), 90),
        *every(21, lambda x, i: [disc((62, 120, 54), x, 92, 9, 7, 1.0)]),
    ],
}  # fmt: skip
