"""Patches that places consist of: flat shapes in layers, which a pan moves by their depth.

Coordinates are pixels of a frame of 128 x 128.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from harness.small_model.scenes.parts import RGB, Outline

LEFT, RIGHT = -110, 240  # wide enough for a pan of 64 pixels and a shift of 32
GROUND_Y = 88  # where floors and meadows begin


@dataclass(frozen=True)
class Patch:
    """A flat shape [P, 2].

    depth: share of the camera's pan that moves it; 0 for the sky, 1 for the ground.
    """

    outline: Outline
    paint: RGB
    depth: float


def rect(paint: RGB, x0: float, y0: float, x1: float, y1: float, depth: float) -> Patch:
    """Return an upright rectangle between two corners."""
    return Patch(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float), paint, depth)


def poly(paint: RGB, depth: float, *points: tuple[float, float]) -> Patch:
    """Return a polygon."""
    return Patch(np.array(points, float), paint, depth)


def disc(paint: RGB, x: float, y: float, rx: float, ry: float, depth: float) -> Patch:
    """Return an ellipse about x, y."""
    a = np.arange(14) * (2 * np.pi / 14)
    return Patch(np.stack([x + rx * np.cos(a), y + ry * np.sin(a)], 1), paint, depth)


def sky(top: RGB, low: RGB, bottom: float = GROUND_Y + 14) -> list[Patch]:
    """Return a sky of six bands from top to bottom."""
    ends = np.linspace(0, bottom, 7)
    # Bands overlap by a pixel, so that rounding leaves no gap between them.
    return [
        rect(mix(top, low, i / 5), LEFT, ends[i], RIGHT, ends[i + 1] + 1, 0.0) for i in range(6)
    ]


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """Return a colour between two; share: of the second."""
    red, green, blue = (round(p + share * (q - p)) for p, q in zip(a, b, strict=True))
    return red, green, blue


def every(step: float, make: Callable[[float, int], Iterable[Patch]]) -> list[Patch]:
    """Repeat patches across the layer: `make(x, i)` at every `step` pixels."""
    # From far outside, so that a pan or a shift never shows the end of a place.
    columns = np.arange(LEFT, RIGHT, step)
    return [patch for i, x in enumerate(columns) for patch in make(float(x), i)]


def hills(paint: RGB, base: float, high: float, step: float, depth: float) -> list[Patch]:
    """Return round hills side by side."""
    return every(
        step,
        lambda x, i: [disc(paint, x, base, step * 0.75, high * (0.8 + 0.2 * (i % 2)), depth)],
    )


def floor(paint: RGB, y: float = GROUND_Y) -> Patch:
    """Return the ground, from y downwards."""
    return rect(paint, LEFT, y, RIGHT, 130, 1.0)
