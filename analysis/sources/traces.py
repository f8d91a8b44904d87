"""Reads memory over time and at the peak of one video, from the traces of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from analysis.section import Trace
from harness.system import parquet
from harness.system.errors import UserError
from harness.system.units import GIB

PROCESS = "in_use"  # memory of the whole process; the other components are parts of it
BESIDE = ("scratch", "active")  # working memory of attention and denoising, not history


@dataclass(frozen=True)
class Traced:
    """Traces of one video, the one that most methods have; empty without any.

    said: names the video. damaged: traces that could not be read, with the fix.
    """

    traces: Mapping[str, Mapping[str, Trace]] = field(default_factory=dict)
    components: pd.DataFrame = field(default_factory=pd.DataFrame)
    said: str = ""
    damaged: Sequence[str] = ()


def traced(folders: Mapping[str, Path], key: Sequence[str]) -> Traced:
    """Read the traces of the video that most methods have a trace of.

    folders: run folders by method name. key: the columns that identify a video.
    """
    # A stem names prompt and sample.
    stems = Counter(
        path.stem for folder in folders.values() for path in (folder / "trace").glob("*.parquet")
    )
    if not stems:
        return Traced()
    # All methods show the same video, so that their traces compare.
    stem = min(stems, key=lambda each: (-stems[each], each))  # of equals the first prompt
    tables, damaged = {}, []
    for name, folder in folders.items():
        path = folder / "trace" / f"{stem}.parquet"
        try:
            # A method that lacks this video has no line; its other videos do not compare.
            if path.exists():
                fix = f"remove it: rm {path}; a trace is drawn, not counted"
                tables[name] = parquet.read(path, None, fix).to_pandas()
        except UserError as error:
            damaged.append(f"{name}: no trace, {error}")
    if not tables:
        return Traced(damaged=damaged)
    over_time = {
        "kv": {name: _trace(table, is_kv=True) for name, table in tables.items()},
        "memory": {name: _trace(table, is_kv=False) for name, table in tables.items()},
    }
    at_peak: dict[str, pd.Series] = {}
    for name, table in tables.items():
        # `peak_bytes` of the observations leaves out the text phase; both must give the same peak.
        peaks = table[(table["moment"] == "peak") & (table["phase"] != "text")]
        at_peak[name] = pd.Series(dtype=float)
        if len(peaks):
            # Components add up within a phase only: phases peak at different moments.
            largest = peaks.groupby("phase")["bytes"].sum().idxmax()
            of_phase = peaks[peaks["phase"] == largest]
            at_peak[name] = of_phase.groupby("component")["bytes"].sum() / GIB
    first = next(iter(tables.values())).iloc[0]
    said = ", ".join(f"{name.replace('_index', '')} {first[name]}" for name in key)
    return Traced(over_time, pd.DataFrame(at_peak).T.fillna(0.0), said, damaged)


def _trace(table: pd.DataFrame, is_kv: bool) -> Trace:
    """Return the bytes of history, or of the whole process, after each chunk."""
    points = table[table["moment"] == "chunk"]
    whole = points["component"] == PROCESS
    # With guidance every component appears once per branch, as `cond.codes`.
    kinds = points["component"].str.rpartition(".")[2]  # without the name of a guidance branch
    chosen = points[~whole & ~kinds.isin(BESIDE)] if is_kv else points[whole]
    # Components and guidance branches of one moment are rows of their own.
    sums = chosen.groupby("time_s")["bytes"].sum() / GIB
    return Trace(sums.index.to_numpy(float), sums.to_numpy(float))
