"""Builds the table that a command prints: one line per run, one table per attention window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from harness.results.quantities import QUANTITIES
from harness.results.summary import summarize as over_videos
from harness.system.plain import plain
from harness.system.text_table import Grid
from harness.system.units import GIB, MIB


@dataclass(frozen=True)
class Line:
    """One run in the table; None for a number that was not measured.

    The numbers come from `harness.results.summary.summarize`, converted to the table's units.
    """

    method: str
    n: int
    failed: int
    ratio_same_frames: float | None
    ratio_full_length: float | None
    kv_mib: float | None
    peak_gib: float | None
    published_gib: float | None
    seconds: float | None
    psnr_db: float | None
    ssim: float | None
    lpips: float | None
    drift_psnr: float | None
    imaging: float | None
    reasons: tuple[str, ...]
    devices: tuple[str, ...] = ()
    code_versions: tuple[str, ...] = ()


COLUMNS = {  # headings are those of `harness.results.quantities`
    "method": "method",
    "n": "n",
    "ratio_same_frames": QUANTITIES["ratio_same"].heading,
    "ratio_full_length": QUANTITIES["ratio"].heading,
    "kv_mib": "KV MiB",
    "peak_gib": QUANTITIES["peak_gib"].heading,
    "published_gib": "as published",
    "seconds": QUANTITIES["runtime_s"].heading,
    "psnr_db": QUANTITIES["psnr_db"].heading,
    "ssim": QUANTITIES["ssim"].heading,
    "lpips": QUANTITIES["lpips"].heading,
    "drift_psnr": QUANTITIES["psnr_drift"].heading,
    "imaging": QUANTITIES["imaging"].heading,
}
DECIMALS = {
    "kv_mib": 2,
    "peak_gib": 3,
    "published_gib": 3,
    "seconds": 2,
    "psnr_db": 2,
    "ssim": 4,
    "lpips": 4,
    "drift_psnr": 3,
    "imaging": 4,
}
# Metrics shown in the table. Reasons of the others are in the rows, not below it.
METRICS = ("psnr", "ssim", "lpips", "vbench_imaging_quality")


@dataclass(frozen=True)
class Section:
    """Runs that may be compared: same suite, model, attention window and prompt source."""

    title: str
    lines: list[Line]


def sections(runs: Sequence[pd.DataFrame]) -> list[Section]:
    """Group runs by suite, model, attention window and prompt source, in the order given."""
    # By title: whatever keeps runs apart is named in it, so that no two tables look alike.
    found: dict[str, list[pd.DataFrame]] = {}
    for rows in runs:
        found.setdefault(title(rows), []).append(rows)
    return [Section(title, summarize(tables)) for title, tables in found.items()]


def summarize(runs: Sequence[pd.DataFrame]) -> list[Line]:
    """Return one line per run, in the order given; the peak is the largest over its videos."""
    return [_line(rows) for rows in runs]


def cells(line: Line) -> list[str]:
    """Return the text of a line's cells, in the order of COLUMNS."""
    texts = []
    for name in COLUMNS:
        value = getattr(line, name)
        # A dash is a number that was not measured; the notes below the table say why.
        if isinstance(value, float):
            texts.append(f"{value:.{DECIMALS.get(name, 2)}f}")
        else:
            texts.append("-" if value is None else str(value))
    return texts


def notes(lines: Sequence[Line]) -> list[str]:
    """Return the notes under the table: definitions, mixed machines, failures, missing values."""
    found = [
        "ratio: BF16 bytes of all frames over the bytes stored; ratio same: of the frames that are "
        "still attended",
        "runtime: text, denoise, commit and decode, device finished; peak: the largest of denoise, "
        "commit and decode over all videos",
        "PSNR, SSIM, LPIPS: lossless frames against the BF16 video of the same prompt and seed; "
        "PSNR drift: its change behind the first chunk; imaging: VBench imaging quality",
    ]
    if any(line.published_gib is not None for line in lines):
        found.append(
            "as published: the peak, measured in the study's way of building a method in "
            "(integration=published)"
        )
    # Times of different machines, or numbers of different code, do not belong into one comparison.
    for what, makers in (
        ("machines", [device for line in lines for device in line.devices]),
        ("versions of the code", [version for line in lines for version in line.code_versions]),
    ):
        several = list(dict.fromkeys(makers))
        if len(several) > 1:
            found.append(f"mixed: rows of {len(several)} {what} ({'; '.join(several)})")
    for line in lines:
        if line.failed:
            found.append(f"{line.method}: {line.failed} videos failed, see failure_reason")
    # A reason that runs share is printed once, such as weights that are not there.
    everyone = [line.method for line in lines]
    for reason in dict.fromkeys(reason for line in lines for reason in line.reasons):
        methods = [line.method for line in lines if reason in line.reasons]
        # The names of two runs are as short as "all 2 runs", and say more.
        whole = methods == everyone and len(lines) > 2
        found.append(f"{f'all {len(lines)} runs' if whole else ', '.join(methods)}: {reason}")
    return found


def print_section(section: Section) -> None:
    """Print a table and its notes to the terminal."""
    from rich.console import Console

    _grid(section).show()
    console = Console()
    for note in notes(section.lines):
        console.print(plain(note), style="dim", highlight=False, soft_wrap=True)


def markdown(section: Section) -> str:
    """Return the table and its notes as Markdown."""
    noted = "".join(f"- {plain(note)}\n" for note in notes(section.lines))
    return f"{_grid(section).markdown()}\n{noted}"


def _grid(section: Section) -> Grid:
    """Return the table; the column "as published" is dropped if no line has a value for it."""
    # Few sweeps have runs of integration=published, and an empty column only takes room.
    drop = all(line.published_gib is None for line in section.lines)
    kept = [i for i, name in enumerate(COLUMNS) if not (drop and name == "published_gib")]
    lines = [cells(line) for line in section.lines]
    header = list(COLUMNS.values())
    return Grid(section.title, [header[i] for i in kept], [[x[i] for i in kept] for x in lines])


def _line(rows: pd.DataFrame) -> Line:
    made = rows[rows["failure"].isna()]

    # A metric that was not requested has no column, and neither has one without any value.
    # Aggregate only the ten columns that the table shows: a row has some 240.
    def of(column: str, unit: float = 1.0) -> float | None:
        known = over_videos(rows[["failure", column]]) if column in rows else {}
        return known[column] / unit if column in known else None

    # Distinct reasons why values of the table are null or hard to interpret.
    columns = [*(f"{metric}_reason" for metric in METRICS), "drift_psnr_reason"]
    known_columns = [column for column in columns if column in made]
    reasons = dict.fromkeys(reason for name in known_columns for reason in made[name].dropna())
    # integration=published keeps unpacked codes and re-encodes the cache, so its peak must not
    # stand in the column of the others.
    peak = of("peak_bytes", GIB)
    published = rows["integration"].iloc[0] == "published"
    return Line(
        method=" ".join(str(rows[name].iloc[0]) for name in ("method", "settings")).strip(),
        n=len(made),
        failed=len(rows) - len(made),
        ratio_same_frames=of("kv_ratio_same_frames"),
        ratio_full_length=of("kv_ratio_full_length"),
        kv_mib=of("kv_stored_bytes", MIB),
        peak_gib=None if published else peak,
        published_gib=peak if published else None,
        seconds=of("generate_s"),
        psnr_db=of("psnr_db"),
        ssim=of("ssim"),
        lpips=of("lpips"),
        drift_psnr=of("drift_psnr_slope_db_per_s"),
        imaging=of("vbench_imaging_quality"),
        reasons=tuple(reasons),
        devices=tuple(made["device"].dropna().unique()),
        code_versions=tuple(made["code_version"].dropna().unique()),
    )


def title(rows: pd.DataFrame) -> str:
    """Return the title of a run's table: suite, model, attention window and prompt source."""
    first = rows.iloc[0]
    history = "full history" if first["contract"] == "full" else f"contract {first['contract']}"
    return f"{first['suite']}, {first['model']}, {history}, {first['prompt_source']} prompts"
