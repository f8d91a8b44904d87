"""Estimates seconds and disk space from earlier videos of the same model settings and length.

These sources are tried in order; only the first one with any videos is used:
own     videos of this run
method  videos of the same method with other settings or suites, under the same integration and
        attention
bf16    videos of the BF16 reference
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from glob import escape
from pathlib import Path
from statistics import fmean, median
from typing import Any

from harness.results import observations
from harness.results.older import schema_of
from harness.results.run import Run
from harness.system.errors import UserError

# The method by its name only: videos of its other settings are the second source.
ALIKE = ("model_name", "model", "method_name", "attention", "integration")


@dataclass(frozen=True)
class Estimate:
    """An estimate for one video; None if there is no source, with the reasons.

    source: `own`, `method` or `bf16`; empty if there is none.
    """

    value: float | None
    source: str
    reasons: tuple[str, ...]


def seconds(run: Run, reference: Run, device: str | None) -> Estimate:
    """Return the median `generate_s` of videos on a device, or on any if `device` is None.

    Rows that cannot be read are left out, with a reason.
    """
    reasons: dict[str, None] = {}  # dictionaries as ordered sets
    elsewhere: dict[str, None] = {}
    for source, folders in _sources(run, reference):
        found = []
        for folder in folders:
            path = folder / observations.OBSERVATIONS
            try:
                # A file of an older schema cannot be read.
                if not path.exists() or schema_of(folder) is not None:
                    continue
                timed = _read(path, path.stat().st_mtime_ns)
            except UserError as error:
                reasons[f"left out: {error}"] = None
                continue
            found += [each for where, each in timed if device in (None, where)]
            elsewhere |= dict.fromkeys(where for where, _ in timed)
        # The median, so that one odd video does not move the estimate.
        if found:
            return Estimate(median(found), source, tuple(reasons))
    # Times of another machine would mislead, so it is named but not used.
    others = f" on this device, only on {', '.join(elsewhere)}" if elsewhere else ""
    unknown = f"minutes are unknown: no earlier video of this model and length{others}"
    return Estimate(None, "", (*reasons, unknown))


def disk_bytes(run: Run, reference: Run) -> Estimate:
    """Return the mean bytes of a scored video's files: frames, pictures, trace."""
    for source, folders in _sources(run, reference):
        found = []
        # Videos with raw frames are left out: these are several times larger, and do not stay.
        for packed in (path for folder in folders for path in (folder / "videos").glob("*.mkv")):
            trace = packed.parents[1] / "trace" / f"{packed.stem}.parquet"
            files = [*packed.parent.glob(f"{escape(packed.stem)}.*"), trace]
            found.append(sum(path.stat().st_size for path in files if path.exists()))
        if found:
            return Estimate(fmean(found), source, ())
    return Estimate(
        None, "", ("disk is unknown: no earlier scored video of this model and length",)
    )


def machine(device_name: str) -> str:
    """Return the card or processor of a device name, without the number of threads."""
    return re.sub(r", \d+ threads$", "", device_name)


def _sources(run: Run, reference: Run) -> Iterator[tuple[str, list[Path]]]:
    yield "own", [run.folder]
    yield "method", _others(run)
    yield "bf16", [reference.folder, *_others(reference)]


def _others(run: Run) -> list[Path]:
    """Return the folders of other comparable runs, with any overrides, suite and seed.

    Comparable are runs with the same model, method, attention and length.
    """
    folders = []
    # By `request.json`, not by rows: it has the settings, and is there for unfinished runs too.
    pattern = f"*/{escape(run.model_name)}/*/request.json"
    for request in sorted(Path(run.results_dir).glob(pattern)):
        try:
            asked: dict[str, Any] = json.loads(request.read_text())
            # Computing the history again at switches is work too, so such runs take other seconds.
            suite = asked["suite"]
            work = suite["num_frames"], suite["switches"] if suite.get("recache") else []
        except (OSError, ValueError, LookupError, TypeError):
            continue  # an unreadable request says nothing about its videos
        alike = all(asked.get(name) == getattr(run, name) for name in ALIKE)
        alike = alike and work == (run.suite.num_frames, [*run.suite.recached])
        if alike and request.parent != run.folder:
            folders.append(request.parent)
    return folders


@cache
def _read(path: Path, modified: int) -> list[tuple[str, float]]:
    """Read machine and seconds of each video; `modified` renews the cache when a file changes."""
    # Cached, because the jobs of a sweep read the same files again and again.
    rows = observations.observations(path.parent, "failure", "generate_s", "device")
    return [
        (machine(row["device"]), row["generate_s"])
        for row in rows
        if row["failure"] is None and row["generate_s"] is not None and row["device"]
    ]
