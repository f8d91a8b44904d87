"""Renders scenes as pixels: polygons on a canvas of three times the resolution, then the light."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from harness.small_model.scenes import animals, countryside, indoors, objects, people, wilds
from harness.small_model.scenes.motion import SIDE, Floats, Path, path
from harness.small_model.scenes.parts import BODY, DARK, LIGHT, MARK, RGB
from harness.small_model.scenes.scene import EVENTS_S, INDOORS, LENGTH_S, Scene, Thing

# Pillow fills polygons without smoothing; reducing a finer canvas smooths their edges.
FINE = 3  # pixels of the canvas per pixel of the frame, each way
FIGURES = people.FIGURES | animals.FIGURES | objects.FIGURES
PLACES = indoors.PLACES | countryside.PLACES | wilds.PLACES
COLOURS: dict[str, RGB] = {
    "red": (222, 44, 46),
    "orange": (245, 138, 30),
    "yellow": (250, 216, 56),
    "green": (44, 160, 70),
    "blue": (44, 92, 222),
    "purple": (140, 60, 190),
    "pink": (248, 138, 184),
    "white": (246, 246, 246),
    "black": (40, 40, 46),
    "brown": (132, 82, 44),
    "grey": (140, 144, 152),
}
HALO: RGB = (255, 240, 170)
_PAN_PX_S = 6.0  # of the ground
# Factors of red, green and blue.
# In fp32, and applied by products and sums alone: these round alike on every machine.
_NIGHT = np.array([0.5, 0.54, 0.76], np.float32)
_LOW_SUN = np.array([0.656, 0.448, 0.4], np.float32)
_FOG = np.array([214, 218, 222], np.float32)


class Drawing:
    """A scene at given times in seconds; `pixels` and `boxes` share the outlines of its figures."""

    def __init__(self, scene: Scene, times_s: Floats) -> None:
        self.scene, self.times_s = scene, times_s
        self._paths = [path(thing, times_s) for thing in scene.things]
        self._outlines = [
            figure_outlines(thing, way, times_s)
            for thing, way in zip(scene.things, self._paths, strict=True)
        ]

    def pixels(self, hues: Sequence[float]) -> NDArray[np.uint8]:
        """Render frames [F, 128, 128, 3] uint8.

        hues: 0..1, one for the mark of each thing; a thing without one is left out.
        """
        scene = self.scene
        frames = np.empty((len(self.times_s), SIDE, SIDE, 3), np.uint8)
        behind: Image.Image | None = None
        for f, t in enumerate(self.times_s.tolist()):
            if behind is None or scene.camera != "still":  # a still camera needs one backdrop
                behind = backdrop(scene, t)
            canvas = behind.copy()
            pen = ImageDraw.Draw(canvas)
            nearer = zoom(scene, t)
            _timekeeper(pen, scene, t, nearer)
            # Not strict: a clip has a hue for `MOST` things, and its scene may have fewer.
            for thing, hue, way, parts in zip(
                scene.things, hues, self._paths, self._outlines, strict=False
            ):
                if way.shown[f]:
                    if way.glow[f] > 0.02:  # the light around a thing that glows is behind it
                        middle = way.y[f] - way.height[f] / 2
                        _disc(pen, way.x[f], middle, halo_radius(way, f), HALO, nearer)
                    paints = paints_of(colour_at(thing, t)) | {MARK: mark_paint(hue)}
                    for part, points in zip(FIGURES[thing.kind], parts, strict=True):
                        paint = paints[part.paint] if isinstance(part.paint, str) else part.paint
                        _polygon(pen, points[f], paint, nearer)
            # Light comes last and falls on everything, rain and sun included.
            _fall(pen, scene, t)
            frames[f] = lit(np.asarray(canvas.reduce(FINE)), scene, t)
        return frames

    def boxes(self) -> NDArray[np.float64]:
        """Return the box of each thing [things, F, 4]: left, top, right, bottom in pixels.

        NaN while a thing is away.
        """
        near = np.array([zoom(self.scene, t) for t in self.times_s.tolist()])[:, None]
        found = np.full((len(self.scene.things), len(self.times_s), 4), np.nan)
        for i, (way, parts) in enumerate(zip(self._paths, self._outlines, strict=True)):
            low = np.min([points.min(1) for points in parts], axis=0)
            high = np.max([points.max(1) for points in parts], axis=0)
            corners = [(edge - SIDE / 2) * near + SIDE / 2 for edge in (low, high)]
            found[i] = np.where(way.shown[:, None], np.concatenate(corners, axis=1), np.nan)
        return found


def figure_outlines(thing: Thing, way: Path, times_s: Floats) -> list[NDArray[np.float64]]:
    """Return the outline of every part over time [F, P, 2], in pixels before the camera zooms."""
    # Outlines are in units of the figure's height, with the feet at y = 0 and the head at y = -1.
    lean = np.stack([np.cos(way.angle), np.sin(way.angle)])
    # Wheels turn by the distance in pixels over a radius of 14.
    rolled = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(way.x)))]) / 14
    drives = {
        "leg": way.gait,
        "arm": way.gait * 0.8 - way.reach,
        "reach": way.reach - 0.35 * way.gait,
        "nod": way.nod,
        # Wings, fins, tails and flames always beat, each thing with its own phase.
        "flap": np.sin(2 * np.pi * (times_s / 1.1 + thing.phase)),
        "roll": rolled,
        "tick": 2 * np.pi * times_s / LENGTH_S,
    }
    # A figure turns about its middle, so lower it as it falls over: it lies on the ground then.
    middle = -0.5 * np.abs(way.angle) / (np.pi / 2)
    outlines = []
    for part in FIGURES[thing.kind]:
        shape = len(times_s), len(part.outline)
        x, y = (np.broadcast_to(part.outline[:, i], shape) for i in (0, 1))
        if part.joint is not None:
            turn = part.joint.by * drives[part.joint.drive][:, None]
            cos, sin = np.cos(turn), np.sin(turn)
            dx, dy = x - part.joint.x, y - part.joint.y
            x = part.joint.x + cos * dx - sin * dy
            y = part.joint.y + sin * dx + cos * dy
        # In the middle of a turn the figure would have no width; keep a little, so that it shows.
        x = x * np.where(np.abs(way.facing) < 0.15, 0.15, way.facing)[:, None]
        px = lean[0][:, None] * x - lean[1][:, None] * (y + 0.5)
        py = lean[1][:, None] * x + lean[0][:, None] * (y + 0.5) - 0.5 - 0.4 * middle[:, None]
        size = way.height[:, None]
        outlines.append(np.stack([way.x[:, None] + px * size, way.y[:, None] + py * size], -1))
    return outlines


def zoom(scene: Scene, t: float) -> float:
    """Return the magnification of the camera, about the middle of the frame."""
    way = min(1.0, t / LENGTH_S)
    return {"in": 1 + 0.3 * way, "out": 1.3 - 0.3 * way}.get(scene.camera, 1.0)


def pan(scene: Scene, t: float) -> float:
    """Return how far the camera has moved to the right, in pixels of the ground."""
    return {"right": _PAN_PX_S, "left": -_PAN_PX_S}.get(scene.camera, 0.0) * t


def mark_paint(hue: float) -> RGB:
    """Return the colour of a mark: the hue 0..1 at full saturation and value."""
    away = np.abs((hue * 6 + np.array([0.0, 4, 2])) % 6 - 3)
    red, green, blue = (round(255 * float(v)) for v in (away - 1).clip(0, 1))
    return red, green, blue


def colour_at(thing: Thing, t: float) -> str:
    """Return the colour of a thing at a time in seconds."""
    return thing.acts[sum(t >= begin for begin in EVENTS_S) - 1].colour


def paints_of(colour: str) -> dict[str, RGB]:
    """Return the paints of a thing of a colour, without that of its mark."""
    body = COLOURS[colour]
    return {
        BODY: body,
        DARK: _shade(body, 0.68, 0),
        LIGHT: _shade(body, 0.72, 71),
    }


def _shade(paint: RGB, share: float, more: float) -> RGB:
    """Return a colour scaled by `share` and raised by `more`."""
    red, green, blue = (min(255, round(v * share + more)) for v in paint)
    return red, green, blue


def backdrop(scene: Scene, t: float) -> Image.Image:
    """Draw the place without things and light, at the resolution of the canvas."""
    canvas = Image.new("RGB", (SIDE * FINE, SIDE * FINE))
    pen = ImageDraw.Draw(canvas)
    nearer, moved = zoom(scene, t), pan(scene, t) + 32 * scene.shift
    for patch in PLACES[scene.place]:
        # Places are wider than the frame; skip patches that are out of sight.
        x0, x1 = patch.outline[:, 0].min(), patch.outline[:, 0].max()
        if x1 - moved * patch.depth > 0 and x0 - moved * patch.depth < SIDE:
            _polygon(pen, patch.outline - (moved * patch.depth, 0), patch.paint, nearer)
    return canvas


def _timekeeper(pen: ImageDraw.ImageDraw, scene: Scene, t: float, nearer: float) -> None:
    """Draw a sun that crosses the sky once per clip, or indoors a clock whose hand turns once."""
    # Every moment of a clip then looks different, so a model can tell how much time has passed.
    way = min(1.0, t / LENGTH_S)
    if scene.place in INDOORS:
        turn = 2 * np.pi * way
        # From 12 o'clock on, clockwise; y grows downwards.
        hand = np.array([(112.0, 16.0), (112 + np.sin(turn) * 9, 16 - np.cos(turn) * 9)])
        _disc(pen, 112, 16, 12, (96, 64, 44), nearer)
        _disc(pen, 112, 16, 10, (250, 246, 232), nearer)
        side = np.array([np.cos(turn), np.sin(turn)]) * 1.6
        corners = np.stack([hand[0] - side, hand[1] - side / 2, hand[1] + side / 2, hand[0] + side])
        _polygon(pen, corners, (30, 26, 30), nearer)
    else:
        # A moon at night; a yellow sun has no place in space or under water either.
        pale = scene.light == "night" or scene.place in ("space", "underwater")
        paint = (236, 240, 250) if pale else (255, 238, 130)
        _disc(pen, 8 + 112 * way, 18 - 9 * (1 - (2 * way - 1) ** 2), 7, paint, nearer)


def halo_radius(way: Path, f: int) -> float:
    """Return the radius of the light around a thing, in pixels."""
    return float(way.height[f] * (0.5 + 0.3 * way.glow[f]))


def _fall(pen: ImageDraw.ImageDraw, scene: Scene, t: float) -> None:
    """Draw rain or snow in front of everything."""
    if scene.weather not in ("rain", "snowfall"):
        return
    # Primes spread the drops without a pattern; 139 rows also cover a margin around the frame.
    for i in range(36):
        # Rain falls in one direction; every third flake drifts to the same side.
        fast, slant = (90.0, 8.0) if scene.weather == "rain" else (24.0, 3.0 * (i % 3 - 1))
        y = (i * 53 % 139 + fast * t) % 139 - 6
        x = (i * 37 % SIDE + slant * t) % SIDE
        if scene.weather == "rain":
            _polygon(pen, np.array([(x, y), (x + 1, y), (x + 2, y + 8), (x + 1, y + 8)]),
                     (190, 210, 230), 1.0)  # fmt: skip
        else:
            _disc(pen, x, y, 1.6, (252, 252, 255), 1.0)


def lit(pixels: NDArray[np.uint8], scene: Scene, t: float) -> NDArray[np.uint8]:
    """Return colours [..., 3] as they look in the light and fog of a scene."""
    # The usual case needs no arithmetic.
    if scene.light == "day" and scene.weather != "fog":
        return pixels
    way = np.float32(min(1.0, t / LENGTH_S))
    one = np.ones(3, np.float32)
    tint = {
        "day": one,
        "night": _NIGHT,
        "dusk": one + way * (_LOW_SUN - one),
        "dawn": _LOW_SUN + way * (one - _LOW_SUN),
    }[scene.light]
    shaded = pixels * tint
    if scene.weather == "fog":
        shaded = shaded * np.float32(0.55) + _FOG * tint * np.float32(0.45)
    return np.asarray((shaded + np.float32(0.5)).clip(0, 255), np.uint8)


CIRCLE = np.stack([np.cos(np.arange(20) * np.pi / 10), np.sin(np.arange(20) * np.pi / 10)], 1)


def _disc(
    pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, paint: RGB, nearer: float
) -> None:
    """Fill a disc, given in pixels before the camera zooms."""
    _polygon(pen, CIRCLE * radius + (x, y), paint, nearer)


def _polygon(
    pen: ImageDraw.ImageDraw, points: NDArray[np.float64], paint: RGB, nearer: float
) -> None:
    """Fill a polygon [P, 2], given in pixels before the camera zooms."""
    fine = ((points - SIDE / 2) * nearer + SIDE / 2) * FINE
    # Round to a sixteenth of a fine pixel, so that the last bits of a sine, which differ between
    # machines, do not reach the picture.
    pen.polygon((np.rint(fine * 16) / 16).ravel().tolist(), fill=paint)
