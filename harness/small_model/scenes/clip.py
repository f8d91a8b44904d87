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
        return Drawing(self.scene, np.array(frames) * TEMPORAL_STRIDE / FPS)

    def keyframes(self, frames: range) -> NDArray[np.uint8]:
        """Return the last pixel frame of each latent frame [F, 128, 128, 3] uint8."""
        return self.drawing(frames).pixels(self.hues)


def clip(seed: int) -> Clip:
    """Return the clip of a seed."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return Clip(draw_scene(rng), tuple(rng.random(MOST).tolist()))
