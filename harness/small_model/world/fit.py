"""Fitting what a scene predicts to the pixels of a video: no trained judge, only least squares.

A hypothesis (a shape of a colour at an offset) is worth how much closer it is to the pixels than
the background without the thing, summed over the pixels that the shape covers. Where the scene
predicts something in front nothing is compared; the mark in the middle may have any one colour.

Shapes  F keyframes, n of them, H x W pixels of a frame, N x N pixels about a thing; pixels are
float32 in 0..1 with the light of the scene taken out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.small_model.world import render
from harness.small_model.world.backgrounds import Array
from harness.small_model.world.render import HEIGHT, WIDTH, Times
from harness.small_model.world.scene import COLOURS, EVENTS_S, MOTIONS, SHAPES, Thing
from harness.small_model.world.stage import Stage, Track, inside, mark
from harness.small_model.world.words import Colour, Motion, Shape

Flags = NDArray[np.bool_]
Indices = NDArray[np.intp]

REACH = 12  # pixels to each side in which a thing is looked for
LEEWAY = 4  # the same where tracks compete, whose places are hypotheses of their own
VISIBLE = 0.6  # share of a thing that must be in the frame and uncovered to be judged
_WIDEST = 1.16  # half of the widest shape, in radii
_BEYOND = 36  # pixels outside of a frame up to which the middle of a thing is followed


@dataclass(frozen=True)
class Aim:
    """Where a thing is looked for: in keyframes `at`, about a track, where `clear` says so."""

    at: Indices
    track: Track
    clear: Array
    reach: int = REACH


@dataclass(frozen=True)
class Found:
    """The best of all shapes, colours and offsets in each of some keyframes `at` [n].

    shape, colour: indices, -1 where the background is closer than anything. dx, dy: pixels from the
    predicted place.
    """

    at: Indices
    shape: Indices
    colour: Indices
    dx: Indices
    dy: Indices


@dataclass(frozen=True)
class _Box:
    """Pixels about a thing [n, N, N, 3], how far they are off the background, and what counts."""

    pixels: Array
    off: Array
    clear: Array

    def nearer(self, paint: Array) -> Array:
        """How much closer each pixel is to a paint than to the background [n, N, N]."""
        return np.asarray((self.off - _square(self.pixels - paint)) * self.clear)

    def mark_worth(self, disc: NDArray[np.complex64]) -> Array:
        """How much better than the background a mark of its own mean colour is [n, 1, N, N].

        Squares about a mean are those about zero less the squared sum over the count.
        """
        about_zero = self.off - _square(self.pixels)
        images = np.stack([about_zero, np.ones_like(self.off), *np.moveaxis(self.pixels, -1, 0)])
        sums = np.fft.irfft2(
            np.fft.rfft2(images * self.clear)[:, :, None] * disc, self.off.shape[1:]
        )
        return np.asarray(sums[0] + (sums[2:] ** 2).sum(0) / np.maximum(sums[1], 1), np.float32)


class Fit:
    """One thing of a stage against the pixels of a video [F, H, W, 3]."""

    def __init__(self, stage: Stage, index: int, pixels: Array) -> None:
        """index: of the thing."""
        self.stage, self.thing, self._index = stage, stage.scene.things[index], index
        self._pixels = pixels
        self._off = _square(pixels - stage.behind[index])
        self.clear = stage.clear(index)
        self.track = render.track(self.thing, stage.times_s)

    @cached_property
    def reachable(self) -> Flags:
        """Keyframes in which enough of the thing would be visible if it were there [F]."""
        shown = self.stage.shown(self.thing.shape, self.track, self.clear)
        return np.asarray(shown >= VISIBLE)

    @cached_property
    def seen(self) -> Flags:
        """Keyframes in which enough of the thing is visible, and it is not on its way [F]."""
        thing, times = self.thing, self.stage.times_s
        seen = self.reachable & (
            times >= EVENTS_S[thing.enters] + render.ENTRY_S * (thing.enters > 0)
        )
        return np.asarray(seen & (times < EVENTS_S[thing.leaves])) if thing.leaves else seen

    @cached_property
    def steady(self) -> Flags:
        """Those of `seen` in which the thing is not between two colours [F]."""
        since = self.stage.times_s - EVENTS_S[self.thing.turns]
        return self.seen & ~(self.turned & (since < render.TURN_S))

    @cached_property
    def turned(self) -> Flags:
        """Keyframes after the thing began to take its second colour [F]."""
        since = self.stage.times_s - EVENTS_S[self.thing.turns]
        return np.asarray((since >= 0) & (self.thing.turns > 0))

    @cached_property
    def found(self) -> Found:
        """The best hypothesis in each keyframe of `steady`."""
        at = np.flatnonzero(self.steady)
        worth = self.worth(Aim(at, self.track, self.clear), SHAPES, COLOURS)
        flat = worth.reshape(len(at), math.prod(worth.shape[1:]))  # also where nothing is steady
        best = flat.argmax(1)
        shape, colour, dy, dx = np.unravel_index(best, worth.shape[1:])
        absent = flat[np.arange(len(at)), best] <= 0
        shape, colour = np.where(absent, -1, shape), np.where(absent, -1, colour)
        return Found(at, shape, colour, dx - REACH, dy - REACH)

    def worth(self, aim: Aim, shapes: Sequence[Shape], colours: Sequence[Colour]) -> Array:
        """How much better than the background each hypothesis is, at each offset within reach.

        Shapes  -> [n, shapes, colours, 2 reach + 1, 2 reach + 1], y before x.
        """
        span = 2 * aim.reach + 1
        result = np.zeros((len(aim.at), len(shapes), len(colours), span, span), np.float32)
        if not len(aim.at):
            return result
        alpha, dark, disc, middles = self._templates(aim, shapes)
        side = _smooth(alpha.shape[-1] + 2 * aim.reach)  # so wide that nothing wraps around
        middle = side // 2 - alpha.shape[-1] // 2
        window = slice(middle - aim.reach, middle + aim.reach + 1)
        box = self._box(aim, middles, side)
        parts = [(_template(alpha - dark, side), False), (_template(dark, side), True)]
        for c, colour in enumerate(colours):
            paint = render.COLOURS[colour]
            wave = np.zeros((), np.complex64)
            for template, second in parts[: 1 + (self.thing.texture != "plain")]:
                gain = box.nearer(render.dark(paint) if second else paint)
                wave = wave + np.fft.rfft2(gain)[:, None] * template
            result[:, :, c] = np.fft.irfft2(wave, (side, side))[..., window, window]
        mark = box.mark_worth(_template(disc, side))[..., window, window]
        return np.asarray(result + mark[:, None])

    def motions(self, shape: Shape, colours: tuple[Colour, Colour]) -> Array:
        """What each of the nine motions is worth as the explanation of all keyframes [9].

        Each motion's track, with this thing's parameters and `LEEWAY` pixels of its own, says where
        a thing of this shape and these colours (before and after it turns) should be; a motion
        behind a pillar says that too.
        """
        return np.array([self._motion(motion, shape, colours) for motion in MOTIONS], np.float32)

    def mark_paint(self) -> Array:
        """Mean colour of the mark where the thing was found [n, 3]; nan where it is covered."""
        at, zoom = self.found.at, self.stage.zoom[self.found.at]
        x, y = (value[at] for value in self.stage.in_frame(self.track))
        across = np.arange(WIDTH)[None, None, :] - (x + self.found.dx)[:, None, None]
        down = np.arange(HEIGHT)[None, :, None] - (y + self.found.dy)[:, None, None]
        size = np.maximum(1.5, render.MARK * self.track[2][at] * zoom - 1)
        disc = (across**2 + down**2 <= size[:, None, None] ** 2) * self.clear[at]
        count = disc.sum((1, 2))[:, None]
        mean = (self._pixels[at] * disc[..., None]).sum((1, 2)) / np.maximum(count, 1)
        whole = np.pi * size[:, None] ** 2
        return np.asarray(np.where(count > 0.7 * whole, mean, np.nan), np.float32)

    def mark_shown(self) -> Times:
        """Share of the mark that is in sight at its predicted place [F]."""
        return self.stage.shown("circle", mark(self.track), self.clear)

    def _motion(self, motion: Motion, shape: Shape, colours: tuple[Colour, Colour]) -> float:
        stage, total = self.stage, 0.0
        moved = replace(self.thing, motion=motion)
        at = np.flatnonzero(render.present(moved, stage.times_s))[::2]
        aim = Aim(at, render.place(moved, stage.times_s), stage.clear(self._index, False), LEEWAY)
        if motion == "hide":
            pillar = stage.pillar(moved)
            nearer = self._off - _square(self._pixels - render.PILLAR)
            total += float((nearer * aim.clear * pillar)[at].sum())
            aim = replace(aim, clear=aim.clear * (1 - pillar))
        for colour, turned in zip(colours, (False, True), strict=True):
            part = replace(aim, at=at[self.turned[at] == turned])
            if len(part.at):
                total += float(self.worth(part, [shape], [colour]).max((1, 2, 3, 4)).sum())
        return total

    def _box(self, aim: Aim, middles: Indices, side: int) -> _Box:
        """The pixels about these places [2, n], nothing of worth beyond the frame."""
        columns, rows = middles[..., None] + np.arange(side) - side // 2
        inside = ((rows >= 0) & (rows < HEIGHT))[:, :, None]
        inside = inside & ((columns >= 0) & (columns < WIDTH))[:, None]
        rows, columns = rows.clip(0, HEIGHT - 1)[:, :, None], columns.clip(0, WIDTH - 1)[:, None]
        where = aim.at[:, None, None], rows, columns
        return _Box(self._pixels[where], self._off[where], aim.clear[where] * inside)

    def _templates(self, aim: Aim, shapes: Sequence[Shape]) -> tuple[Array, Array, Array, Indices]:
        """What to look for, and about which pixels.

        Shapes  -> shapes without mark, their dark parts [n, S, K, K], marks [n, 1, K, K], the
        middles of boxes [2, n].

        Parts of a pixel are in the template, whole pixels in the place of the box.
        """
        centre, zoom = np.stack(self.stage.in_frame(aim.track))[:, aim.at], self.stage.zoom[aim.at]
        boxes = np.rint(centre).clip(-_BEYOND, [[WIDTH + _BEYOND], [HEIGHT + _BEYOND]])
        half = int(_WIDEST * (aim.track[2][aim.at] * zoom).max()) + 2
        arm = (np.arange(-half, half + 1) - (centre - boxes)[:, :, None]) / zoom[:, None]
        x, y = _f32(arm[0])[:, None, :], _f32(arm[1])[:, :, None]
        r = _f32(aim.track[2][aim.at])[:, None, None]
        beyond = np.sqrt(x * x + y * y) - render.MARK * r  # its edge is a mix
        bodies = [inside(render.OUTLINES[s](x, y, r)) * (beyond > 1) for s in shapes]
        alpha, disc = np.stack(bodies, 1), _f32(beyond < -0.5)[:, None]
        dark = alpha * render.pattern(self.thing.texture, x, y)[:, None]
        return alpha, dark, disc, boxes.astype(np.intp)


def entered_s(thing: Thing) -> float:
    """When a thing is in its place, in seconds."""
    return EVENTS_S[thing.enters] + (render.ENTRY_S if thing.enters else 0.0)


def _square(difference: Array) -> Array:
    return np.asarray(np.einsum("...c,...c->...", difference, difference))


def _f32(values: NDArray[Any]) -> Array:
    return values.astype(np.float32)


def _template(alpha: Array, side: int) -> NDArray[np.complex64]:
    """Transformed so that a product with a box correlates."""
    rest = side - alpha.shape[-1]
    whole = np.pad(alpha, ((0, 0), (0, 0), (0, rest), (0, rest)))
    return np.asarray(np.conj(np.fft.rfft2(whole)))


def _smooth(side: int) -> int:
    """The next size that transforms fast."""
    return next(n for n in (32, 36, 40, 48, 54, 60, 64, 72, 80, 90, 96) if n >= side)
