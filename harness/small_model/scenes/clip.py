"""Clips: a scene with the colours of its marks, and its pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.prompts.suite import TEMPORAL_STRIDE
from harness.small_model.scenes.draw import draw_scene
from harness.small_model.scenes.render import Drawing
from harness.small_model.scenes.scene import MOST, Scene

FPS = 16
HELD_OUT = 1000  # training never uses clips with seeds below this


@dataclass(frozen=True)
class Clip:
    """One video.

    hues: hue of the mark on each thing, 0..1; prompts do not contain it.
    """

    scene: Scene
    hues: tuple[float, ...]

    def drawing(self, frames: range) -> Drawing:
        """Return the drawing of the last pixel frame of each latent frame."""
        return self._drawing(TEMPORAL_STRIDE * np.array(frames))

    def keyframes(self, frames: range) -> NDArray[np.uint8]:
        """Return the last pixel frame of each latent frame [F, 128, 128, 3] uint8."""
        return self.drawing(frames).pixels(self.hues)

    def pixels(self, frames: range) -> NDArray[np.uint8]:
        """Return all pixel frames of latent frames [n, 128, 128, 3] uint8; the first has one."""
        # Latent frame 0 is one pixel frame, every other one four that end with its keyframe.
        first = max(0, TEMPORAL_STRIDE * (frames.start - 1) + 1)
        shown = np.arange(first, TEMPORAL_STRIDE * (frames.stop - 1) + 1)
        return self._drawing(shown).pixels(self.hues)

    def _drawing(self, pixel_frames: NDArray[np.int_]) -> Drawing:
        # A scene is a function of time, so any frames can be drawn without those before them.
        return Drawing(self.scene, pixel_frames / FPS)


def clip(seed: int, things: int | None = None) -> Clip:
    """Return the clip of a seed. things: how many it shows; None lets the seed decide."""
    # A named bit generator: numpy may change its default one, and seeds of clips must last.
    rng = np.random.Generator(np.random.PCG64(seed))
    return Clip(draw_scene(rng, things), tuple(rng.random(MOST).tolist()))
