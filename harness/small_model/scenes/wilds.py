"""Places of water, stone, sand and air."""

from __future__ import annotations

from harness.small_model.scenes.countryside import tree
from harness.small_model.scenes.patches import (
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

# Each place is a list of patches, back to front.
PLACES: dict[str, list[Patch]] = {
    "river": [
        *sky((126, 192, 240), (220, 236, 244)),
        *hills((94, 150, 98), 84, 26, 54, 0.4),
        rect((120, 164, 86), LEFT, 76, RIGHT, 90, 0.8),
        *every(52, lambda x, i: tree(x, 82, 32, (60, 126, 70), 0.8)),
        floor((78, 150, 200), 88),
        *every(36, lambda x, i: [rect((150, 200, 230), x, 96, x + 18, 98, 1.0),
                                  rect((150, 200, 230), x + 16, 110, x + 32, 112, 1.0)]),
        rect((146, 172, 92), LEFT, 122, RIGHT, 130, 1.0),
    ],
    "beach": [
        *sky((104, 190, 244), (226, 240, 246), 70),
        rect((54, 150, 200), LEFT, 62, RIGHT, 92, 0.5),
        *every(44, lambda x, i: [rect((226, 240, 246), x, 84, x + 26, 86, 0.7)]),
        floor((242, 216, 158)),
        *every(96, lambda x, i: [
            poly((130, 92, 58), 1.0, (x + 20, 92), (x + 26, 92), (x + 34, 40), (x + 30, 40)),
            *(poly((60, 150, 80), 1.0, (x + 32, 40), (x + 32 + dx, 32 + dy),
                    (x + 32 + dx, 40 + dy))
              for dx, dy in ((-24, 2), (-18, 16), (24, 2), (18, 16))),
        ]),
    ],
    "sea": [
        *sky((118, 186, 240), (230, 238, 246), 74),
        # The water reaches down to the lower edge: there is no ground, so `floor` is not used.
        rect((36, 108, 174), LEFT, 66, RIGHT, 130, 0.5),
        *(
            patch
            # Waves get longer and move faster with a pan towards the front.
            for y, step, depth in ((72, 30, 0.5), (84, 40, 0.7), (98, 52, 0.9), (114, 64, 1.0))
            for patch in every(
                step,
                # Defaults bind the values of this turn; a closure would see those of the last one.
                lambda x, i, y=y, step=step, depth=depth: [  # type: ignore[misc]
                    poly((96, 164, 214), depth, (x, y + 3), (x + step * 0.3, y),
                          (x + step * 0.6, y + 3), (x + step * 0.3, y + 4)),
                ],
            )
        ),
    ],
    "underwater": [
        *sky((60, 170, 200), (16, 70, 120), 112),
        *hills((40, 92, 118), 116, 26, 60, 0.4),
        floor((198, 180, 130), 108),
        *every(34, lambda x, i: [
            poly((44, 140, 90), 1.0, (x, 116), (x + 6, 116), (x + 9, 84 + 10 * (i % 2)),
                  (x + 3, 96)),
            poly((230, 110, 110), 1.0, (x + 16, 116), (x + 13, 100), (x + 18, 106), (x + 23, 98),
                  (x + 22, 116)),
        ]),
    ],
    "mountain": [
        *sky((122, 170, 226), (226, 232, 240)),
        *every(74, lambda x, i: [
            poly((116, 124, 148), 0.4, (x, 92), (x + 46, 22 + 14 * (i % 2)), (x + 92, 92)),
            poly((244, 246, 250), 0.4, (x + 33, 42 + 14 * (i % 2)), (x + 46, 22 + 14 * (i % 2)),
                  (x + 59, 42 + 14 * (i % 2)), (x + 46, 38 + 14 * (i % 2))),
        ]),
        floor((120, 140, 96)),
        *every(40, lambda x, i: [poly((130, 128, 122), 1.0, (x, 96), (x + 5, 88), (x + 14, 90),
                                        (x + 17, 96))]),
    ],
    "snow": [
        *sky((168, 196, 226), (228, 234, 242)),
        *hills((214, 224, 238), 96, 26, 70, 0.4),
        floor((240, 244, 250), 88),
        *every(44, lambda x, i: [
            poly((44, 92, 80), 0.8, (x, 92), (x + 10, 56), (x + 20, 92)),
            poly((236, 242, 248), 0.8, (x + 5, 74), (x + 10, 56), (x + 15, 74)),
        ]),
    ],
    "desert": [
        *sky((136, 196, 232), (250, 226, 188)),
        *hills((222, 172, 104), 98, 26, 90, 0.4),
        floor((236, 194, 124)),
        *every(
            76,
            lambda x, i: [
                rect((86, 140, 84), x + 20, 56, x + 27, 94, 0.9),
                rect((86, 140, 84), x + 10, 66, x + 15, 78, 0.9),
                rect((86, 140, 84), x + 10, 74, x + 22, 78, 0.9),
            ],
        ),
        *every(
            48, lambda x, i: [poly((214, 168, 100), 1.0, (x, 116), (x + 20, 110), (x + 40, 116))]
        ),
    ],
    "sky": [
        *sky((70, 150, 230), (190, 224, 248), 130),
        *every(66, lambda x, i: [
            disc((250, 252, 254), x, 40 + 44 * (i % 2), 20, 8, 0.6),
            disc((250, 252, 254), x + 12, 34 + 44 * (i % 2), 13, 9, 0.6),
        ]),
        *hills((226, 238, 250), 132, 16, 30, 1.0),
    ],
    "space": [
        *sky((10, 10, 34), (44, 26, 74), 130),
        *every(17, lambda x, i: [
            rect((240, 240, 220), x + 5 * (i % 3), (i * 37) % 100, x + 5 * (i % 3) + 2,
                  (i * 37) % 100 + 2, 0.3),
        ]),
        *every(120, lambda x, i: [disc((198, 120, 90), x + 30, 50, 15, 15, 0.4),
                                   disc((220, 150, 116), x + 26, 46, 7, 5, 0.4)]),
        *hills((104, 104, 122), 130, 26, 70, 1.0),
    ],
}  # fmt: skip
