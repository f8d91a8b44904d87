"""Peak signal-to-noise ratio against the BF16 video of the same prompt and seed, in dB."""

from __future__ import annotations

import math

import numpy as np

from harness.metrics import Frames, Series, check_pair

CAP_DB = 100.0


def per_frame(video_THWC: Frames, reference_THWC: Frames) -> Series:
    """PSNR of each frame; higher is closer, identical frames count as CAP_DB.

    Shapes  both [T, H, W, 3] u8 -> [T] f64.
    Units   dB.
    Raises  ValueError: the two videos differ in shape.
    """
    return np.array([from_mse(mse) for mse in per_frame_mse(video_THWC, reference_THWC)])


def per_frame_mse(video_THWC: Frames, reference_THWC: Frames) -> Series:
    """Mean squared error of each frame, over its pixels and channels.

    Shapes  both [T, H, W, 3] u8 -> [T] f64.
    Units   squared grey levels of 0..255.
    Raises  ValueError: the two videos differ in shape.
    """
    check_pair(video_THWC, reference_THWC)
    # One frame at a time: a minute of 480x832 would take 9 GB as float64.
    pairs = zip(video_THWC, reference_THWC, strict=True)
    return np.array([np.square(np.subtract(v, r, dtype=np.float64)).mean() for v, r in pairs])


def from_mse(mse: float) -> float:
    """10 log10(255² / MSE) in dB, at most CAP_DB; give a mean over frames for a clip's PSNR."""
    return min(CAP_DB, 10 * math.log10(255**2 / mse)) if mse > 0 else CAP_DB
