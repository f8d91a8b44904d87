"""Renders scenes as pixels: signed distances of simple shapes over structured backgrounds.

Arrays of pixels see only +, -, *, /, square roots and comparisons, in float32: IEEE 754 defines
their last bit, so a clip is bit-identical on every machine. Sines, whose last bit differs between
machines, are taken of a few times in float64 and then rounded to float32.

A stage of 128 x 64 pixels holds places and things. The camera sees all of it at rest and a part of
it when it zooms.

Shapes  X, Y: coordinates of pixels [F, H, W] float32, in pixels of the frame; colours 0..1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.small_model.world.backgrounds import BACKGROUNDS, Array, rgb, triangle
from harness.small_model.world.scene import EVENTS_S, Scene, Thing
from harness.small_model.world.words import Shape, Texture

HEIGHT, WIDTH = 64, 128
LENGTH_S = 10.5  # the sun crosses the sky in this time, the light changes and things grow

Times = NDArray[np.float64]

COLOURS = {
    "red": rgb(220, 30, 35),
    "orange": rgb(245, 135, 20),
    "yellow": rgb(250, 220, 40),
    "green": rgb(30, 165, 60),
    "blue": rgb(35, 75, 225),
    "purple": rgb(135, 45, 185),
    "pink": rgb(250, 130, 185),
    "white": rgb(248, 248, 248),
    "black": rgb(20, 20, 22),
    "brown": rgb(125, 75, 35),
}
_RADIUS = {"small": 8.0, "medium": 10.5, "large": 13.0}
PILLAR = rgb(118, 108, 112)
ENTRY_S, TURN_S = 0.9, 0.5  # duration of entering and leaving, and of turning to a colour
MARK = 0.42  # radius of the mark in the middle of a thing, in radii of the thing


def render(scene: Scene, hues: Sequence[float], times_s: Times) -> NDArray[np.uint8]:
    """Return frames at times in seconds [F, 64, 128, 3] uint8.

    hues: 0..1, one for the mark of each thing; a thing without one is left out.
    """
    image, xy = backdrop(scene, times_s), view(scene, times_s)
    for thing, hue in zip(scene.things, hues, strict=False):
        draw(image, thing, hue, xy, times_s)
    image *= light(scene, times_s)
    return (image * 255 + np.float32(0.5)).clip(0, 255).astype(np.uint8)


def view(scene: Scene, times_s: Times) -> tuple[Array, Array]:
    """Return the position on the stage of each pixel of a frame: x [F, 1, W] and y [F, H, 1]."""
    # The camera zooms about the middle of the frame, which lies between pixels 63 and 64, and
    # between rows 31 and 32.
    nearer = _f32(zoom(scene, times_s))
    across = (np.arange(WIDTH, dtype=np.float32) - 63.5)[None, None, :]
    down = (np.arange(HEIGHT, dtype=np.float32) - 31.5)[None, :, None]
    return across / nearer + 63.5, down / nearer + 31.5


def backdrop(scene: Scene, times_s: Times) -> Array:
    """Return the place and the sun, without things and light [F, H, W, 3] in 0..1."""
    x, y = view(scene, times_s)
    moved = {"right": 6.0, "left": -6.0}.get(scene.camera, 0.0) * times_s
    image = BACKGROUNDS[scene.place](x + _f32(moved), y, _f32(times_s))
    image = np.broadcast_to(image, (len(times_s), HEIGHT, WIDTH, 3)).copy()
    # The sun, or moon, crosses the sky once per clip. So every moment looks different, and a model
    # can tell how much time has passed. It does not move with the camera.
    way = (times_s / LENGTH_S).clip(0, 1)
    x = np.arange(WIDTH, dtype=np.float32)[None, None, :] - _f32(8 + 112 * way)
    y = np.arange(HEIGHT, dtype=np.float32)[None, :, None] - _f32(14 - 7 * (1 - (2 * way - 1) ** 2))
    paint = rgb(240, 244, 255) if scene.place in ("night", "room") else rgb(255, 244, 150)
    _over(image, np.arange(len(image)), np.sqrt(x * x + y * y) - np.float32(5), paint)
    return image


def place(thing: Thing, times_s: Times) -> tuple[Times, Times, Times]:
    """Return centre x, y and radius of a thing over time, in pixels of the stage, each [F].

    A thing enters from above and leaves upwards.
    """
    x, y, radius = track(thing, times_s)
    if thing.enters:
        since = times_s - EVENTS_S[thing.enters]
        y = y - 60 * (1 - (since / ENTRY_S).clip(0, 1)) ** 2
    if thing.leaves:
        y = y - 70 * ((times_s - EVENTS_S[thing.leaves]) / ENTRY_S).clip(0, 1) ** 2
    return x, y, radius


def track(thing: Thing, times_s: Times) -> tuple[Times, Times, Times]:
    """Return what `place` does, as if the thing neither entered nor left."""
    # Its motion starts when it enters, whenever that is.
    since = times_s - EVENTS_S[thing.enters]
    radius = np.full(len(times_s), _RADIUS[thing.size])
    x = np.full(len(times_s), 20 + 88 * thing.x)  # margins keep a thing at rest inside the frame
    y = np.full(len(times_s), 24 + 16 * thing.y)
    fast = thing.pace == "fast"
    turn = 2 * np.pi * (since / (3.5 if fast else 5.5) + thing.phase)
    match thing.motion:
        case "bounce":
            y = 46 - 26 * np.abs(np.sin(turn / 2))
        case "swing" | "hide":
            x = x + (22 if thing.motion == "swing" else 26) * np.sin(turn)
        case "orbit":
            x, y = x + 16 * np.cos(turn), 32 + 14 * np.sin(turn)
        case "roll":
            # It leaves the frame to the right and comes back from the left: 190 is the width of
            # the frame and 62 pixels out of sight.
            x = (x + (32 if fast else 22) * since + 16) % 190 - 16
        case "grow" | "shrink":
            part = 0.8 * times_s / LENGTH_S
            radius = radius * (0.6 + part if thing.motion == "grow" else 1.4 - part)
        case "pulse":
            radius = radius * (1 + 0.3 * np.sin(turn))
    return x, y, radius


def present(thing: Thing, times_s: Times) -> NDArray[np.bool_]:
    """Return whether a thing has entered and not yet left [F]; it may be outside the frame."""
    there = times_s >= EVENTS_S[thing.enters]
    if thing.leaves:
        there &= times_s < EVENTS_S[thing.leaves] + ENTRY_S
    return there


def mark_colour(hue: float) -> Array:
    """Return the colour of a mark [3]: the hue 0..1 at full saturation and value."""
    away = np.abs((hue * 6 + np.array([0.0, 4, 2])) % 6 - 3)
    return np.asarray((away - 1).clip(0, 1), np.float32)


def draw(image: Array, thing: Thing, hue: float, xy: tuple[Array, Array], times_s: Times) -> None:
    """Draw a thing, and what it hides behind, into the image [F, H, W, 3] in place.

    xy: position on the stage of each pixel, as `view` returns it.
    """
    shown = np.flatnonzero(present(thing, times_s))
    if len(shown):
        cx, cy, radius = (_f32(value)[shown] for value in place(thing, times_s))
        x, y = xy[0][shown] - cx, xy[1][shown] - cy
        # One colour per frame [n, 3], then one per pixel [n, H, W, 3] if there is a texture.
        paint = np.broadcast_to(COLOURS[thing.colour], (len(shown), 3))
        if thing.turns:
            since = times_s[shown] - EVENTS_S[thing.turns]
            share = _f32((since / TURN_S).clip(0, 1))[:, 0]
            paint = paint + share * (COLOURS[thing.second] - paint)
        skin = paint[:, None, None]
        if thing.texture != "plain":
            share = pattern(thing.texture, x, y)[..., None]
            skin = skin + share * (dark(paint) - paint)[:, None, None]
        _over(image, shown, OUTLINES[thing.shape](x, y, radius), skin)
        _over(image, shown, np.sqrt(x * x + y * y) - MARK * radius, mark_colour(hue))
    if thing.motion == "hide":  # the pillar is in front of the thing, and stays when it is away
        _over(image, np.arange(len(image)), pillar(thing, xy), PILLAR)


def pillar(thing: Thing, xy: tuple[Array, Array]) -> Array:
    """Return the signed distance [F, H, W] to the pillar that a thing hides behind."""
    half = np.float32(_RADIUS[thing.size] + 1)  # a little wider than the thing
    across = np.abs(xy[0] - np.float32(20 + 88 * thing.x)) - half
    return np.asarray(np.maximum(across, 8 - xy[1]))


def dark(paint: Array) -> Array:
    """Return the second colour of a texture [..., 3]."""
    # Black cannot be darkened, so very dark colours are lightened.
    return np.asarray(
        paint * np.float32(0.55) + (paint.sum(-1, keepdims=True) < 0.5) * np.float32(0.35)
    )


def pattern(texture: Texture, x: Array, y: Array) -> Array:
    """Return the share of the second colour, 0..1, at positions relative to a thing's centre."""
    if texture == "plain":
        return np.zeros_like(x + y)
    wave = (triangle(y / 9) * 4 - 2).clip(-1, 1)
    if texture == "checked":
        wave = wave * (triangle(x / 9) * 4 - 2).clip(-1, 1)
    return np.asarray((wave + 1) / 2)


def _over(image: Array, shown: NDArray[np.intp], distance: Array, paint: Array) -> None:
    """Blend paint where the signed distance is negative, with one soft pixel at the edge."""
    alpha = (np.float32(0.5) - distance).clip(0, 1)[..., None]
    image[shown] += alpha * (paint - image[shown])


def light(scene: Scene, times_s: Times) -> Array:
    """Return the factors of red, green and blue in each frame [F, 1, 1, 3]."""
    way = {"steady": 0.0 * times_s, "dusk": times_s / LENGTH_S, "dawn": 1 - times_s / LENGTH_S}
    depth = way[scene.light].clip(0, 1)[:, None, None, None]
    return np.asarray(1 - depth * np.array([0.35, 0.55, 0.6]), np.float32)


def zoom(scene: Scene, times_s: Times) -> Times:
    """Return the magnification of the camera at each time [F], about the middle of the frame."""
    way = (times_s / LENGTH_S).clip(0, 1)
    return {"in": 1 + 0.35 * way, "out": 1.35 - 0.35 * way}.get(scene.camera, 1 + 0 * way)


def _f32(values: Times) -> Array:
    """Return one number per frame as float32 [F, 1, 1], to combine with pixels."""
    return values.astype(np.float32)[:, None, None]


def _star(x: Array, y: Array, r: Array) -> Array:
    """Return the distance to a star of five points: that to one wedge, after two foldings.

    Source  I. Quilez, 2D distance functions.
    """
    kx, ky = np.float32(0.809016994), np.float32(-0.587785252)
    x, y = np.abs(x), -y
    fold = 2 * np.maximum(kx * x + ky * y, 0)
    x, y = x - fold * kx, y - fold * ky
    fold = 2 * np.maximum(-kx * x + ky * y, 0)
    x, y = np.abs(x + fold * kx), y - fold * ky - r * np.float32(1.15)
    bx, by = np.float32(-ky * 0.45), np.float32(kx * 0.45 - 1)
    along = ((x * bx + y * by) / (bx * bx + by * by)).clip(0, r * np.float32(1.15))
    dx, dy = x - bx * along, y - by * along
    return np.asarray(np.sqrt(dx * dx + dy * dy) * np.sign(y * bx - x * by))


def _cross(x: Array, y: Array, r: Array) -> Array:
    """Return the distance to a cross: the nearer of two bars."""
    x, y = np.abs(x), np.abs(y)
    wide = np.maximum(x - r, y - r * np.float32(0.36))
    return np.asarray(np.minimum(wide, np.maximum(y - r, x - r * np.float32(0.36))))


# Signed distance to the edge of a shape of radius r, at x, y from its centre.
OUTLINES: dict[Shape, Callable[[Array, Array, Array], Array]] = {
    "circle": lambda x, y, r: np.sqrt(x * x + y * y) - r,
    "square": lambda x, y, r: np.maximum(np.abs(x), np.abs(y)) - r * np.float32(0.88),
    "triangle": lambda x, y, r: np.maximum(
        np.abs(x) * np.float32(0.894) - y * np.float32(0.447) - r * np.float32(0.5),
        y - r * np.float32(0.85),
    ),
    "star": _star,
    "diamond": lambda x, y, r: (
        (np.abs(x) * np.float32(1.45) + np.abs(y)) * np.float32(0.65) - r * np.float32(0.75)
    ),
    "ring": lambda x, y, r: (
        np.abs(np.sqrt(x * x + y * y) - r * np.float32(0.84)) - r * np.float32(0.24)
    ),
    "cross": _cross,
}
