"""Clips: a scene and the look of its things, and the pixels that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.prompts.suite import TEMPORAL_STRIDE
from harness.small_model.scenes.draw import draw_scene
from harness.small_model.scenes.render import Drawing
from harness.small_model.scenes.scene import MOST, Scene

FPS = 16
HELD_OUT = 1000  # clips of seeds below this are never trained on


@dataclass(frozen=True)
class Clip:
    """One video. hues: of the mark that each thing bears, 0..1, told by no prompt."""

    scene: Scene
    hues: tuple[float, ...]

    def drawing(self, frames: range) -> Drawing:
        """The last pixel frame of each of these latent frames, laid out."""
        return Drawing(self.scene, np.array(frames) * TEMPORAL_STRIDE / FPS)

    def keyframes(self, frames: range) -> NDArray[np.uint8]:
        """The last pixel frame of each latent frame [F, 128, 128, 3]."""
        return self.drawing(frames).pixels(self.hues)


def clip(seed: int) -> Clip:
    """The clip of a seed."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return Clip(draw_scene(rng), tuple(rng.random(MOST).tolist()))
