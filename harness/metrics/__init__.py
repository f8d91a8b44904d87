"""Fidelity of a video to the BF16 video of the same prompt and seed, over the clip and in time.

Definitions, the same for every metric:

- *Per frame*: one value per pixel frame, from the two frames alone.
- *First chunk*: the pixel frames of the first chunk of latent frames. It is made before any
  history exists, so every method shows it exactly; averaged in, it flatters. Hence apart.
- *Rest*: all frames after the first chunk.
- *Windows*: consecutive spans of `window_s` seconds from frame 0, first chunk included. A last
  partial span stands alone if it is at least half full and else joins the span before it.
- *Slope*: least squares over (centre of window in seconds, value of window), without the windows
  that lie wholly in the first chunk. This is the drift of one clip, in units per second.
- *Means* are means of the per-frame quantity. For PSNR that is the squared error, and decibels are
  taken of the mean, so that one identical frame cannot lift a whole clip.

A value that cannot be had (no frame after the first chunk, a single window, no weights) is None;
no NaN and no infinity ever comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
Series = NDArray[np.float64]
Value = float | list[float] | str | None


@dataclass(frozen=True)
class Summary:
    """One metric of one video; None where a value cannot be had.

    Units  those of the metric; `slope_per_s` in that unit per second.
    """

    mean: float | None = None
    first_chunk: float | None = None
    rest: float | None = None
    windows: list[float] | None = None
    slope_per_s: float | None = None

    def columns(self, name: str, unit: str = "") -> dict[str, Value]:
        """Columns of a table row: `name_unit`, `name_rest_unit`, `name_slope_unit_per_s`, ..."""
        return {
            f"{name}{unit}": self.mean,
            f"{name}_first_chunk{unit}": self.first_chunk,
            f"{name}_rest{unit}": self.rest,
            f"{name}_windows{unit}": self.windows,
            f"{name}_slope{unit}_per_s": self.slope_per_s,
        }


def summarise(
    per_frame_T: Series,
    fps: float,
    first_chunk_frames: int,
    window_s: float = 1.0,
    read: Callable[[float], float] = float,
) -> Summary:
    """Means over the clip, its first chunk, the rest and each window, and the drift.

    `read` turns a mean of the per-frame quantity into what is reported: squared error to decibels.

    Shapes  per_frame_T [T] f64.
    Units   `first_chunk_frames` pixel frames, `window_s` seconds.
    Raises  ValueError: no frames, a value that is not finite, fps or window_s not positive.
    """
    if per_frame_T.size == 0 or not np.isfinite(per_frame_T).all():
        raise ValueError(f"{per_frame_T.size} per-frame values: give one or more, all finite")
    if not (fps > 0 and window_s > 0):
        raise ValueError(f"fps={fps}, window_s={window_s}: both must be positive")

    def mean(start: int, stop: int) -> float:
        return read(float(per_frame_T[start:stop].mean()))

    num_frames = len(per_frame_T)
    first = min(first_chunk_frames, num_frames)
    spans = windows(num_frames, max(1, round(window_s * fps)))
    levels = [mean(*span) for span in spans]
    drifting = [i for i, (_, stop) in enumerate(spans) if stop > first_chunk_frames]
    return Summary(
        mean=mean(0, num_frames),
        first_chunk=mean(0, first) if first else None,
        rest=mean(first, num_frames) if first < num_frames else None,
        windows=levels,
        slope_per_s=slope(
            [sum(spans[i]) / 2 / fps for i in drifting], [levels[i] for i in drifting]
        ),
    )


def windows(num_frames: int, length: int) -> list[tuple[int, int]]:
    """Consecutive spans [start, stop) of `length` frames; a last one under half full is merged.

    Twenty frames in windows of eight: (0, 8), (8, 16), (16, 20); nineteen: (0, 8), (8, 19).
    """
    num_windows = max(1, num_frames // length + (2 * (num_frames % length) >= length))
    starts = [i * length for i in range(num_windows)]
    return list(zip(starts, [*starts[1:], num_frames], strict=True))


def slope(times_s: list[float], values: list[float]) -> float | None:
    """Least-squares slope of values over time, per second; None for fewer than two points."""
    if len(times_s) < 2:
        return None
    from_middle_s = np.array(times_s) - np.mean(times_s)
    return float(from_middle_s @ np.array(values) / (from_middle_s @ from_middle_s))


def check_pair(video_THWC: Frames, reference_THWC: Frames) -> None:
    """Refuse two videos that cannot be compared frame by frame.

    Raises  ValueError: they differ in shape, or are not [T, H, W, 3] u8.
    """
    if video_THWC.shape != reference_THWC.shape:
        raise ValueError(f"video {video_THWC.shape} against reference {reference_THWC.shape}")
    for frames in (video_THWC, reference_THWC):
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
            raise ValueError(f"frames {frames.shape} {frames.dtype}: give [T, H, W, 3] uint8")


def fidelity(
    video_THWC: Frames,
    reference_THWC: Frames,
    fps: float,
    first_chunk_frames: int,
    device: str = "cpu",
) -> dict[str, Value]:
    """All fidelity metrics of one video, as the columns of a table row.

    PSNR and SSIM: higher is closer; LPIPS: lower is closer, computed on `device`, and None with a
    sentence in `lpips_reason` where it cannot be computed.

    Shapes  both [T, H, W, 3] u8 RGB, before any lossy encoding.
    Units   PSNR in dB, capped at 100; `first_chunk_frames` pixel frames.
    Raises  ValueError: the two videos differ in shape, have no frames, or are too small for SSIM.
    """
    from harness.metrics import lpips, psnr, ssim

    check_pair(video_THWC, reference_THWC)
    mse_T = psnr.per_frame_mse(video_THWC, reference_THWC)
    ssim_T = ssim.per_frame(video_THWC, reference_THWC)
    lpips_summary = Summary()
    reason = lpips.unavailable_reason(video_THWC.shape[1:3])
    if reason is None:
        lpips_T = lpips.per_frame(video_THWC, reference_THWC, device)
        if np.isfinite(lpips_T).all():
            lpips_summary = summarise(lpips_T, fps, first_chunk_frames)
        else:
            reason = (
                f"LPIPS is not finite in {(~np.isfinite(lpips_T)).sum()} of {len(lpips_T)} frames"
            )
    return {
        **summarise(mse_T, fps, first_chunk_frames, read=psnr.from_mse).columns("psnr", "_db"),
        "psnr_frame_mean_db": float(np.mean([psnr.from_mse(mse) for mse in mse_T])),
        **summarise(ssim_T, fps, first_chunk_frames).columns("ssim"),
        **lpips_summary.columns("lpips"),
        "lpips_reason": reason,
        "lpips_backbone_sha256": lpips.backbone_sha256(),
    }
