"""Draws the eight places: functions that give the colour at any coordinates.

Only exact operations are used, so that pixels are the same on every machine (see `render.py`).

Shapes  x [F, 1, W], y [F, H, 1] in pixels, t [F, 1, 1] in seconds, float32 -> [F, H, W, 3] in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.small_model.world.words import Place

Array = NDArray[np.floating[Any]]


def rgb(red: int, green: int, blue: int) -> Array:
    """Return a colour of 0..255 as float32 [3] in 0..1."""
    return np.array([red, green, blue], np.float32) / np.float32(255)


def triangle(u: Array) -> Array:
    """Return a triangle wave of period 1 between 0 and 1, which is 0 at whole numbers."""
    return np.asarray(1 - np.abs((u % 1) * 2 - 1))


def _field(x: Array, y: Array, t: Array) -> Array:
    image = _sky(x, y, rgb(120, 185, 240), rgb(205, 230, 250))
    image = _below(image, y - 38 + 9 * triangle(x / 64), rgb(105, 165, 95))
    return _below(image, y - 46 + 3 * triangle(x / 40), rgb(75, 140, 50))


def _sea(x: Array, y: Array, t: Array) -> Array:
    image = _sky(x, y, rgb(110, 180, 235), rgb(225, 235, 245))
    image = _below(image, y - 32, rgb(30, 95, 165))
    waves = (triangle(y / 11 + triangle(x / 48) / 2 - t / 6) * 6 - 4).clip(0, 1) * (y > 32)
    return image + (waves * np.float32(0.25))[..., None]


def _city(x: Array, y: Array, t: Array) -> Array:
    image = _sky(x, y, rgb(130, 140, 175), rgb(205, 190, 185))
    heights = np.array([30, 14, 22, 36, 18, 26, 10, 32], np.float32)
    column = np.floor(x / 20).astype(np.int64) % len(heights)
    walls = y - heights[column]
    image = _below(image, walls, rgb(75, 80, 100))
    window = (triangle(x / 10) * 8 - 4).clip(0, 1) * (triangle(y / 10) * 8 - 4).clip(0, 1)
    image = image + (window * (walls > 3) * (x % 20 > 1))[..., None] * rgb(130, 110, 50)
    return _below(image, y - 52, rgb(50, 50, 56))


def _room(x: Array, y: Array, t: Array) -> Array:
    stripes = (triangle(x / 26) * 10 - 5).clip(0, 1) + 0 * y  # 0 * y broadcasts to [F, H, W]
    image: Array = rgb(222, 205, 170) - stripes[..., None] * rgb(38, 40, 32)
    image = _below(image, y - 44, rgb(105, 70, 45))
    return _below(image, y - 48, rgb(160, 110, 70))


def _desert(x: Array, y: Array, t: Array) -> Array:
    image = _sky(x, y, rgb(150, 205, 235), rgb(250, 225, 185))
    image = _below(image, y - 42 + 12 * triangle(x / 100), rgb(228, 180, 110))
    return _below(image, y - 54 + 10 * triangle(x / 72 + np.float32(0.3)), rgb(196, 140, 78))


def _night(x: Array, y: Array, t: Array) -> Array:
    image = _sky(x, y, rgb(10, 12, 38), rgb(40, 32, 80))
    dx, dy = triangle(x / 18 + triangle(y / 37)) * 9, triangle(y / 14) * 7
    stars = (3 - np.sqrt((dx - 9) ** 2 + (dy - 7) ** 2)).clip(0, 1)
    image = image + (stars * np.float32(0.7))[..., None]
    return _below(image, y - 50 + 4 * triangle(x / 56), rgb(22, 24, 40))


def _forest(x: Array, y: Array, t: Array) -> Array:
    image = _sky(x, y, rgb(90, 150, 105), rgb(150, 195, 140))
    image = _below(image, 4 - np.abs(x % 26 - 13), rgb(88, 60, 40))
    image = _below(image, 12 + 6 * triangle(x / 26) - y, rgb(28, 84, 42))
    return _below(image, y - 50, rgb(60, 80, 36))


def _snow(x: Array, y: Array, t: Array) -> Array:
    image = _sky(x, y, rgb(150, 180, 215), rgb(215, 225, 235))
    peaks = y - 46 + 30 * triangle(x / 72)
    image = _below(image, peaks, rgb(235, 240, 248))
    image = _below(image, peaks - 12, rgb(120, 130, 155))
    return _below(image, y - 46 + 3 * triangle(x / 50), rgb(238, 242, 248))


def _sky(x: Array, y: Array, top: Array, low: Array) -> Array:
    """Return a gradient from one colour at the top to another at row 48 [F, H, W, 3]."""
    share = (y / 48).clip(0, 1) + 0 * x  # 0 * x broadcasts to [F, H, W]
    return np.asarray(top + share[..., None] * (low - top))


def _below(image: Array, distance: Array, paint: Array) -> Array:
    """Return the image with paint where the distance in pixels is positive.

    The distance [F, H, W] (or 1 along H or W) is 0 at the edge, which one soft pixel smooths.
    """
    alpha = (distance + np.float32(0.5)).clip(0, 1)[..., None]
    return np.asarray(image + alpha * (paint - image))


BACKGROUNDS: dict[Place, Callable[[Array, Array, Array], Array]] = {
    "field": _field,
    "sea": _sea,
    "city": _city,
    "room": _room,
    "desert": _desert,
    "night": _night,
    "forest": _forest,
    "snow": _snow,
}
