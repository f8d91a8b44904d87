"""Clips: a caption, its scene and a look, and the pixels that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.prompts.suite import TEMPORAL_STRIDE
from harness.small_model.world.caption import caption
from harness.small_model.world.interpret import interpret
from harness.small_model.world.render import render
from harness.small_model.world.scene import MOST, Scene

FPS = 16
HELD_OUT = 1000  # clips of seeds below this are never trained on


@dataclass(frozen=True)
class Clip:
    """One captioned video. hues: of the mark that each thing bears, 0..1, told by no caption."""

    prompt: str
    scene: Scene
    hues: tuple[float, ...]

    def keyframes(self, frames: range) -> NDArray[np.uint8]:
        """The last pixel frame of each latent frame [F, 64, 128, 3]."""
        return self._at([TEMPORAL_STRIDE * f for f in frames])

    def pixels(self, frames: range) -> NDArray[np.uint8]:
        """All pixel frames of these latent frames [n, 64, 128, 3]."""
        first = max(0, TEMPORAL_STRIDE * (frames.start - 1) + 1)
        return self._at(list(range(first, TEMPORAL_STRIDE * (frames.stop - 1) + 1)))

    def _at(self, pixel_frames: list[int]) -> NDArray[np.uint8]:
        return render(self.scene, self.hues, np.array(pixel_frames) / FPS)


def clip(seed: int) -> Clip:
    """The clip of a seed: the same, bit for bit, wherever it is made."""
    rng = np.random.Generator(np.random.PCG64(seed))
    prompt = caption(rng)
    return Clip(prompt, interpret(prompt), tuple(rng.random(MOST).tolist()))
