"""Where the random numbers of a video come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Noise(Protocol):
    """Where random numbers come from."""

    def initial(self, frames: range) -> Tensor:
        """The noise that a chunk starts from [B, F, C, h, w] fp32 on the CPU."""

    def fresh(self, num_frames: int) -> Tensor:
        """New noise for the next denoising pass [B, F, C, h, w] fp32 on the CPU."""


class SeededNoise:
    """Gaussian noise of one video, drawn in fp32 on the CPU: the same on every device.

    The whole video's initial noise is drawn first, so that a method cannot shift the draws.
    """

    def __init__(self, seed: int, shape_FChw: Sequence[int]) -> None:
        """Seeded by prompt and sample alone."""
        self._generator = torch.Generator().manual_seed(seed)
        self._shape = tuple(shape_FChw)
        self.video = torch.randn(1, *self._shape, generator=self._generator)

    def initial(self, frames: range) -> Tensor:
        """The chunk's part of the video's noise."""
        return self.video[:, frames.start : frames.stop]

    def fresh(self, num_frames: int) -> Tensor:
        """The next draw."""
        return torch.randn(1, num_frames, *self._shape[1:], generator=self._generator)
