"""Which columns of our rows tell which quantity, and where to read why one is not there."""

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
    """A column of ours, what one unit of the quantity is in it, and its metric if it is a score."""

    column: str
    unit: float = 1.0
    metric: str = ""

    @property
    def word(self) -> str:
        """The metric as `metrics=[...]` takes it."""
        return self.metric.replace("vbench_", "vbench/")


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
    """The column that holds a value a second."""
    return next(each.name for each in quantity.columns() if each.kind == list[float])


# Second by second: the name of a curve, and the column of lists.
WINDOWS: Mapping[str, str] = {
    "psnr_db": _windows(Psnr.quantity),
    "ssim": _windows(Ssim().quantity),
    "lpips": _windows(Lpips().quantity),
    "imaging": "vbench_imaging_quality_windows",
    **{each.name: _windows(each) for each in Signals.quantities},
}


def values_of(rows: pd.DataFrame) -> pd.DataFrame:
    """A column a quantity, with the index of the rows; NaN where there is none."""
    known = {
        name: pd.to_numeric(rows[source.column], errors="coerce") / source.unit
        for name, source in SOURCES.items()
        if source.column in rows
    }
    found = pd.DataFrame(known, index=rows.index, dtype=float)
    if {"num_pixel_frames", "fps"} <= set(rows):
        seconds = rows["num_pixel_frames"].astype(float) / rows["fps"].astype(float)
        found["seconds_ratio"] = rows["generate_s"].astype(float) / seconds
    return found


def by_second(rows: pd.DataFrame, column: str) -> pd.Series | None:
    """Mean over videos of a column of windows, as far as all videos go; None if there is none.

    Indexed by the centres of the windows, in seconds of the video: they begin behind the first
    chunk. A window that one video has no value of is left out.
    """
    lists = list(rows[column].dropna()) if column in rows else []
    length = min(map(len, lists), default=0)
    means = (
        np.array([values[:length] for values in lists], float).mean(0) if length else np.array([])
    )
    start_s = 0.0
    if "first_chunk_pixel_frames" in rows:
        starts = (rows["first_chunk_pixel_frames"] / rows["fps"]).dropna()
        start_s = float(starts.iloc[0]) if len(starts) else 0.0
    known = pd.Series(means, index=start_s + np.arange(length) + 0.5, dtype=float).dropna()
    return known if len(known) else None


def reason(rows: pd.DataFrame, source: Source) -> str | None:
    """Why videos of one method have no value, in words; None if every one has one."""
    if not source.metric:
        return None
    if source.column not in rows:
        return f"not scored: python -m harness score <results> metrics=[{source.word}]"
    without = rows[rows[source.column].isna()]
    if without.empty:
        return None
    column = f"{source.metric}_reason"
    told = list(dict.fromkeys(without[column].dropna())) if column in without else []
    some = f" ({len(without)} of {len(rows)} videos)" if len(without) < len(rows) else ""
    return "; ".join(map(str, told or ["not scored"])) + some
