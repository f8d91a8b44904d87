"""Peak signal-to-noise ratio against the BF16 video of the same prompt and seed, in dB."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from harness.results.scores import Column, Value
from harness.scoring.metrics.metric import Clip, Frames, Metric, check_pair
from harness.scoring.metrics.windows import WINDOWS, Quantity, Series, summarise

# Stands for the infinity of identical frames, so that means and tables can hold it.
CAP_DB = 100.0
FRAME_MEAN = "mean over frames of each frame's PSNR, as the published study has it"


class Psnr(Metric):
    """PSNR of the clip's mean squared error, and the mean over frames of each frame's PSNR.

    Identical frames count as CAP_DB. The mean over frames is the published study's definition.
    """

    name = "psnr"
    against_reference = True
    quantity = Quantity("psnr", "PSNR of the mean squared error", "higher", "_db", "dB", CAP_DB)

    def columns(self) -> tuple[Column, ...]:
        """Return the columns of the clip's PSNR and the mean over frames."""
        mean = Column("psnr_frame_mean_db", FRAME_MEAN, "dB", "higher")
        return (*self.quantity.columns(), mean)

    def version(self) -> str:
        """Describe the definition; no package affects it."""
        return f"8-bit RGB, every frame, {WINDOWS}, capped at {CAP_DB:g} dB"

    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        """Return the values of `columns`, in dB."""
        # Errors are averaged before the logarithm, so one identical frame cannot raise the value of
        # a whole clip; in the study's mean over frames it does.
        mse_T = per_frame_mse(*check_pair(clip, reference))
        frame_mean = float(np.mean([from_mse(mse) for mse in mse_T.tolist()]))
        row = self.quantity.row(summarise(mse_T, clip, read=from_mse, cap=CAP_DB))
        return {**row, "psnr_frame_mean_db": frame_mean}


def per_frame(video_THWC: Frames, reference_THWC: Frames) -> Series:
    """Return the PSNR of each frame in dB; shapes as in `per_frame_mse`."""
    return np.array([from_mse(mse) for mse in per_frame_mse(video_THWC, reference_THWC)])


def per_frame_mse(video_THWC: Frames, reference_THWC: Frames) -> Series:
    """Return the mean squared error of each frame, over its pixels and channels.

    Shapes  both [T, H, W, 3] u8 -> [T] f64.
    Units   squared grey levels of 0..255.
    """
    # One frame at a time: a minute of 480x832 would take 9 GB as float64.
    mse = np.empty(len(video_THWC))
    for i, (video_HWC, reference_HWC) in enumerate(zip(video_THWC, reference_THWC, strict=True)):
        # Sums of integers are exact. A dot product would be as fast only if BLAS started no
        # threads.
        apart = np.subtract(video_HWC, reference_HWC, dtype=np.int16)
        apart *= apart  # wraps modulo 2^16; squares are below 2^16, so the unsigned view is exact
        mse[i] = int(apart.view(np.uint16).sum(dtype=np.uint64)) / video_HWC.size
    return mse


def from_mse(mse: float) -> float:
    """Return 10 log10(255² / MSE) in dB, at most CAP_DB; pass the clip's mean for its PSNR."""
    return min(CAP_DB, 10 * math.log10(255**2 / mse)) if mse > 0 else CAP_DB
