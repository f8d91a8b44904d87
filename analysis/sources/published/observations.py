"""Reads the published study from its observations: one section per suite, in our units.

Source  arXiv 2603.27469; one row per video, Parquet or the same as CSV. Rules for a method's
single number: a number that the run reports once is its first non-null value; the peak is the
largest of all videos; fidelity, VBench and drift are the study's own aggregates, because 190
videos lack values of their own; seconds are the run's mean, else the mean of its videos.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.section import VIDEO, Method, Section, Setting
from analysis.sources.published.companions import curves, maxima
from harness.results.quantities import QUANTITIES
from harness.system.errors import UserError
from harness.system.units import GIB

REFERENCE = "BF16"
SOURCE = "arXiv 2603.27469"
FPS, SECONDS = 16, 165 / 16  # of every video
PHASES = (
    "text encoding, denoising and decoding, the clock stopped without waiting for the device; not "
    "loading, noise, writing the video, nor FlowCache's profiling pass"
)

# Not in the file: the study describes it, and `compare` checks our runs against it.
SETTING = Setting("self_forcing", "official", ["NVIDIA RTX A5000"], 165, 480, 832)
# The integration whose codes are unpacked (docs/published.md).
BUILD = "published"
REMARKS = {
    "peak_gib": "peak: the study's GB are GiB (2^30 bytes); from the second prompt on it includes "
    "0.744 GiB of the video before",
    "psnr_frame_mean_db": "PSNR frame mean inf: one frame of one video equals BF16's",
    "drift_last": "drift last is no drift but imaging quality of the last prefix clip, encoded "
    "once more",
    "traces": "of memory over time only the largest values of one prompt are published",
}


@dataclass(frozen=True)
class Column:
    """Columns of a quantity: for the whole run and for a video, and the video column's unit."""

    run: str
    video: str
    unit: float = 1.0


COLUMNS = {
    "ratio": Column("compression_ratio", "compression_ratio"),
    "kv_gib": Column("compressed_kv_bytes", "compressed_kv_bytes", GIB),
    "peak_gib": Column("", "peak_vram_bytes", GIB),
    "runtime_s": Column("run_avg_runtime_s_per_prompt", "wall_time_sec"),
    "psnr_frame_mean_db": Column("psnr_agg", "psnr"),
    "ssim": Column("ssim_agg", "ssim"),
    "lpips": Column("lpips_agg", "lpips"),
    "background": Column("background_consistency_agg", "background_consistency"),
    "imaging": Column("imaging_quality_agg", "imaging_quality", 100.0),
    "subject": Column("subject_consistency_agg", "subject_consistency"),
    "aesthetic": Column("aesthetic_quality_agg", "aesthetic_quality"),
    "drift_last": Column("drift_last_agg", "drift_last_video", 100.0),
}
WORDS = ["benchmark", "method", "family"]
NUMBERS = list(
    dict.fromkeys(["prompt_index", *(x for c in COLUMNS.values() for x in (c.run, c.video) if x)])
)


def sections(observations: Path) -> list[Section]:
    """Read the study's suites in the order of the file, BF16 first in each.

    Raises  UserError: no such file, not a table, other columns, or no rows.
    """
    rows = read(observations)
    return [
        _section(str(suite), part, observations.parent)
        for suite, part in rows.groupby("benchmark", sort=False)
    ]


def read(path: Path) -> pd.DataFrame:
    """Read the observations unchanged and check the columns that are needed.

    Raises  UserError: see `sections`.
    """
    try:
        rows = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except FileNotFoundError as error:
        raise _refused(path, "no such file") from error
    except (OSError, ValueError, EOFError, zlib.error) as error:  # of pandas, pyarrow, gzip
        raise _refused(path, f"cannot be read: {' '.join(str(error).split())[:120]}") from error
    # Check here what the readers below take for granted, so that any other file gives a sentence.
    missing = [name for name in (*WORDS, *NUMBERS) if name not in rows]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise _refused(path, f"is another table, without {', '.join(missing[:3])}{more}")
    if rows.empty:
        raise _refused(path, "has no rows")
    words = [name for name in NUMBERS if not pd.api.types.is_numeric_dtype(rows[name].dtype)]
    if words:
        raise _refused(path, f"has words for numbers in {', '.join(words[:3])}")
    # Two rows of one video would weigh its prompt twice in every mean.
    twice = rows[rows.duplicated(["benchmark", "method", "prompt_index"])]
    if len(twice):
        first = twice.iloc[0]
        said = f"{first['benchmark']} {first['method']} prompt {first['prompt_index']}"
        raise _refused(path, f"has two rows of one video ({said})")
    return rows


def _refused(path: Path, why: str) -> UserError:
    return UserError(
        f"the study's data {path}: {why}; give its observations, a row a video (.parquet or "
        ".csv.gz), as --observations <file> or in the environment as HARNESS_PUBLISHED"
    )


def _section(suite: str, rows: pd.DataFrame, folder: Path) -> Section:
    names = list(dict.fromkeys(map(str, rows["method"])))
    # A stable sort: the others keep the study's order.
    names.sort(key=lambda name: name != REFERENCE)
    # The study made one video of each prompt: sample 0.
    index = pd.MultiIndex.from_arrays(
        [rows["method"].astype(str), rows["prompt_index"], [0] * len(rows)],
        names=["method", *VIDEO],
    )
    videos = {name: rows[column.video] / column.unit for name, column in COLUMNS.items()}
    videos["seconds_ratio"] = videos["runtime_s"] / SECONDS
    values = _values(rows).reindex(names)
    # The drift and the traces are files of their own, next to the observations.
    drift, large = curves(folder, suite, SECONDS), maxima(folder, suite)
    remarks = dict(REMARKS)
    # The study measured most methods at the end of the video only.
    single = [name for name in drift if drift[name].notna().sum() == 1]
    if drift.empty:
        remarks["curves"] = "no drift_points.csv beside the observations, so no curves of drift"
    elif single:
        remarks["curves"] = (
            f"{len(single)} of {drift.shape[1]} methods have one point of drift only"
        )
    if large.empty:
        remarks["traces"] = "no trace_peaks.csv beside the observations"
    grouped = dict(list(rows.groupby("method", sort=False)))
    # Not published, so the longest run tells how many videos were asked for.
    # The study's partial methods ran out of memory after some prompts.
    wanted = max(map(len, grouped.values()))
    return Section(
        title=f"{suite}, Wan2.1-T2V-1.3B self-forcing, 480x832, published study ({SOURCE})",
        suite=suite,
        is_published=True,
        methods={name: _method(name, grouped[name], values.T[name], wanted) for name in names},
        values=values,
        videos=pd.DataFrame(videos).astype(float).set_index(index),
        reference=REFERENCE if REFERENCE in names else None,
        setting=SETTING,
        curves={} if drift.empty else {"drift_last": drift[[x for x in names if x in drift]]},
        trace_maxima=large,
        seconds_generated=SECONDS,
        phases=PHASES,
        notes=[] if REFERENCE in names else [f"no {REFERENCE} to hold the others against"],
        remarks=remarks,
    )


def _values(rows: pd.DataFrame) -> pd.DataFrame:
    """Reduce each quantity to one number per method, by the study's rules."""
    grouped = rows.groupby("method", sort=False)
    found = {
        # A column of its own for the run holds our unit already; a shared one holds the video's.
        name: grouped[column.run].first() / (column.unit if column.run == column.video else 1.0)
        for name, column in COLUMNS.items()
        if column.run
    }
    # The study reports no peak of a run.
    found["peak_gib"] = grouped["peak_vram_bytes"].max() / GIB
    # Some runs report no mean of their own.
    found["runtime_s"] = found["runtime_s"].fillna(grouped["wall_time_sec"].mean())
    found["seconds_ratio"] = found["runtime_s"] / SECONDS
    values = pd.DataFrame(found).astype(float)
    values.index = values.index.astype(str)
    return values[[name for name in QUANTITIES if name in values]]


def _method(name: str, rows: pd.DataFrame, values: pd.Series, num_wanted: int) -> Method:
    # The study lists no failures; a run with fewer rows than the longest one stopped early.
    stopped = len(rows) < num_wanted
    why = "not published" + (f", its run made {len(rows)} of {num_wanted} videos" * stopped)
    return Method(
        name=name,
        row=name,
        family=str(rows["family"].iloc[0]),
        num_videos=len(rows),
        build=BUILD,
        source=f"{SOURCE}, row {name}",
        num_wanted=num_wanted,
        reasons={str(key): why for key in values.index[values.isna()]},
    )
