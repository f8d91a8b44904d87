"""Computes what a scene predicts of its video: layers, covered pixels, and what is in sight.

Shapes  F keyframes, H x W pixels of a frame; pixels are float32 in 0..1 without light.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from harness.small_model.world import render
from harness.small_model.world.backgrounds import Array
from harness.small_model.world.render import HEIGHT, WIDTH, Times
from harness.small_model.world.scene import Scene, Thing
from harness.small_model.world.words import Shape

Track = tuple[Times, Times, Times]  # x, y, radius [F], in pixels of the stage


class Stage:
    """The predictions of a scene for some times, independent of any video.

    zoom: magnification of the camera [F].
    xy: position on the stage of each pixel, as `render.view` returns it.
    behind: for each thing, the pixels without it and without those in front of it [F, H, W, 3].
    """

    def __init__(self, scene: Scene, times_s: Times) -> None:
        """Draw the scene from back to front and keep what is behind each thing."""
        self.scene, self.times_s = scene, times_s
        self.zoom = render.zoom(scene, times_s)
        self.xy = render.view(scene, times_s)
        image = render.backdrop(scene, times_s)
        self.behind: list[Array] = []
        self._covers: list[Array] = []
        self._pillars: list[Array] = []
        self._marks: list[Array] = []
        for thing in scene.things:
            self.behind.append(image.copy())
            # The hue of its mark is unknown, so any will do: `clear` excludes marks.
            render.draw(image, thing, 0.0, self.xy, times_s)
            there = render.present(thing, times_s)[:, None, None]
            place = render.place(thing, times_s)
            self._marks.append(self.cover("circle", mark(place)) * there)
            body = self.cover(thing.shape, place) * there
            self._covers.append(np.maximum(body, self._marks[-1]))  # a ring's mark is in its hole
            self._pillars.append(self.pillar(thing) * (thing.motion == "hide"))

    def cover(self, shape: Shape, track: Track) -> Array:
        """Return the share of each pixel that a shape covers if nothing is in front [F, H, W]."""
        x, y, radius = (value.astype(np.float32)[:, None, None] for value in track)
        return inside(render.OUTLINES[shape](self.xy[0] - x, self.xy[1] - y, radius))

    def pillar(self, thing: Thing) -> Array:
        """Return the share of each pixel that the pillar of a thing covers [F, H, W]."""
        return inside(render.pillar(thing, self.xy))

    def clear(self, index: int, own_pillar: bool = True) -> Array:
        """Return the share of each pixel that can be compared for a thing [F, H, W], 0..1.

        Nothing may be in front of the thing there, nor a mark behind it, whose colour is unknown.

        own_pillar: whether the thing's own pillar counts as in front of it.
        """
        front = [*self._covers[index + 1 :], *self._pillars[index + (not own_pillar) :]]
        return self._without([*self._marks[:index], *front])

    @cached_property
    def open(self) -> Array:
        """The share of each pixel without things and pillars [F, H, W]."""
        return self._without([*self._covers, *self._pillars])

    def shown(self, shape: Shape, track: Track, clear: Array) -> Times:
        """Return the share of a shape that is in the frame and uncovered [F], of its whole area.

        clear: as `clear` returns it.
        """
        # The area of the shape at radius 1, measured on a drawing of radius 20.
        steps = np.arange(-30, 31, dtype=np.float32)
        radius = np.array(20, np.float32)
        cover = inside(render.OUTLINES[shape](steps[None], steps[:, None], radius))
        whole = float(cover.sum()) / 400 * (track[2] * self.zoom) ** 2
        seen = (self.cover(shape, track) * clear).sum((1, 2))
        return np.asarray(seen / whole, np.float64)

    def in_frame(self, track: Track) -> tuple[Times, Times]:
        """Return x and y of a track in pixels of the frame, each [F]."""
        return (track[0] - 63.5) * self.zoom + 63.5, (track[1] - 31.5) * self.zoom + 31.5

    def _without(self, covers: Sequence[Array]) -> Array:
        """Return the share of each pixel that no cover reaches [F, H, W]."""
        free = np.ones((len(self.times_s), HEIGHT, WIDTH), np.float32)
        for cover in covers:
            free *= 1 - cover
        return free


def mark(track: Track) -> Track:
    """Return the track of a thing's mark."""
    return track[0], track[1], track[2] * render.MARK


def inside(distance: Array) -> Array:
    """Return the share of pixels inside, by their signed distance to the edge, 0..1."""
    return np.asarray((np.float32(0.5) - distance).clip(0, 1))
