"""Maps quantities to columns of our rows, and to the columns that explain missing values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.scoring.metrics.lpips import Lpips
from harness.scoring.metrics.psnr import Psnr
from harness.scoring.metrics.signals import Signals
from harness.scoring.metrics.ssim import Ssim
from harness.scoring.metrics.windows import Quantity
from harness.system.units import GIB


@dataclass(frozen=True)
class Source:
    """Column that holds a quantity.

    unit: size of the quantity's unit in units of the column.
    metric: the metric that computes the column; empty if it is no score.
    """

    column: str
    unit: float = 1.0
    metric: str = ""

    @property
    def word(self) -> str:
        """The metric's name as `metrics=[...]` takes it."""
        return self.metric.replace("vbench_", "vbench/")


# A column's name says definition and unit, and may change with the schema. A quantity's name stands
# in commands and presets.
SOURCES: Mapping[str, Source] = {
    "ratio": Source("kv_ratio_full_length"),
    "ratio_same": Source("kv_ratio_same_frames"),
    "kv_gib": Source("kv_stored_bytes", GIB),
    "peak_gib": Source("peak_bytes", GIB),
    "runtime_s": Source("generate_s"),
    "psnr_db": Source("psnr_db", metric="psnr"),
    "psnr_frame_mean_db": Source("psnr_frame_mean_db", metric="psnr"),
    "psnr_rest_db": Source("psnr_rest_db", metric="psnr"),
    "ssim": Source("ssim", metric="ssim"),
    "lpips": Source("lpips", metric="lpips"),
    "background": Source("vbench_background_consistency", metric="vbench_background_consistency"),
    "imaging": Source("vbench_imaging_quality", metric="vbench_imaging_quality"),
    "subject": Source("vbench_subject_consistency", metric="vbench_subject_consistency"),
    "aesthetic": Source("vbench_aesthetic_quality", metric="vbench_aesthetic_quality"),
    "drift_last": Source("drift_published", metric="drift_published"),
    "imaging_drift": Source(
        "drift_vbench_imaging_quality_last_minus_first", metric="vbench_imaging_quality"
    ),
    "psnr_drift": Source("drift_psnr_slope_db_per_s", metric="psnr"),
}


def _windows(quantity: Quantity) -> str:
    """Find the column that holds one value per second."""
    return next(each.name for each in quantity.columns() if each.kind == list[float])


# Curve name -> column whose cells are lists with one value per second.
# The metrics name these columns, so that a renamed one is found at import.
WINDOWS: Mapping[str, str] = {
    "psnr_db": _windows(Psnr.quantity),
    "ssim": _windows(Ssim().quantity),
    "lpips": _windows(Lpips().quantity),
    "imaging": "vbench_imaging_quality_windows",
    **{each.name: _windows(each) for each in Signals.quantities},
}


def values_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one column per quantity, with the index of the rows; NaN if missing."""
    # Null and text both count as missing.
    known = {
        name: pd.to_numeric(rows[source.column], errors="coerce") / source.unit
        for name, source in SOURCES.items()
        if source.column in rows
    }
    found = pd.DataFrame(known, index=rows.index, dtype=float)
    if {"num_pixel_frames", "fps"} <= set(rows):
        # Time per second of video compares runs of different lengths.
        seconds = rows["num_pixel_frames"].astype(float) / rows["fps"].astype(float)
        found["seconds_ratio"] = rows["generate_s"].astype(float) / seconds
    return found


def by_second(rows: pd.DataFrame, column: str) -> pd.Series | None:
    """Average a column of per-second lists over videos, up to the shortest list; None without any.

    The index holds the centres of the windows in seconds of the video; the first window begins
    after the first chunk. A window that has no value in some video is left out.
    """
    # Videos that failed or were not scored have no list.
    lists = list(rows[column].dropna()) if column in rows else []
    # A mean over fewer videos at the end would show their difference as drift.
    length = min(map(len, lists), default=0)
    means = (
        np.array([values[:length] for values in lists], float).mean(0) if length else np.array([])
    )
    start_s = 0.0
    if "first_chunk_pixel_frames" in rows:
        # All videos of a run have one length of the first chunk.
        starts = (rows["first_chunk_pixel_frames"] / rows["fps"]).dropna()
        start_s = float(starts.iloc[0]) if len(starts) else 0.0
    known = pd.Series(means, index=start_s + np.arange(length) + 0.5, dtype=float).dropna()
    return known if len(known) else None


def reason(rows: pd.DataFrame, source: Source) -> str | None:
    """Explain why videos of one method have no value; None if all have one."""
    # Counted or timed columns are there whenever a video was made.
    if not source.metric:
        return None
    if source.column not in rows:
        return f"not scored: python -m harness score <results> metrics=[{source.word}]"
    without = rows[rows[source.column].isna()]
    if without.empty:
        return None
    column = f"{source.metric}_reason"
    reasons = list(dict.fromkeys(without[column].dropna())) if column in without else []
    some = f" ({len(without)} of {len(rows)} videos)" if len(without) < len(rows) else ""
    return "; ".join(map(str, reasons or ["not scored"])) + some
