"""What earlier videos of the same shape took: seconds, and bytes on disk.

Of the same shape are videos of one model with all its settings and one length. Whose videos they
are is tried in this order, and the first that has any counts alone: the run's own, those of its
method under other settings or suites (built in and attended alike), those of the BF16 reference.
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

ALIKE = ("model_name", "model", "method_name", "attention", "integration")


@dataclass(frozen=True)
class Estimate:
    """A number for one video; None where nothing tells it, with the reasons.

    source: `own`, `method` or `bf16`, whose videos told it; empty where none did.
    """

    value: float | None
    source: str
    reasons: tuple[str, ...]


def seconds(run: Run, reference: Run, device: str | None) -> Estimate:
    """The median `generate_s` of a video on a device; on any where that is None.

    Rows that cannot be read are left out, with a reason.
    """
    reasons: dict[str, None] = {}
    elsewhere: dict[str, None] = {}
    for source, folders in _sources(run, reference):
        found = []
        for folder in folders:
            try:
                timed = _timed(folder)
            except UserError as error:
                reasons[f"left out: {error}"] = None
                continue
            found += [each for where, each in timed if device in (None, where)]
            elsewhere |= dict.fromkeys(where for where, _ in timed)
        if found:
            return Estimate(median(found), source, tuple(reasons))
    others = f" on this device, only on {', '.join(elsewhere)}" if elsewhere else ""
    unknown = f"minutes are unknown: no earlier video of this model and length{others}"
    return Estimate(None, "", (*reasons, unknown))


def disk_bytes(run: Run, reference: Run) -> Estimate:
    """The mean bytes of a scored video's files: frames, pictures, trace."""
    for source, folders in _sources(run, reference):
        found = [size for folder in folders for size in _sizes(folder)]
        if found:
            return Estimate(fmean(found), source, ())
    return Estimate(
        None, "", ("disk is unknown: no earlier scored video of this model and length",)
    )


def machine(device_name: str) -> str:
    """The card or processor of a row, without the number of threads."""
    return re.sub(r", \d+ threads$", "", device_name)


def _sources(run: Run, reference: Run) -> Iterator[tuple[str, list[Path]]]:
    yield "own", [run.folder]
    yield "method", _others(run)
    yield "bf16", [reference.folder, *_others(reference)]


def _others(run: Run) -> list[Path]:
    """Folders of other runs that are alike, whatever their settings, suite and seeds."""
    pattern = f"*/{escape(run.model_name)}/*/request.json"
    return [
        path.parent
        for path in sorted(Path(run.results_dir).glob(pattern))
        if path.parent != run.folder and _is_alike(run, path)
    ]


def _is_alike(run: Run, request: Path) -> bool:
    """Whether a run left this request; one that cannot be read is of no known shape."""
    try:
        asked: dict[str, Any] = json.loads(request.read_text())
        num_frames = asked["suite"]["num_frames"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    if num_frames != run.suite.num_frames:
        return False
    return all(asked.get(name) == getattr(run, name) for name in ALIKE)


def _timed(folder: Path) -> list[tuple[str, float]]:
    """Where each video of a run was made, and its seconds."""
    path = folder / observations.OBSERVATIONS
    if not path.exists() or schema_of(folder) is not None:
        return []
    return _read(path, path.stat().st_mtime_ns)


@cache
def _read(path: Path, modified: int) -> list[tuple[str, float]]:
    """The jobs of a sweep ask for the same files again and again."""
    rows = observations.observations(path.parent, "failure", "generate_s", "device")
    return [
        (machine(row["device"]), row["generate_s"])
        for row in rows
        if row["failure"] is None and row["generate_s"] is not None and row["device"]
    ]


def _sizes(folder: Path) -> Iterator[int]:
    """Bytes of each video that has been packed; raw frames would count several times that."""
    for packed in (folder / "videos").glob("*.mkv"):
        trace = folder / "trace" / f"{packed.stem}.parquet"
        files = [*packed.parent.glob(f"{escape(packed.stem)}.*"), trace]
        yield sum(path.stat().st_size for path in files if path.exists())
