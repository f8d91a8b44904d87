"""Structural similarity to the BF16 video of the same prompt and seed, 1 for identical frames."""

from __future__ import annotations

import numpy as np

from harness.metrics import Frames, Series, check_pair


def per_frame(video_THWC: Frames, reference_THWC: Frames) -> Series:
    """SSIM of each frame, mean over the image and its channels; higher is closer.

    Source  Wang et al. 2004 as scikit-image defines it by default, which the published study used:
            a uniform 7x7 window and sample covariance. The Gaussian window of the paper gives
            other values (0.01 lower where we looked). 165 frames of 128x192 take half a second
            on one core; a thread pool gained nothing worth its lines.
    Shapes  both [T, H, W, 3] u8 -> [T] f64.
    Raises  ValueError: the two videos differ in shape, or are smaller than 7x7 pixels.
    """
    from skimage.metrics import structural_similarity

    check_pair(video_THWC, reference_THWC)
    pairs = zip(reference_THWC, video_THWC, strict=True)
    values = [structural_similarity(r, v, channel_axis=-1, data_range=255) for r, v in pairs]
    return np.array(values, dtype=np.float64)
