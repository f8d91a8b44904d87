"""Parts that figures consist of: outlines in units of the figure's height, and their joints.

A figure faces right. Its feet are at y = 0 and its head near y = -1; x = 0 is its middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.float64]

# A part is painted with the thing's colour, a shade of it, the mark's colour, or a fixed colour.
# Every figure has a part with the colour of the mark.
RGB = tuple[int, int, int]
# Words, because one outline serves all colours of a kind.
BODY, DARK, LIGHT, MARK = "body", "dark", "light", "mark"
Paint = str | RGB

SKIN: RGB = (236, 188, 150)
INK: RGB = (34, 30, 38)
WHITE: RGB = (250, 250, 250)
STEEL: RGB = (150, 158, 170)
WOOD: RGB = (150, 100, 60)
GOLD: RGB = (250, 205, 70)
LEAF: RGB = (70, 150, 70)
GLASS: RGB = (175, 220, 240)


@dataclass(frozen=True)
class Joint:
    """Turns a part about a point by `by` radians times a drive of the pose.

    drive: `leg` and `arm` swing with the gait, `reach` lifts, `nod` bows, `flap` always beats,
        `roll` turns with the distance moved, `tick` turns once per clip.
    """

    x: float
    y: float
    drive: str
    by: float


# A figure is a tuple of parts from back to front: a part hides those before it.
@dataclass(frozen=True)
class Part:
    """A filled outline [P, 2] and its paint; joint: None if it moves only with the figure."""

    outline: Outline
    paint: Paint
    joint: Joint | None = None


def oval(
    paint: Paint, x: float, y: float, rx: float, ry: float, joint: Joint | None = None
) -> Part:
    """Return an ellipse about x, y."""
    # Sixteen corners look round at these sizes. Everything is a polygon, which `render` rounds
    # alike on every machine.
    angles = np.arange(16) * (2 * np.pi / 16)
    return Part(np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], 1), paint, joint)


def limb(
    paint: Paint,
    start: tuple[float, float],
    end: tuple[float, float],
    width: float,
    joint: Joint | None = None,
) -> Part:
    """Return a bar from start to end, a little narrower at its end."""
    a, b = np.array(start, float), np.array(end, float)
    # Half the width, at a right angle to the bar; 1e-9 keeps a bar of no length finite.
    side = np.array([a[1] - b[1], b[0] - a[0]]) / max(1e-9, float(np.hypot(*(b - a)))) * width / 2
    return Part(np.stack([a + side, b + 0.8 * side, b - 0.8 * side, a - side]), paint, joint)


def shape(paint: Paint, *points: tuple[float, float], joint: Joint | None = None) -> Part:
    """Return a polygon."""
    return Part(np.array(points, float), paint, joint)


def rect(
    paint: Paint, x0: float, y0: float, x1: float, y1: float, joint: Joint | None = None
) -> Part:
    """Return an upright rectangle between two corners."""
    return shape(paint, (x0, y0), (x1, y0), (x1, y1), (x0, y1), joint=joint)
