"""Random numbers of a video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Noise(Protocol):
    """Source of the Gaussian noise of one video."""

    def initial(self, frames: range) -> Tensor:
        """Return the noise that a chunk starts from [B, F, C, h, w] fp32 on the CPU."""

    def fresh(self, num_frames: int) -> Tensor:
        """Draw noise for the next denoising pass [B, F, C, h, w] fp32 on the CPU."""


class SeededNoise:
    """Seeded Gaussian noise of one video, drawn in fp32 on the CPU: the same on every device."""

    def __init__(self, seed: int, shape_FChw: Sequence[int]) -> None:
        """Draw the initial noise of the whole video [1, F, C, h, w]."""
        self._generator = torch.Generator().manual_seed(seed)
        self._shape = tuple(shape_FChw)
        # Draw all of it before any pass, so that number and order of later draws cannot change it.
        self.video = torch.randn(1, *self._shape, generator=self._generator)

    def initial(self, frames: range) -> Tensor:
        """Return the chunk's part of the video's initial noise."""
        return self.video[:, frames.start : frames.stop]

    def fresh(self, num_frames: int) -> Tensor:
        """Draw the next noise [1, F, C, h, w] from the generator."""
        # The order of the calls decides which numbers a pass gets. A skipped pass still takes a
        # solver step and draws, so that every method sees the noise of the BF16 video.
        return torch.randn(1, num_frames, *self._shape[1:], generator=self._generator)
