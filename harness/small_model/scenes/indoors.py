"""Places under a roof."""

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
    mix,
    poly,
    rect,
)


def _inside(wall: RGB, boards: RGB, stripe: RGB, step: float) -> list[Patch]:
    """Return a papered wall over a floor with a skirting board."""
    return [
        rect(wall, LEFT, 0, RIGHT, GROUND_Y, 1.0),
        *every(step, lambda x, i: [rect(stripe, x, 0, x + step * 0.3, GROUND_Y, 1.0)]),
        floor(boards),
        # A wall has depth 1, like the floor: both move alike when the camera pans.
        rect(mix(boards, (0, 0, 0), 0.35), LEFT, GROUND_Y - 3, RIGHT, GROUND_Y, 1.0),
    ]


def _window(x: float, y: float) -> list[Patch]:
    """Return a window with a white frame, its pane 24 by 28 pixels with the corner at x, y."""
    return [
        rect((245, 240, 228), x - 2, y - 2, x + 26, y + 30, 1.0),
        rect((150, 205, 245), x, y, x + 24, y + 28, 1.0),
        rect((245, 240, 228), x + 11, y, x + 13, y + 28, 1.0),
    ]


def _shelf(x: float, y: float, paints: tuple[RGB, ...], tall: float) -> list[Patch]:
    """Return a board with upright things on it."""
    row = [
        rect(p, x + 6 * i, y - tall + 3 * (i % 3), x + 6 * i + 5, y, 1.0)
        for i, p in enumerate(paints)
    ]
    return [*row, rect((120, 80, 50), x - 2, y, x + 6 * len(paints) + 1, y + 3, 1.0)]


_BOOKS: tuple[RGB, ...] = ((170, 60, 60), (70, 110, 160), (210, 170, 80), (80, 130, 90)) * 2
_JARS: tuple[RGB, ...] = ((240, 180, 90), (200, 90, 80), (150, 190, 110)) * 2
_GOODS: tuple[RGB, ...] = ((235, 120, 60), (240, 210, 80), (120, 180, 90), (220, 90, 110)) * 2


# Each place is a list of patches, back to front.
PLACES: dict[str, list[Patch]] = {
    "room": [
        *_inside((226, 206, 170), (165, 118, 78), (214, 190, 150), 14),
        *every(92, lambda x, i: _window(x + 10, 26)),
        *every(92, lambda x, i: [
            rect((130, 90, 140), x + 46, 66, x + 84, 86, 1.0),
            rect((150, 108, 162), x + 42, 76, x + 88, 92, 1.0),
            rect((110, 75, 45), x + 54, 34, x + 74, 50, 1.0),
            rect((190, 215, 200), x + 56, 36, x + 72, 48, 1.0),
        ]),
    ],
    "kitchen": [
        rect((214, 232, 226), LEFT, 0, RIGHT, GROUND_Y, 1.0),
        *every(12, lambda x, i: [rect((190, 212, 206), x, 0, x + 1, GROUND_Y, 1.0)]),
        *(rect((190, 212, 206), LEFT, y, RIGHT, y + 1, 1.0) for y in (14, 28, 42, 56, 70)),
        floor((196, 176, 150)),
        *every(24, lambda x, i: [rect((176, 156, 130), x, GROUND_Y, x + 12, 130, 1.0)]),
        *every(96, lambda x, i: [
            rect((238, 238, 234), x, 60, x + 60, 92, 1.0),
            rect((120, 84, 60), x - 2, 57, x + 62, 61, 1.0),
            rect((200, 200, 196), x + 29, 62, x + 31, 92, 1.0),
            rect((205, 208, 212), x + 64, 24, x + 88, 92, 1.0),
            rect((150, 154, 160), x + 64, 50, x + 88, 52, 1.0),
            *_shelf(x + 8, 36, _JARS, 12),
        ]),
    ],
    "study": [
        *_inside((120, 98, 82), (104, 70, 48), (110, 88, 74), 20),
        *every(100, lambda x, i: [
            *(p for y in (30, 52, 74) for p in _shelf(x, y, _BOOKS, 17)),
            rect((96, 62, 40), x + 54, 66, x + 94, 70, 1.0),
            rect((80, 52, 34), x + 57, 70, x + 61, 94, 1.0),
            rect((80, 52, 34), x + 87, 70, x + 91, 94, 1.0),
            *_window(x + 62, 18),
        ]),
    ],
    "hall": [
        rect((92, 42, 62), LEFT, 0, RIGHT, GROUND_Y, 1.0),
        *every(50, lambda x, i: [
            rect((224, 212, 190), x, 8, x + 12, GROUND_Y, 1.0),
            rect((240, 230, 210), x - 3, 6, x + 15, 12, 1.0),
            rect((214, 174, 92), x + 21, 28, x + 41, 56, 1.0),
            rect(((80, 120, 140), (150, 90, 80))[i % 2], x + 23, 30, x + 39, 54, 1.0),
        ]),
        floor((190, 160, 110)),
        *every(20, lambda x, i: [rect((170, 138, 92), x, GROUND_Y, x + 10, 130, 1.0)]),
    ],
    "shop": [
        rect((246, 226, 184), LEFT, 0, RIGHT, GROUND_Y, 1.0),
        *every(56, lambda x, i: [p for y in (38, 60) for p in _shelf(x, y, _GOODS, 14)]),
        *every(16, lambda x, i: [
            poly(((214, 70, 70), (250, 246, 236))[i % 2], 1.0, (x, 0), (x + 16, 0), (x + 16, 16),
                  (x + 8, 22), (x, 16)),
        ]),
        floor((176, 150, 126)),
        *every(70, lambda x, i: [
            rect((150, 104, 66), x, 70, x + 52, 94, 1.0),
            *(disc(((230, 80, 60), (250, 190, 60))[k % 2], x + 6 + 8 * k, 69, 4, 4, 1.0)
              for k in range(6)),
        ]),
    ],
    "cave": [
        rect((58, 50, 60), LEFT, 0, RIGHT, 130, 0.4),
        *hills((84, 74, 86), 98, 40, 50, 0.6),
        *every(26, lambda x, i: [
            poly((40, 34, 44), 1.0, (x, 0), (x + 18, 0), (x + 9, 24 + 16 * (i % 2))),
        ]),
        floor((96, 84, 80), 92),
        *every(56, lambda x, i: [poly((120, 190, 210), 1.0, (x, 94), (x + 4, 78), (x + 8, 94))]),
    ],
}  # fmt: skip
