"""Figures of lifeless things: vehicles, household things, plants, and things in the sky."""

from __future__ import annotations

import numpy as np

from harness.small_model.scenes.parts import (
    BODY,
    DARK,
    GLASS,
    GOLD,
    INK,
    LEAF,
    LIGHT,
    MARK,
    STEEL,
    WHITE,
    WOOD,
    Joint,
    Part,
    limb,
    oval,
    rect,
    shape,
)

Figure = tuple[Part, ...]


def _wheel(x: float, radius: float) -> Figure:
    """Return a tyre, its rim and a spoke, which shows that the wheel turns."""
    roll = Joint(x, -radius, "roll", 1.0)
    return (
        oval(INK, x, -radius, radius, radius),
        oval(STEEL, x, -radius, radius * 0.6, radius * 0.6),
        limb(INK, (x - radius * 0.7, -radius), (x + radius * 0.7, -radius), radius * 0.3, roll),
    )


def _star_points(count: int, inner: float, radius: float, y: float) -> list[tuple[float, float]]:
    """Return the corners of a star about (0, y)."""
    angles = np.arange(2 * count) * np.pi / count - np.pi / 2
    radii = np.where(np.arange(2 * count) % 2, inner, radius)
    return [(float(r * np.cos(a)), float(y + r * np.sin(a)))
            for r, a in zip(radii, angles, strict=True)]  # fmt: skip


def _flower() -> Figure:
    petals = [2 * np.pi * i / 6 for i in range(6)]
    bow = Joint(0, 0, "nod", 0.3)
    return (
        limb(LEAF, (0, 0), (0, -0.6), 0.07, bow),
        oval(LEAF, 0.15, -0.26, 0.16, 0.07, bow),
        *(oval(BODY, 0.2 * np.cos(a), -0.72 + 0.2 * np.sin(a), 0.14, 0.14, bow) for a in petals),
        oval(MARK, 0, -0.72, 0.14, 0.14, bow),
    )


FIGURES: dict[str, Figure] = {
    "car": (
        shape(BODY, (-0.8, -0.14), (-0.8, -0.46), (-0.46, -0.5), (-0.26, -0.84), (0.3, -0.84),
              (0.5, -0.5), (0.84, -0.42), (0.84, -0.14)),
        shape(GLASS, (-0.32, -0.5), (-0.2, -0.76), (0.0, -0.76), (0.0, -0.5)),
        shape(GLASS, (0.06, -0.5), (0.06, -0.76), (0.25, -0.76), (0.38, -0.5)),
        rect(MARK, -0.76, -0.4, 0.78, -0.28),
        # Wheels come last, so that they hide the lower edge of the body.
        *_wheel(-0.48, 0.19), *_wheel(0.48, 0.19),
    ),
    "truck": (
        rect(BODY, -0.86, -1.0, 0.34, -0.2),
        shape(DARK, (0.38, -0.2), (0.38, -0.76), (0.66, -0.76), (0.86, -0.46), (0.86, -0.2)),
        shape(GLASS, (0.46, -0.46), (0.46, -0.68), (0.62, -0.68), (0.76, -0.46)),
        rect(MARK, -0.76, -0.78, 0.24, -0.5),
        *_wheel(-0.56, 0.18), *_wheel(0.56, 0.18),
    ),
    "train": (
        rect(DARK, -0.3, -0.78, 0.7, -0.26),
        rect(BODY, -0.86, -1.0, -0.26, -0.2),
        rect(GLASS, -0.72, -0.86, -0.42, -0.6),
        rect(INK, 0.42, -1.04, 0.6, -0.76),
        rect(MARK, -0.2, -0.6, 0.64, -0.44),
        shape(STEEL, (0.7, -0.3), (0.94, -0.1), (0.7, -0.1)),
        *_wheel(-0.58, 0.17), *_wheel(-0.02, 0.15), *_wheel(0.42, 0.15),
    ),
    "bicycle": (
        *_wheel(-0.46, 0.3), *_wheel(0.46, 0.3),
        limb(BODY, (-0.46, -0.3), (-0.1, -0.7), 0.09), limb(BODY, (-0.1, -0.7), (0.34, -0.7), 0.09),
        limb(BODY, (0.34, -0.84), (0.46, -0.3), 0.09),
        limb(BODY, (-0.12, -0.3), (0.34, -0.7), 0.09),
        limb(BODY, (-0.46, -0.3), (-0.12, -0.3), 0.09),
        oval(MARK, -0.12, -0.78, 0.19, 0.08), limb(INK, (0.22, -0.88), (0.46, -0.86), 0.07),
    ),
    "boat": (
        limb(WOOD, (0, -0.2), (0, -1.06), 0.06),
        shape(WHITE, (0.05, -1.02), (0.6, -0.36), (0.05, -0.36)),
        shape(MARK, (-0.05, -0.94), (-0.46, -0.36), (-0.05, -0.36)),
        shape(BODY, (-0.84, -0.3), (0.88, -0.3), (0.6, 0), (-0.6, 0)),
        rect(DARK, -0.82, -0.3, 0.86, -0.24),
    ),
    "plane": (
        shape(DARK, (-0.8, -0.46), (-1.0, -0.9), (-0.76, -0.9), (-0.5, -0.46)),
        oval(BODY, 0, -0.38, 0.96, 0.19),
        *(oval(GLASS, x, -0.44, 0.06, 0.06) for x in (-0.3, -0.05, 0.2, 0.62)),
        shape(LIGHT, (-0.14, -0.36), (0.26, -0.36), (-0.3, 0.06), (-0.5, 0.06)),
        rect(MARK, -0.66, -0.5, -0.46, -0.26),
    ),
    "rocket": (
        shape((250, 150, 40), (-0.12, -0.14), (0.12, -0.14), (0, 0.16),
              joint=Joint(0, -0.14, "flap", 0.25)),
        shape(DARK, (-0.18, -0.4), (-0.36, -0.06), (0.36, -0.06), (0.18, -0.4)),
        shape(BODY, (-0.18, -0.1), (-0.2, -0.64), (0, -1.12), (0.2, -0.64), (0.18, -0.1)),
        oval(GLASS, 0, -0.66, 0.1, 0.1),
        rect(MARK, -0.19, -0.46, 0.19, -0.32),
    ),
    "balloon": (
        limb(INK, (-0.1, -0.16), (-0.22, -0.44), 0.03),
        limb(INK, (0.1, -0.16), (0.22, -0.44), 0.03),
        rect(WOOD, -0.13, -0.18, 0.13, 0),
        oval(BODY, 0, -0.72, 0.38, 0.36),
        oval(MARK, 0, -0.72, 0.15, 0.35),
    ),
    "ball": (
        oval(BODY, 0, -0.36, 0.36, 0.36),
        # The mark is a stripe, which shows that the ball rolls.
        limb(MARK, (-0.35, -0.36), (0.35, -0.36), 0.2, Joint(0, -0.36, "roll", 1.0)),
        oval(LIGHT, -0.12, -0.52, 0.08, 0.07),
    ),
    "book": (
        shape(BODY, (-0.6, -0.06), (-0.6, -0.7), (0, -0.6), (0.6, -0.7), (0.6, -0.06), (0, 0.04)),
        shape(WHITE, (-0.52, -0.12), (-0.52, -0.78), (-0.02, -0.64), (-0.02, -0.04)),
        # The right page turns about the spine.
        shape(WHITE, (0.02, -0.04), (0.02, -0.64), (0.52, -0.78), (0.52, -0.12),
              joint=Joint(0.02, -0.04, "nod", -0.7)),
        rect(MARK, -0.42, -0.56, -0.14, -0.3),
    ),
    "box": (
        rect(BODY, -0.46, -0.7, 0.46, 0),
        # The lid opens about its left edge.
        shape(LIGHT, (-0.5, -0.7), (0.5, -0.7), (0.5, -0.84), (-0.5, -0.84),
              joint=Joint(-0.5, -0.7, "nod", -0.9)),
        rect(MARK, -0.12, -0.7, 0.12, 0),
    ),
    "table": (
        limb(DARK, (-0.6, -0.6), (-0.6, 0), 0.13), limb(DARK, (0.6, -0.6), (0.6, 0), 0.13),
        rect(MARK, -0.4, -0.58, 0.4, -0.42),
        rect(BODY, -0.84, -0.72, 0.84, -0.56),
    ),
    "chair": (
        limb(DARK, (-0.3, -0.46), (-0.34, 0), 0.1), limb(DARK, (0.3, -0.46), (0.34, 0), 0.1),
        rect(BODY, -0.4, -1.0, -0.26, -0.4),
        rect(MARK, -0.26, -0.92, -0.16, -0.56),
        rect(BODY, -0.4, -0.54, 0.4, -0.4),
    ),
    "lamp": (
        rect(STEEL, -0.26, -0.08, 0.26, 0), limb(STEEL, (0, -0.05), (0, -0.6), 0.08),
        shape(BODY, (-0.2, -0.98), (0.2, -0.98), (0.42, -0.52), (-0.42, -0.52)),
        rect(MARK, -0.36, -0.66, 0.36, -0.56),
        oval(GOLD, 0, -0.5, 0.13, 0.07),
    ),
    "candle": (
        rect(DARK, -0.28, -0.08, 0.28, 0),
        rect(BODY, -0.14, -0.64, 0.14, -0.06),
        rect(MARK, -0.14, -0.36, 0.14, -0.22),
        shape((250, 150, 40), (-0.1, -0.7), (0, -1.08), (0.1, -0.7), (0, -0.62),
              joint=Joint(0, -0.64, "flap", 0.25)),
        oval(GOLD, 0, -0.74, 0.05, 0.08),
    ),
    "cup": (
        oval(DARK, 0.4, -0.36, 0.2, 0.2),
        shape(BODY, (-0.38, -0.72), (0.38, -0.72), (0.28, 0), (-0.28, 0)),
        rect(MARK, -0.33, -0.46, 0.33, -0.28),
        oval((90, 56, 36), 0, -0.72, 0.36, 0.08),
    ),
    "bottle": (
        rect(DARK, -0.1, -1.04, 0.1, -0.94),
        shape(BODY, (-0.08, -0.96), (0.08, -0.96), (0.08, -0.72), (0.22, -0.58), (0.22, 0),
              (-0.22, 0), (-0.22, -0.58), (-0.08, -0.72)),
        rect(MARK, -0.22, -0.46, 0.22, -0.18),
        limb(LIGHT, (-0.13, -0.56), (-0.13, -0.06), 0.05),
    ),
    "bowl": (
        oval((240, 200, 110), 0, -0.44, 0.5, 0.2),
        shape(BODY, (-0.6, -0.44), (0.6, -0.44), (0.42, -0.1), (0.2, 0), (-0.2, 0), (-0.42, -0.1)),
        rect(MARK, -0.52, -0.34, 0.52, -0.24),
    ),
    "clock": (
        oval(BODY, 0, -0.5, 0.46, 0.46), oval(WHITE, 0, -0.5, 0.37, 0.37),
        oval(MARK, 0, -0.5, 0.13, 0.13),
        limb(INK, (0, -0.5), (0, -0.8), 0.06, Joint(0, -0.5, "tick", 1.0)),
        limb(INK, (0, -0.5), (0.2, -0.5), 0.07),
    ),
    "umbrella": (
        limb(WOOD, (0, 0), (0, -0.8), 0.06),
        shape(BODY, (-0.6, -0.6), (-0.42, -0.86), (0, -1.02), (0.42, -0.86), (0.6, -0.6)),
        shape(MARK, (-0.2, -0.6), (-0.1, -0.9), (0, -1.02), (0.1, -0.9), (0.2, -0.6)),
    ),
    "bag": (
        oval(DARK, 0, -0.72, 0.24, 0.24),
        shape(BODY, (-0.36, -0.72), (0.36, -0.72), (0.46, 0), (-0.46, 0)),
        oval(MARK, 0, -0.36, 0.2, 0.18),
    ),
    "screen": (
        rect(STEEL, -0.3, -0.08, 0.3, 0), rect(STEEL, -0.07, -0.26, 0.07, -0.04),
        rect(BODY, -0.6, -0.98, 0.6, -0.22), rect(GLASS, -0.5, -0.88, 0.5, -0.32),
        rect(MARK, -0.2, -0.74, 0.2, -0.46),
    ),
    "guitar": (
        limb(WOOD, (0, -0.5), (0, -1.04), 0.1), rect(INK, -0.08, -1.1, 0.08, -0.98),
        oval(BODY, 0, -0.2, 0.28, 0.2), oval(BODY, 0, -0.48, 0.2, 0.16),
        oval(INK, 0, -0.36, 0.09, 0.09), rect(MARK, -0.16, -0.2, 0.16, -0.1),
    ),
    "hat": (
        oval(DARK, 0, -0.12, 0.62, 0.12),
        shape(BODY, (-0.34, -0.1), (-0.28, -0.66), (0.28, -0.66), (0.34, -0.1)),
        rect(MARK, -0.33, -0.3, 0.33, -0.16),
    ),
    "cake": (
        rect(BODY, -0.5, -0.46, 0.5, 0), rect(WHITE, -0.5, -0.56, 0.5, -0.4),
        rect(MARK, -0.5, -0.26, 0.5, -0.14), limb(GOLD, (0, -0.54), (0, -0.84), 0.08),
        oval((250, 150, 40), 0, -0.92, 0.06, 0.1),
    ),
    "fruit": (
        limb(WOOD, (0, -0.66), (0.05, -0.92), 0.06), oval(LEAF, 0.17, -0.86, 0.15, 0.07),
        oval(BODY, -0.12, -0.36, 0.3, 0.36), oval(BODY, 0.12, -0.36, 0.3, 0.36),
        oval(MARK, 0.02, -0.32, 0.14, 0.13),
    ),
    "pencil": (
        shape(BODY, (-0.1, -0.24), (0.1, -0.24), (0.1, -0.9), (-0.1, -0.9)),
        shape((240, 205, 160), (-0.1, -0.24), (0.1, -0.24), (0, 0)),
        rect(MARK, -0.11, -1.04, 0.11, -0.84), oval(INK, 0, -0.04, 0.03, 0.05),
    ),
    "door": (
        rect(DARK, -0.4, -1.06, 0.4, 0), rect(INK, -0.32, -0.98, 0.32, 0),
        rect(BODY, -0.32, -0.98, 0.32, 0), rect(MARK, -0.18, -0.84, 0.18, -0.56),
        oval(GOLD, 0.22, -0.44, 0.05, 0.05),
    ),
    "tree": (
        rect(WOOD, -0.1, -0.46, 0.1, 0),
        oval(BODY, -0.2, -0.56, 0.3, 0.24), oval(BODY, 0.22, -0.58, 0.28, 0.24),
        oval(BODY, 0, -0.82, 0.32, 0.28), oval(MARK, 0.04, -0.64, 0.13, 0.12),
    ),
    "flower": _flower(),
    "leaf": (
        shape(BODY, (-0.5, -0.36), (-0.2, -0.66), (0.24, -0.66), (0.56, -0.36), (0.24, -0.1),
              (-0.2, -0.1)),
        limb(DARK, (-0.74, -0.3), (0.5, -0.36), 0.06), oval(MARK, 0.06, -0.36, 0.15, 0.13),
    ),
    "rock": (
        shape(BODY, (-0.6, 0), (-0.5, -0.4), (-0.16, -0.66), (0.24, -0.6), (0.54, -0.3), (0.6, 0)),
        shape(DARK, (0.1, 0), (0.24, -0.6), (0.54, -0.3), (0.6, 0)),
        oval(MARK, -0.16, -0.28, 0.17, 0.14),
    ),
    "star": (shape(BODY, *_star_points(5, 0.22, 0.52, -0.5)), oval(MARK, 0, -0.5, 0.15, 0.15)),
    "cloud": (
        oval(BODY, -0.44, -0.3, 0.34, 0.26), oval(BODY, 0.44, -0.3, 0.34, 0.26),
        oval(BODY, 0, -0.46, 0.44, 0.36), rect(LIGHT, -0.5, -0.16, 0.5, -0.04),
        oval(MARK, 0, -0.4, 0.17, 0.14),
    ),
    "bubble": (
        oval(BODY, 0, -0.44, 0.42, 0.42), oval(WHITE, 0, -0.44, 0.34, 0.34),
        oval(MARK, 0, -0.44, 0.17, 0.17), oval(LIGHT, -0.17, -0.62, 0.07, 0.07),
    ),
    "fire": (
        limb(WOOD, (-0.44, -0.02), (0.44, -0.14), 0.13),
        limb(WOOD, (-0.44, -0.14), (0.44, -0.02), 0.13),
        shape(BODY, (-0.36, -0.14), (-0.3, -0.6), (-0.12, -0.44), (0, -1.06), (0.16, -0.46),
              (0.32, -0.66), (0.36, -0.14), joint=Joint(0, -0.14, "flap", 0.12)),
        # The inner flame leans against the outer one, so that the fire flickers.
        shape(MARK, (-0.17, -0.14), (-0.08, -0.44), (0.02, -0.58), (0.17, -0.14),
              joint=Joint(0, -0.14, "flap", -0.15)),
    ),
    "house": (
        rect(BODY, -0.5, -0.58, 0.5, 0),
        shape(DARK, (-0.62, -0.56), (0, -1.06), (0.62, -0.56)),
        rect(GLASS, -0.38, -0.44, -0.12, -0.2), rect(MARK, 0.06, -0.42, 0.34, 0),
    ),
    "kite": (
        # Only the tail moves by itself.
        limb(INK, (0, -0.3), (-0.4, 0.1), 0.03, Joint(0, -0.3, "flap", 0.3)),
        shape(BODY, (0, -1.04), (0.4, -0.68), (0, -0.26), (-0.4, -0.68)),
        shape(MARK, (0, -1.04), (0.4, -0.68), (0, -0.68)),
    ),
}  # fmt: skip
