"""Frames for tests of metrics: moving pictures and noise."""

from __future__ import annotations

import numpy as np

from harness.scoring.metrics.metric import Frames


def moving(num_frames: int = 20, height: int = 40, width: int = 48) -> Frames:
    t, y, x, c = np.mgrid[:num_frames, :height, :width, :3]
    frames: Frames = (128 + 90 * np.sin(0.2 * x + 0.1 * y * (c + 1) + 0.3 * t)).astype(np.uint8)
    return frames


def noisy(frames: Frames, sigma: float = 8.0) -> Frames:
    noise = np.random.default_rng(0).normal(0, sigma, frames.shape)
    return (frames + noise).clip(0, 255).astype(np.uint8)
