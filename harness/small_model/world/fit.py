"""Finds things in the pixels of a video by least squares, without a trained judge.

A hypothesis is a shape of a colour at an offset from the predicted place. Its worth is the squared
error that it removes: that of the background without the thing minus that of the hypothesis, summed
over the pixels that the shape covers. Pixels are not compared where the scene predicts something in
front of the thing. The mark in the middle of the thing may have any single colour.

Shapes  F keyframes, n of them, H x W pixels of a frame, N x N pixels about a thing; pixels are
float32 in 0..1, divided by the light of the scene.
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
from harness.small_model.world.words import Colour, Shape

Flags = NDArray[np.bool_]
Indices = NDArray[np.intp]

REACH = 12  # pixels to each side of its predicted place at which a thing is searched for
LEEWAY = 4  # the same where the tracks of motions compete, since each predicts its own places
VISIBLE = 0.6  # share of a thing that must be in the frame and uncovered to be judged
_WIDEST = 1.16  # half of the widest shape, in radii
_BEYOND = 36  # pixels outside the frame up to which the middle of a thing is followed
_SIDES = (32, 36, 40, 48, 54, 60, 64, 72, 80, 90, 96)  # sizes with small factors: fast FFTs


@dataclass(frozen=True)
class Aim:
    """Where a thing is searched for.

    at: indices of keyframes.
    track: predicted place in all keyframes.
    clear: share of each pixel that is compared [F, H, W].
    reach: largest offset from the track, in pixels to each side.
    """

    at: Indices
    track: Track
    clear: Array
    reach: int = REACH


@dataclass(frozen=True)
class Found:
    """The best of all shapes, colours and offsets in each of some keyframes; every field is [n].

    at: indices of the keyframes.
    shape, colour: indices in `SHAPES` and `COLOURS`; -1 if the background fits better than any.
    dx, dy: offset from the predicted place in pixels.
    """

    at: Indices
    shape: Indices
    colour: Indices
    dx: Indices
    dy: Indices


@dataclass(frozen=True)
class _Box:
    """A square of pixels about a thing in each keyframe.

    pixels: [n, N, N, 3].
    off: squared distance of each pixel from the background [n, N, N].
    clear: share of each pixel that is compared [n, N, N].
    """

    pixels: Array
    off: Array
    clear: Array

    def nearer(self, paint: Array) -> Array:
        """Return the squared error that a paint removes in each pixel [n, N, N]."""
        return np.asarray((self.off - _square(self.pixels - paint)) * self.clear)

    def mark_worth(self, disc: NDArray[np.complex64]) -> Array:
        """Return the squared error that a mark of the best colour removes [n, 1, N, N].

        disc: transformed template of the mark, as `_template` returns it.
        """
        # The best colour at each offset is the mean of the pixels under the mark. The squared error
        # about a mean is that about zero minus (sum of the pixels)^2 / their number, so five
        # correlations give it for all offsets at once.
        about_zero = self.off - _square(self.pixels)
        images = np.stack([about_zero, np.ones_like(self.off), *np.moveaxis(self.pixels, -1, 0)])
        sums = np.fft.irfft2(
            np.fft.rfft2(images * self.clear)[:, :, None] * disc, self.off.shape[1:]
        )
        return np.asarray(sums[0] + (sums[2:] ** 2).sum(0) / np.maximum(sums[1], 1), np.float32)


class Fit:
    """Fits one thing of a stage, given by its index, to the pixels of a video [F, H, W, 3]."""

    def __init__(self, stage: Stage, index: int, pixels: Array) -> None:
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
        """Keyframes in which enough of the thing is visible while it neither enters nor leaves."""
        thing, times = self.thing, self.stage.times_s
        seen = self.reachable & (
            times >= EVENTS_S[thing.enters] + render.ENTRY_S * (thing.enters > 0)
        )
        return np.asarray(seen & (times < EVENTS_S[thing.leaves])) if thing.leaves else seen

    @cached_property
    def steady(self) -> Flags:
        """Those of `seen` in which the thing is not turning to its second colour [F]."""
        since = self.stage.times_s - EVENTS_S[self.thing.turns]
        return self.seen & ~(self.turned & (since < render.TURN_S))

    @cached_property
    def turned(self) -> Flags:
        """Keyframes after the thing began to turn to its second colour [F]."""
        since = self.stage.times_s - EVENTS_S[self.thing.turns]
        return np.asarray((since >= 0) & (self.thing.turns > 0))

    @cached_property
    def found(self) -> Found:
        """The best hypothesis in each keyframe of `steady`."""
        at = np.flatnonzero(self.steady)
        worth = self.worth(Aim(at, self.track, self.clear), SHAPES, COLOURS)
        # -1 would not do as a size: there may be no keyframes.
        flat = worth.reshape(len(at), math.prod(worth.shape[1:]))
        best = flat.argmax(1)
        shape, colour, dy, dx = np.unravel_index(best, worth.shape[1:])
        absent = flat[np.arange(len(at)), best] <= 0
        shape, colour = np.where(absent, -1, shape), np.where(absent, -1, colour)
        return Found(at, shape, colour, dx - REACH, dy - REACH)

    def worth(self, aim: Aim, shapes: Sequence[Shape], colours: Sequence[Colour]) -> Array:
        """Return the worth of each hypothesis at each offset within reach.

        Shapes  -> [n, shapes, colours, 2 reach + 1, 2 reach + 1], y before x.
        """
        span = 2 * aim.reach + 1
        result = np.zeros((len(aim.at), len(shapes), len(colours), span, span), np.float32)
        if not len(aim.at):
            return result
        alpha, dark, disc, middles = self._templates(aim, shapes)
        # The FFT makes correlations periodic. A box this wide has no offset within reach at which
        # a template wraps around.
        side = next(n for n in _SIDES if n >= alpha.shape[-1] + 2 * aim.reach)
        middle = side // 2 - alpha.shape[-1] // 2
        window = slice(middle - aim.reach, middle + aim.reach + 1)
        # The pixels about each place; those beyond the frame are not compared.
        columns, rows = middles[..., None] + np.arange(side) - side // 2
        framed = ((rows >= 0) & (rows < HEIGHT))[:, :, None]
        framed = framed & ((columns >= 0) & (columns < WIDTH))[:, None]
        rows, columns = rows.clip(0, HEIGHT - 1)[:, :, None], columns.clip(0, WIDTH - 1)[:, None]
        where = aim.at[:, None, None], rows, columns
        box = _Box(self._pixels[where], self._off[where], aim.clear[where] * framed)
        # A texture mixes two colours; the shares of both are templates of their own.
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
        """Return the worth of each of the nine motions over all keyframes [9].

        The thing has this shape and these colours, before and after it turns, and its own
        parameters. In each keyframe it may be `LEEWAY` pixels off the track of the motion. A thing
        that hides also predicts its pillar.
        """
        stage, worths = self.stage, []
        for motion in MOTIONS:
            total = 0.0
            moved = replace(self.thing, motion=motion)
            at = np.flatnonzero(render.present(moved, stage.times_s))[::2]  # half, to save time
            clear = stage.clear(self._index, own_pillar=False)
            aim = Aim(at, render.place(moved, stage.times_s), clear, LEEWAY)
            if motion == "hide":
                pillar = stage.pillar(moved)
                nearer = self._off - _square(self._pixels - render.PILLAR)
                total += float((nearer * aim.clear * pillar)[at].sum())
                aim = replace(aim, clear=aim.clear * (1 - pillar))
            for colour, turned in zip(colours, (False, True), strict=True):
                part = replace(aim, at=at[self.turned[at] == turned])
                if len(part.at):
                    total += float(self.worth(part, [shape], [colour]).max((1, 2, 3, 4)).sum())
            worths.append(total)
        return np.array(worths, np.float32)

    def mark_paint(self) -> Array:
        """Return the mean colour of the mark in the keyframes of `found` [n, 3].

        NaN in keyframes in which too much of the mark is covered.
        """
        at, zoom = self.found.at, self.stage.zoom[self.found.at]
        x, y = (value[at] for value in self.stage.in_frame(self.track))
        across = np.arange(WIDTH)[None, None, :] - (x + self.found.dx)[:, None, None]
        down = np.arange(HEIGHT)[None, :, None] - (y + self.found.dy)[:, None, None]
        # Leave out a pixel at the edge, where the mark is mixed with the thing.
        size = np.maximum(1.5, render.MARK * self.track[2][at] * zoom - 1)
        disc = (across**2 + down**2 <= size[:, None, None] ** 2) * self.clear[at]
        count = disc.sum((1, 2))[:, None]
        mean = (self._pixels[at] * disc[..., None]).sum((1, 2)) / np.maximum(count, 1)
        whole = np.pi * size[:, None] ** 2
        return np.asarray(np.where(count > 0.7 * whole, mean, np.nan), np.float32)

    def mark_shown(self) -> Times:
        """Return the share of the mark that is in sight at its predicted place [F]."""
        return self.stage.shown("circle", mark(self.track), self.clear)

    def _templates(self, aim: Aim, shapes: Sequence[Shape]) -> tuple[Array, Array, Array, Indices]:
        """Return the shapes to search for, drawn for each keyframe, and the pixels to search at.

        Shapes  -> shapes without mark, the share of their second colour [n, S, K, K], marks
                [n, 1, K, K], and the pixels x, y in the middle of each box [2, n].
        """
        # The box is about a whole pixel; the fraction that remains moves the drawing.
        centre, zoom = np.stack(self.stage.in_frame(aim.track))[:, aim.at], self.stage.zoom[aim.at]
        boxes = np.rint(centre).clip(-_BEYOND, [[WIDTH + _BEYOND], [HEIGHT + _BEYOND]])
        half = int(_WIDEST * (aim.track[2][aim.at] * zoom).max()) + 2
        arm = (np.arange(-half, half + 1) - (centre - boxes)[:, :, None]) / zoom[:, None]
        x, y = _f32(arm[0])[:, None, :], _f32(arm[1])[:, :, None]
        r = _f32(aim.track[2][aim.at])[:, None, None]
        # Pixels at the edge of the mark are a mix, so they belong neither to thing nor to mark.
        beyond = np.sqrt(x * x + y * y) - render.MARK * r
        bodies = [inside(render.OUTLINES[s](x, y, r)) * (beyond > 1) for s in shapes]
        alpha, disc = np.stack(bodies, 1), _f32(beyond < -0.5)[:, None]
        dark = alpha * render.pattern(self.thing.texture, x, y)[:, None]
        return alpha, dark, disc, boxes.astype(np.intp)


def entered_s(thing: Thing) -> float:
    """Return the time in seconds from which on a thing is in its place."""
    return EVENTS_S[thing.enters] + (render.ENTRY_S if thing.enters else 0.0)


def _square(difference: Array) -> Array:
    """Return the sum of squares over the last axis."""
    return np.asarray(np.einsum("...c,...c->...", difference, difference))


def _f32(values: NDArray[Any]) -> Array:
    return values.astype(np.float32)


def _template(alpha: Array, side: int) -> NDArray[np.complex64]:
    """Return the transform of a template, whose product with that of a box is a correlation."""
    rest = side - alpha.shape[-1]
    whole = np.pad(alpha, ((0, 0), (0, 0), (0, rest), (0, rest)))
    return np.asarray(np.conj(np.fft.rfft2(whole)))
