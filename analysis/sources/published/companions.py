"""Reads the small tables next to the study's observations; each may be absent."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.system.errors import UserError

DRIFT, PEAKS = "drift_points.csv", "trace_peaks.csv"
# The study's column -> our kind of memory; its GB are GiB.
TRACES = {"allocated_gb": "memory", "reserved_gb": "reserved", "compressed_kv_gb": "kv"}


def curves(folder: Path, suite: str, length_s: float) -> pd.DataFrame:
    """Read imaging quality of prefix clips: one row per length in seconds, one column per method.

    Lengths beyond the end repeat the whole video, so they become one point at its end.
    Raises  UserError: the file is there and cannot be read.
    """
    columns = ["benchmark", "method", "seconds", "imaging_quality"]
    rows = _read(folder / DRIFT, columns)
    rows = rows[rows["benchmark"] == suite]
    rows = rows.assign(seconds=rows["seconds"].clip(upper=length_s))
    # Lengths beyond the end are clipped to it, so the end would come several times.
    once = rows.drop_duplicates(["method", "seconds"])
    return once.pivot(index="seconds", columns="method", values="imaging_quality")


def maxima(folder: Path, suite: str) -> pd.DataFrame:
    """Read the largest memory of one prompt: one row per method, one column per kind, GiB.

    Raises  UserError: the file is there and cannot be read.
    """
    rows = _read(folder / PEAKS, ["benchmark", "method", *TRACES])
    rows = rows[rows["benchmark"] == suite].set_index("method")
    return rows[list(TRACES)].rename(columns=TRACES)


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read columns of a file; an absent file gives no rows."""
    # The observations are enough for all tables but those of drift and traces.
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    try:
        return pd.read_csv(path, usecols=columns)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}, which lies beside the study's observations, cannot be read "
            f"({' '.join(str(error).split())[:120]}): move it away or fetch it again"
        ) from error
