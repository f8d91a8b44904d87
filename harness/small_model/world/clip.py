"""Clips: a caption, its scene, the colours of the marks, and the pixels of all this."""

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
HELD_OUT = 1000  # training never uses clips with seeds below this


@dataclass(frozen=True)
class Clip:
    """One captioned video.

    hues: hue of the mark on each thing, 0..1; captions do not contain it, so only a model that
        remembers it shows it again after the thing was away.
    """

    prompt: str
    scene: Scene
    hues: tuple[float, ...]

    def keyframes(self, frames: range) -> NDArray[np.uint8]:
        """Return the last pixel frame of each latent frame [F, 64, 128, 3] uint8."""
        # Latent frame 0 stands for one pixel frame and all others for four, so the last pixel frame
        # of latent frame f has number 4 f.
        return self._at(TEMPORAL_STRIDE * np.array(frames))

    def pixels(self, frames: range) -> NDArray[np.uint8]:
        """Return all pixel frames of latent frames [n, 64, 128, 3] uint8; the first has one."""
        first = max(0, TEMPORAL_STRIDE * (frames.start - 1) + 1)
        return self._at(np.arange(first, TEMPORAL_STRIDE * (frames.stop - 1) + 1))

    def _at(self, pixel_frames: NDArray[np.int_]) -> NDArray[np.uint8]:
        return render(self.scene, self.hues, pixel_frames / FPS)


def clip(seed: int) -> Clip:
    """Return the clip of a seed, bit-identical on every machine."""
    rng = np.random.Generator(np.random.PCG64(seed))
    prompt = caption(rng)
    return Clip(prompt, interpret(prompt), tuple(rng.random(MOST).tolist()))
