"""Reads the folder of a run: videos, prompts, settings, machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from harness.results.manifest import MANIFEST
from harness.results.observations import OBSERVATIONS
from harness.results.run import ENVIRONMENT, REQUEST
from harness.results.scores import SCORES
from harness.system import parquet
from harness.system.errors import UserError
from harness.system.files import is_no_file

OF_VIDEOS = (
    *("prompt_index", "sample", "prompt", "failure", "failure_reason", "video"),
    *("fps", "num_pixel_frames", "height", "width"),
)
SAID = {  # column of the rows -> its name on the provenance page
    "device": "machine",
    "torch_version": "torch",
    "code_version": "version of the code",
    "prompt_source": "source of the prompts",
    "weights": "weights",
    "attention_backend": "attention",
    "integration": "integration",
    "memory_source": "memory as",
}
DIGEST = "digest of the file of prompts"  # from the request, not from the rows
BYTES = {"nominal": "kv_nominal_bytes", "stored": "kv_stored_bytes", "peak": "kv_peak_bytes"}
COLUMNS = (*OF_VIDEOS, *SAID, *BYTES.values())
# Words about a method, which the card shows elsewhere, and a setting of Hydra.
LEFT_OUT = ("_convert_", "family", "source", "name")  # keys of a method's settings
FIX = "repeat the command that made this run"


@dataclass(frozen=True)
class Facts:
    """Contents of a run's folder.

    videos: one row per video with an MP4 or a failure (columns of the observations, and `mp4`:
        whether the file is there).
    made, mp4s: number of videos that were made, and of those with an MP4.
    kv_bytes: nominal, stored and peak bytes, means over videos.
    settings: the method's settings by dotted name.
    said: by the names in `SAID`, the values in the rows.
    versions: by metric, its version and weights.
    problems: files that could not be read.
    """

    videos: pd.DataFrame = field(default_factory=pd.DataFrame)
    made: int = 0
    mp4s: int = 0
    kv_bytes: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    said: Mapping[str, Sequence[str]] = field(default_factory=dict)
    versions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    packages: str = ""
    finished: str = ""
    problems: Sequence[str] = ()


def facts(folder: Path) -> Facts:
    """Read a run's folder; unreadable files are listed as problems."""
    # One damaged file must not hide the rest of the report, so collect errors instead of raising.
    problems: list[str] = []
    # A run without rows has the same columns, so that nothing below needs to ask.
    rows = pd.DataFrame(columns=list(COLUMNS))
    if (folder / OBSERVATIONS).exists():
        try:
            # Only these columns of many, since a report reads the file of every run.
            read = parquet.read(folder / OBSERVATIONS, COLUMNS, FIX)
            rows = read.to_pandas().reindex(columns=list(COLUMNS))
        except UserError as error:
            problems.append(str(error))
    request = _json(folder / REQUEST, problems)
    manifest = _json(folder / MANIFEST, problems)
    environment = _json(folder / ENVIRONMENT, problems)
    videos = folder / "videos"
    paths = sorted(videos.glob("*.mp4"))
    # A link could point to any file of this machine, and the report would publish it.
    whole = [] if videos.is_symlink() else [path for path in paths if not is_no_file(path)]
    if left := len(paths) - len(whole):
        problems.append(f"{left} MP4s in {videos} are links, which are not followed: left out")
    made = rows[rows["failure"].isna()]
    # As the rows name a video: relative to the folder, without an ending.
    stems = {f"videos/{path.stem}" for path in whole}
    mp4 = rows["video"].isin(stems) & rows["failure"].isna()
    kept = rows.assign(mp4=mp4)[mp4 | rows["failure"].notna()]
    means = {name: made[column].mean() for name, column in BYTES.items()}
    digest = request.get("suite", {}).get("sha256")
    return Facts(
        videos=kept[[*OF_VIDEOS, "mp4"]],
        made=len(made),
        mp4s=int(mp4.sum()),
        kv_bytes={name: float(mean) for name, mean in means.items() if pd.notna(mean)},
        settings=flat(request.get("method", {})),
        said={said: _distinct(rows[column]) for column, said in SAID.items()}
        | {DIGEST: [digest] if digest else []},
        versions=_versions(folder, problems),
        packages=", ".join(f"{k} {v}" for k, v in environment.get("packages", {}).items()),
        finished=str(manifest.get("finished", "")),
        problems=problems,
    )


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Flatten settings to dotted names, without empty and null ones."""
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        # Settings left at nothing are no settings; the rest is what distinguishes the method.
        elif value not in (None, "", []) and name not in LEFT_OUT:
            found[before + name] = str(value)
    return found


def _json(path: Path, problems: list[str]) -> dict[str, Any]:
    """Read a JSON file; empty if missing or damaged."""
    try:
        content = json.loads(path.read_text())
    # A run in progress has no manifest yet: that is no damage.
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        problems.append(f"{path} is damaged: {FIX}")
        return {}
    # Valid JSON of another shape would fail later, at a place that says less.
    return content if isinstance(content, dict) else {}


def _versions(folder: Path, problems: list[str]) -> dict[str, list[str]]:
    """Read each metric's version and the digests of its weights from the scores."""
    path = folder / SCORES
    if not path.exists():
        return {}
    try:
        scores = parquet.read(path, None, FIX).to_pandas()
    except UserError:
        problems.append(f"{path} is damaged: {FIX}")
        return {}
    found: dict[str, list[str]] = {}
    # A folder scored in parts may hold several versions of one metric.
    for column in (x for x in scores if x.endswith(("_version", "_weights"))):
        metric, _, kind = column.rpartition("_")
        for value in _distinct(scores[column]):
            said = value if kind == "version" else f"weights {value}"
            found.setdefault(metric, []).append(said)
    return found


def _distinct(values: pd.Series) -> list[str]:
    return [str(value) for value in values.dropna().unique()]
